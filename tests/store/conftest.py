import pytest

import ctxbatch
from ctxbatch import RunConfig


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory):
    """A function that runs a text of three shards."""
    path = tmp_path_factory.mktemp("short") / "short.txt"
    path.write_text("".join(f"{n}: I want an apple.\n" for n in range(60)))

    def run(out):
        return ctxbatch.run(path, out, RunConfig(model=str(tiny()), shard_size=450, workers=1))

    return run
