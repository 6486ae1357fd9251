"""Long sentences are cut into windows by the definition, every word once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxbatch.text.windows import choose_windows, window_starts
from tests.helpers import oracle


@given(n_pieces=st.integers(1, 400), size=st.integers(1, 60))
def test_windows_equal_the_definition(n_pieces, size):
    starts = window_starts(n_pieces, size)
    expected = oracle.cut_windows(n_pieces, size)
    assert [(int(s), min(int(s) + size, n_pieces)) for s in starts] == expected


@given(
    lengths=st.lists(st.integers(1, 12) | st.integers(1, 70), min_size=1, max_size=120),
    size=st.integers(1, 60),
)
def test_every_word_comes_from_the_window_that_the_definition_names(lengths, size):
    n_pieces = np.array(lengths)
    first = np.cumsum(n_pieces) - n_pieces
    total = int(n_pieces.sum())
    windows = oracle.cut_windows(total, size)
    expected = [
        oracle.best_window(windows, int(f), int(f + n), total) for f, n in zip(first, n_pieces, strict=True)
    ]
    chosen = choose_windows(first, n_pieces, total, size)
    assert [None if w < 0 else int(w) for w in chosen] == expected


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=120), size=st.integers(1, 60))
def test_windows_of_words_never_go_back(lengths, size):
    n_pieces = np.array(lengths)
    chosen = choose_windows(np.cumsum(n_pieces) - n_pieces, n_pieces, int(n_pieces.sum()), size)
    assert (np.diff(chosen[chosen >= 0]) >= 0).all()


@pytest.mark.parametrize(("n_pieces", "starts"), [(10, [0]), (11, [0, 1]), (15, [0, 5]), (16, [0, 5, 6])])
def test_last_window_ends_with_the_sentence(n_pieces, starts):
    assert window_starts(n_pieces, 10).tolist() == starts
