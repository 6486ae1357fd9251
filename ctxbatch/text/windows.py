"""Cuts sentences that are too long for a model into windows, and chooses the window of each word.

Pure functions. Array names end in the letters of their shape: S sentences, N words, W windows, C windows
that a word may come from.
"""

import math
from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Ints
from ctxbatch.text.words import Pieces, Words


def window_starts(n_pieces: int, size: int) -> Ints:
    """Return the first piece of each window. The stride is half the size; the last ends with the sentence."""
    if n_pieces <= size:
        return np.zeros(1, np.int64)
    stride = max(1, size // 2)
    starts = np.arange(0, n_pieces - size + stride, stride, dtype=np.int64)
    return np.minimum(starts, n_pieces - size)


def choose_windows(first_N: Ints, n_pieces_N: Ints, n_pieces: int, size: int) -> Ints:
    """Return the window of each word: it holds the word whole, and its nearest cut edge is farthest away.

    The ends of the sentence are not cuts; ties go to the earlier window.

    Args:
        first_N: First piece of each word.
        n_pieces_N: Number of pieces of each word.
        n_pieces: Pieces of the sentence.
        size: Pieces of a window.

    Returns:
        Shape (N,): index into `window_starts`, -1 where no window holds the word whole. It never
        decreases from word to word.
    """
    starts_W = window_starts(n_pieces, size)
    stride = max(1, size // 2)
    # Windows overlap by half, so a word can only be in the last window that starts before it, in the
    # two before that, and in the last of all, which may start off the stride.
    newest_N = np.searchsorted(starts_W, first_N, side="right") - 1
    candidates_NC = newest_N[:, None] + np.arange(-math.ceil(size / stride), 1)
    start_NC = starts_W[np.clip(candidates_NC, 0, None)]
    far = np.iinfo(np.int64).max
    left_NC = np.where(start_NC == 0, far, first_N[:, None] - start_NC)
    end_NC = start_NC + size
    right_NC = np.where(end_NC >= n_pieces, far, end_NC - (first_N + n_pieces_N)[:, None])
    margin_NC = np.minimum(left_NC, right_NC)
    holds_NC = (candidates_NC >= 0) & ((first_N + n_pieces_N)[:, None] <= end_NC)
    margin_NC = np.where(holds_NC, margin_NC, -1)
    best_N = margin_NC.argmax(axis=1)[:, None]
    chosen_N = np.take_along_axis(candidates_NC, best_N, 1)[:, 0]
    return np.where(np.take_along_axis(margin_NC, best_N, 1)[:, 0] >= 0, chosen_N, -1)


@dataclass(frozen=True, slots=True)
class Windows:
    """The first piece and the length of each window, and the window of each word (-1: none)."""

    start_W: Ints
    length_W: Ints
    window_N: Ints


def cut_windows(pieces: Pieces, words: Words, size: int) -> Windows:
    """Cut every sentence into windows, and choose the window of every word (-1: none)."""
    n_pieces_S = np.diff(pieces.bounds_S)
    long_S = np.flatnonzero(n_pieces_S > size)
    if not len(long_S):
        return Windows(pieces.bounds_S[:-1], n_pieces_S, words.sentence_N)
    n_windows_S = np.ones(len(n_pieces_S), np.int64)
    starts_of = {int(number): window_starts(int(n_pieces_S[number]), size) for number in long_S}
    n_windows_S[long_S] = [len(starts) for starts in starts_of.values()]
    first_window_S = np.cumsum(n_windows_S) - n_windows_S
    start_W = np.repeat(pieces.bounds_S[:-1], n_windows_S)
    length_W = np.minimum(np.repeat(n_pieces_S, n_windows_S), size)
    window_N = first_window_S[words.sentence_N]
    for number, starts in starts_of.items():
        start_W[first_window_S[number] : first_window_S[number] + len(starts)] += starts
        mine = slice(*np.searchsorted(words.sentence_N, [number, number + 1]))
        first_N = words.first_N[mine] - pieces.bounds_S[number]
        chosen_N = choose_windows(first_N, words.n_pieces_N[mine], int(n_pieces_S[number]), size)
        chosen_N = _in_order(chosen_N, first_N, words.n_pieces_N[mine], starts, size)
        window_N[mine] = np.where(chosen_N < 0, -1, chosen_N + first_window_S[number])
    return Windows(start_W, length_W, window_N)


def _in_order(chosen_N: Ints, first_N: Ints, n_pieces_N: Ints, starts_W: Ints, size: int) -> Ints:
    """Return windows none of which is earlier than that of the word before; -1 where that cuts the word.

    Only marked spans that overlap can be out of order.
    """
    if not (np.diff(chosen_N) < 0).any():
        return chosen_N
    later_N = np.maximum.accumulate(chosen_N)
    start_N = starts_W[np.maximum(later_N, 0)]
    is_held_N = (chosen_N >= 0) & (start_N <= first_N) & (first_N + n_pieces_N <= start_N + size)
    return np.where(is_held_N, later_N, -1)
