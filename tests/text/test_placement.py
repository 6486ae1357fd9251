"""Every window has its place in one batch; windows share a sequence where they fit and where it pays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxbatch.text.placement import place, place_equally

lengths = st.lists(st.integers(3, 200), min_size=1, max_size=120).map(np.array)
budgets = st.sampled_from([1, 64, 100, 256, 1024])


def n_slots(batches):
    return sum(each.n_sequences * each.longest for each in batches)


def fill_slowly(lengths, length):
    """Fill sequences with the longest windows that still fit; return the windows of each."""
    left, sequences = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)), []
    while left:
        free, its = max(length, lengths[left[0]]), []
        while fitting := [n for n in left if lengths[n] <= free]:
            its.append(fitting[0])
            left.remove(fitting[0])
            free -= lengths[fitting[0]]
        sequences.append(its)
    return sequences


def sequences_of(batches):
    """Return the windows of each sequence, in order."""
    return [
        [int(w) for w, its in zip(each.windows_V, each.sequence_V, strict=True) if its == number]
        for each in batches
        for number in range(each.n_sequences)
    ]


@given(lengths=lengths, budget=budgets, shared=st.booleans())
def test_every_window_lies_in_one_batch_and_overlaps_no_other(lengths, budget, shared):
    batches = place(lengths, budget, shared=shared)
    assert sorted(np.concatenate([each.windows_V for each in batches])) == list(range(len(lengths)))
    for each in batches:
        used = np.zeros(each.n_sequences * each.longest, int)
        for window, start in zip(each.windows_V, each.starts_V, strict=True):
            used[start : start + lengths[window]] += 1
            assert start // each.longest == (start + lengths[window] - 1) // each.longest
        assert used.sum() == lengths[each.windows_V].sum()
        assert used.max() == 1
        assert used.reshape(each.n_sequences, each.longest).any(axis=0).all(), (
            "the batch is longer than its sequences"
        )


@given(lengths=lengths, budget=budgets, shared=st.booleans())
def test_a_batch_exceeds_its_budget_only_for_a_window_that_does(lengths, budget, shared):
    for each in place(lengths, budget, shared=shared):
        assert each.n_sequences * each.longest <= budget or len(each.windows_V) == 1


@given(lengths=lengths, budget=budgets)
def test_sequences_are_of_one_of_the_lengths_and_filled_longest_first(lengths, budget):
    possible = [fill_slowly(lengths, length) for length in (0, 64, 80, 96, 128) if length <= budget]
    assert sequences_of(place(lengths, budget, shared=True)) in possible
    assert sequences_of(place(lengths, budget, shared=False)) == possible[0]


def test_windows_that_cannot_fill_a_sequence_together_share_none():
    assert all(len(its) == 1 for its in sequences_of(place(np.full(50, 70), 1024, shared=True)))


@pytest.mark.parametrize("seed", range(5))
def test_sharing_leaves_little_to_pad_whatever_the_lengths(seed):
    lengths = np.random.default_rng(seed).gamma(4, 8, 400).astype(int).clip(4, 120)
    assert n_slots(place(lengths, 1024, shared=True)) < 1.03 * lengths.sum()
    assert n_slots(place(lengths, 1024, shared=False)) > 1.04 * lengths.sum()


@given(lengths=lengths, budget=budgets)
def test_equal_parts_hold_every_window_once_longest_first(lengths, budget):
    batches = place_equally(lengths, budget)
    laid = np.concatenate([each.windows_V for each in batches])
    assert sorted(laid) == list(range(len(lengths)))
    assert (np.diff(lengths[laid]) <= 0).all()
    assert all(each.longest == lengths[each.windows_V].max() for each in batches)
