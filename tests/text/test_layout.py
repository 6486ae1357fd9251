"""Every window has its place in one batch: rows hold no more than fits, and share only where that pays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxbatch.text.layout import lay_out, lay_out_equally

lengths = st.lists(st.integers(3, 200), min_size=1, max_size=120).map(np.array)
budgets = st.sampled_from([1, 64, 100, 256, 1024])


def slots(layouts):
    return sum(each.n_rows * each.width for each in layouts)


def fill_slowly(lengths, width):
    """Fill rows with the longest windows that still fit; return the windows of each row."""
    left, rows = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)), []
    while left:
        free, row = max(width, lengths[left[0]]), []
        while fitting := [n for n in left if lengths[n] <= free]:
            row.append(fitting[0])
            left.remove(fitting[0])
            free -= lengths[fitting[0]]
        rows.append(row)
    return rows


def rows_of(layouts):
    """Return the windows of each row, in order."""
    return [
        [int(w) for w, row in zip(each.windows_V, each.row_V, strict=True) if row == number]
        for each in layouts
        for number in range(each.n_rows)
    ]


@given(lengths=lengths, budget=budgets, shared=st.booleans())
def test_every_window_lies_in_one_batch_and_overlaps_no_other(lengths, budget, shared):
    layouts = lay_out(lengths, budget, shared=shared)
    assert sorted(np.concatenate([each.windows_V for each in layouts])) == list(range(len(lengths)))
    for each in layouts:
        used = np.zeros(each.n_rows * each.width, int)
        for window, start in zip(each.windows_V, each.start_V, strict=True):
            used[start : start + lengths[window]] += 1
            assert start // each.width == (start + lengths[window] - 1) // each.width
        assert used.sum() == lengths[each.windows_V].sum()
        assert used.max() == 1
        assert used.reshape(each.n_rows, each.width).any(axis=0).all(), "the batch is wider than its rows"


@given(lengths=lengths, budget=budgets, shared=st.booleans())
def test_a_batch_exceeds_its_budget_only_for_a_window_that_does(lengths, budget, shared):
    for each in lay_out(lengths, budget, shared=shared):
        assert each.n_rows * each.width <= budget or len(each.windows_V) == 1


@given(lengths=lengths, budget=budgets)
def test_rows_are_those_of_one_of_the_widths_filled_longest_first(lengths, budget):
    possible = [fill_slowly(lengths, width) for width in (0, 64, 80, 96, 128) if width <= budget]
    assert rows_of(lay_out(lengths, budget, shared=True)) in possible
    assert rows_of(lay_out(lengths, budget, shared=False)) == possible[0]


def test_windows_that_cannot_fill_a_row_together_share_none():
    assert all(len(row) == 1 for row in rows_of(lay_out(np.full(50, 70), 1024, shared=True)))


@pytest.mark.parametrize("seed", range(5))
def test_sharing_leaves_little_to_pad_whatever_the_lengths(seed):
    lengths = np.random.default_rng(seed).gamma(4, 8, 400).astype(int).clip(4, 120)
    assert slots(lay_out(lengths, 1024, shared=True)) < 1.03 * lengths.sum()
    assert slots(lay_out(lengths, 1024, shared=False)) > 1.04 * lengths.sum()


@given(lengths=lengths, budget=budgets)
def test_equal_parts_hold_every_window_once_longest_first(lengths, budget):
    layouts = lay_out_equally(lengths, budget)
    laid = np.concatenate([each.windows_V for each in layouts])
    assert sorted(laid) == list(range(len(lengths)))
    assert (np.diff(lengths[laid]) <= 0).all()
    assert all(each.width == lengths[each.windows_V].max() for each in layouts)
