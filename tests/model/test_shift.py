"""The shifts are what their definitions say, in numpy and in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctxbatch.model import shift
from tests.helpers import oracle

floats = st.floats(-50, 50, width=32) | st.sampled_from([0.0, -0.0, 1e-3, -1e-3, 1e-35, -1e-35])
pairs = hnp.arrays(np.float32, (2, 16), elements=floats)


@pytest.mark.parametrize("floor", [1e-3, 0.1])
@given(pair=pairs)
def test_log_ratio_is_the_log_of_the_quotient_where_it_is_defined_and_zero_elsewhere(pair, floor):
    contextual, static = pair
    found = shift.log_ratio(contextual, static, np, floor=floor)
    floor = float(np.float32(floor))
    np.testing.assert_allclose(found, oracle.log_ratio(contextual, static, floor), atol=1e-5)


def test_log_ratio_without_a_floor_is_the_articles_rule():
    contextual = np.array([2.0, -2.0, 2.0, 0.0, 3.0, 1e-30, 1e30], np.float32)
    static = np.array([1.0, -1.0, -1.0, 1.0, 0.0, 1e-35, 1e-35], np.float32)
    with np.errstate(all="ignore"):
        article = np.log(contextual / static)
        article[~np.isfinite(article)] = 0
        found = shift.log_ratio(contextual, static, np, floor=0.0)
    np.testing.assert_allclose(found, article, rtol=1e-6)
    assert found[4] == 0  # an infinite ratio becomes 0 too


@given(pair=pairs)
def test_asinh_follows_its_definition(pair):
    contextual, static = pair
    found = shift.asinh(contextual, static, np, delta=0.1)
    np.testing.assert_allclose(
        found, oracle.asinh(contextual.astype(float), static.astype(float), 0.1), atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "options"), [("log_ratio", {"floor": 1e-3}), ("asinh", {"delta": 0.1}), ("difference", {})]
)
@given(pair=pairs)
def test_torch_and_numpy_give_the_same(name, options, pair):
    function = shift.SHIFTS[name]
    in_torch = function(*map(torch.from_numpy, pair), xp=torch, **options).numpy()
    np.testing.assert_allclose(in_torch, function(*pair, xp=np, **options), atol=1e-6)
    assert in_torch.dtype == np.float32


def test_difference_is_the_difference():
    np.testing.assert_array_equal(shift.difference(np.array([3.0]), np.array([1.0]), np), [2.0])
