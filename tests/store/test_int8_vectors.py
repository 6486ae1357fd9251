"""Vectors are quantised to int8 as a slow quantiser does it, and a sample says what that keeps."""

import numpy as np
import pytest

from ctxbatch.store.int8_fidelity import Int8Fidelity, Int8Sample, Int8Sums
from ctxbatch.store.int8_vectors import Int8Vectors
from tests.helpers.int8 import quantised

SMALLEST = 1e-45


# --- the quantiser --------------------------------------------------------------------------------


def hard_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(700, 16)).astype(np.float32)
    rows[1] = 0
    rows[2] = -0.0
    rows[3, 5] = 1e30
    rows[4] = 1e38
    rows[5] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 63.5] * 2  # halves go to the even neighbour
    rows[6] = 1e-41
    rows[7] = [SMALLEST, -SMALLEST] * 8
    rows[8] = [SMALLEST * 100, -SMALLEST * 60] * 8
    rows[9] = [-127, *[126.5] * 15]
    rows[10:60] *= 10.0 ** rng.integers(-37, 37, (50, 1))
    return rows


def test_vectors_are_quantised_as_one_value_at_a_time():
    rows = hard_rows()
    got = Int8Vectors.of(rows.copy())
    for row, values, scale in zip(rows, got.values_ND, got.scale_N, strict=True):
        right, right_scale = quantised(row)
        assert (values.tolist(), scale) == (right, right_scale)
    assert got.values_ND[5].tolist() == [127, 0, 2, 2, 0, -2, -2, 64] * 2
    assert got.values_ND.min() >= -127 and got.sound
    assert not got.values_ND[[1, 2, 7]].any() and not got.scale_N[[1, 2, 7]].any()


def test_a_value_comes_back_within_half_a_step():
    rows = hard_rows()
    got = Int8Vectors.of(rows.copy())
    assert got[:].dtype == np.float32 and np.isfinite(got[:]).all()
    normal = np.abs(rows).max(axis=1) > 1e-35  # the scales of smaller rows are rounded
    error = np.abs(got[:].astype(np.float64) - rows)[normal]
    assert (error <= 0.5 * got.scale_N[normal, None].astype(np.float64) * (1 + 1e-4)).all()
    assert np.array_equal(got[:][[9, 3]], got[np.array([9, 3])])
    assert np.array_equal(got[:][650:], got[650:])


def test_the_largest_numbers_come_back_finite():
    largest = np.finfo(np.float32).max
    rows = np.array([[largest, -largest, 0], [np.nextafter(largest, 0), 1, 1]], np.float32)
    got = Int8Vectors.of(rows.copy())
    assert got.values_ND.tolist() == [[127, -127, 0], [127, 0, 0]]
    assert np.allclose(got[:], rows, rtol=1e-6, atol=largest / 254)


def test_no_rows_are_no_trouble():
    got = Int8Vectors.of(np.empty((0, 8), np.float32))
    assert len(got) == 0 and got[:].shape == (0, 8) and got.sound


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_scales_that_are_none_are_not_sound(scale):
    assert not Int8Vectors(np.zeros((2, 4), np.int8), np.array([1, scale], np.float32)).sound
    assert not Int8Vectors(np.full((1, 4), -128, np.int8), np.ones(1, np.float32)).sound


# --- what it keeps --------------------------------------------------------------------------------


def slow_sums(rows):
    """Return the sums of a sample, row by row in float64."""
    pairs = [
        (row.astype(np.float64), np.array(quantised(row)[0], np.float64)) for row in rows[:512] if row.any()
    ]
    units = [tuple(each / np.linalg.norm(each) for each in pair) for pair in pairs]
    found = [float(one @ other) for one, other in units]
    before, after = (np.array(side) for side in zip(*units, strict=True))
    queries = np.linspace(0, len(units) - 1, 64).astype(int)
    kept = 0
    for query in queries:
        exact, rounded = before @ before[query], after @ after[query]
        order = [row for row in np.argsort(-rounded) if row != query][:10]
        tenth = sorted((score for row, score in enumerate(exact) if row != query), reverse=True)[9]
        kept += sum(exact[row] >= tenth - 1e-6 for row in order)
    return Int8Sums(len(units), sum(found), min(found), 640, int(kept))


def test_a_sample_is_compared_as_row_by_row():
    rows = np.random.default_rng(3).normal(size=(900, 12)).astype(np.float32)
    rows[:, 0] *= 30  # so that little is kept
    rows[5] = 0
    sample = Int8Sample()
    for part in np.split(rows, [100, 450]):
        sample.add(part)
    got, right = sample.sums(), slow_sums(rows)
    assert (got.rows, got.neighbours) == (right.rows, right.neighbours) == (511, 640)
    assert got.kept == pytest.approx(right.kept, abs=1) and right.kept < 600
    assert got.cosine == pytest.approx(right.cosine, rel=1e-6)
    assert got.worst == pytest.approx(right.worst, abs=1e-6)


def test_equal_vectors_stay_neighbours():
    rows = np.repeat(np.random.default_rng(4).normal(size=(20, 8)).astype(np.float32), 25, axis=0)
    sample = Int8Sample()
    sample.add(rows)
    assert sample.sums().kept == sample.sums().neighbours == 640


def test_samples_of_shards_add_up_and_zeros_say_nothing():
    sample = Int8Sample()
    sample.add(np.zeros((30, 4), np.float32))
    assert sample.sums() == Int8Sums()
    assert Int8Fidelity.of("static", [sample.sums()]) is None
    both = [Int8Sums(2, 1.9, 0.9, 0, 0), Int8Sums(30, 29.9, 0.95, 300, 297)]
    assert Int8Fidelity.of("static", both) == Int8Fidelity("static", 32, round(31.8 / 32, 6), 0.9, 0.99)
    assert Int8Fidelity.of("static", both[:1]).neighbours is None
