from functools import partial

import pytest

from tests.helpers.layered import layered_store


@pytest.fixture(scope="module")
def make(tmp_path_factory, tiny):
    return partial(layered_store, tmp_path_factory, tiny())
