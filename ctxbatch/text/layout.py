"""Lays windows into rows of tokens, and rows into batches: where each stands, nothing of what is in it.

A row holds one window, or several that share it, each blind to the others. Windows that share rows leave
little to pad, and batches of one shape, which a CPU takes less time to begin.

Array names end in the letters of their shape: W windows, V windows of a batch.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Ints

# How long shared rows may be. 0: no row is shared.
_WIDTHS = (0, 64, 80, 96, 128)
# A token takes this share longer for every token of its row: of all-MiniLM-L6-v2 in bf16 on a Zen 4.
_ATTENTION = 1 / 1400
# A batch takes as long as so many tokens before the first is computed, and longer if its shape is another
# than that of the batch before.
_BATCH, _SHAPE = 20, 25


@dataclass(frozen=True, slots=True)
class Layout:
    """The windows of a batch, ``n_rows`` rows of ``width`` tokens.

    ``windows_V`` says which windows they are, ``row_V`` and ``begin_V`` where each begins.
    """

    windows_V: Ints
    row_V: Ints
    begin_V: Ints
    n_rows: int
    width: int

    @property
    def start_V(self) -> Ints:
        """Where each window begins among all tokens of the batch."""
        return self.row_V * self.width + self.begin_V


@dataclass(frozen=True, slots=True)
class _Rows:
    """Windows laid into rows, the longest rows first; R rows, and W windows in their order.

    ``bounds_R`` says which windows are in which row, ``filled_R`` how many of its ``room_R`` tokens they
    take.
    """

    order_W: Ints
    begin_W: Ints
    bounds_R: Ints
    room_R: Ints
    filled_R: Ints


def lay_out(length_W: Ints, budget: int, *, shared: bool) -> list[Layout]:
    """Return batches of padded rows within a token budget, longest rows first.

    Args:
        length_W: The windows' tokens, special tokens included.
        budget: The most tokens of a batch, padding included. A longer window is a batch alone.
        shared: Whether windows may share rows. They do if all batches together are expected to take less
            time so.
    """
    widths = [width for width in _WIDTHS if width <= budget] if shared else [0]
    layouts = [list(_batches(_fill(length_W, width), budget)) for width in widths]
    return min(layouts, key=_cost)


def lay_out_equally(length_W: Ints, budget: int) -> list[Layout]:
    """Return batches of about equally many tokens, each window in a row, longest first.

    For windows that are packed, whose padding is not computed: a batch can exceed the budget by less than a
    window. A small rest would take a GPU as long as a whole batch.
    """
    order_W = np.argsort(-length_W, kind="stable")
    if not len(order_W):
        return []
    n_tokens = int(length_W.sum())
    size = -(-n_tokens // -(-n_tokens // budget))
    part_W = (np.cumsum(length_W[order_W]) - 1) // size
    parts = np.split(order_W, np.flatnonzero(np.diff(part_W)) + 1)
    return [
        Layout(part, np.arange(len(part)), np.zeros_like(part), len(part), int(length_W[part[0]]))
        for part in parts
    ]


def _cost(layouts: Sequence[Layout]) -> float:
    """Return about how long batches take, in tokens."""
    shapes = [(each.n_rows, each.width) for each in layouts]
    n_shapes = sum(1 for before, after in itertools.pairwise([None, *shapes]) if before != after)
    computed = sum(n_rows * width * (1 + width * _ATTENTION) for n_rows, width in shapes)
    return computed + _BATCH * len(shapes) + _SHAPE * n_shapes


def _fill(length_W: Ints, width: int) -> _Rows:
    """Fill rows, each with the longest windows that still fit; a row is as long as its first, if need be."""
    waiting = np.bincount(length_W).tolist()
    lengths: list[int] = []  # of the windows as they are laid down, runs of the same length
    times: list[int] = []
    bounds, room, filled, n_laid = [0], [], [], 0
    longest = len(waiting) - 1
    while n_laid < len(length_W):
        while not waiting[longest]:
            longest -= 1
        free = size = max(width, longest)
        length = longest
        while length:
            if n := min(waiting[length], free // length):
                waiting[length] -= n
                lengths.append(length)
                times.append(n)
                n_laid += n
                free -= n * length
            length = _next(waiting, min(length - 1, free))
        bounds.append(n_laid)
        room.append(size)
        filled.append(size - free)
    laid_W, bounds_R = np.repeat(lengths, times).astype(np.int64), np.array(bounds)
    before_W = np.cumsum(laid_W) - laid_W
    begin_W = before_W - np.repeat(before_W[bounds_R[:-1]], np.diff(bounds_R))
    # Of the windows of one length, the first ones are laid down first.
    order_W = np.empty(len(length_W), np.int64)
    order_W[np.argsort(-laid_W, kind="stable")] = np.argsort(-length_W, kind="stable")
    return _Rows(order_W, begin_W, bounds_R, np.array(room), np.array(filled))


def _next(waiting: Sequence[int], length: int) -> int:
    """Return the greatest length up to one of which windows wait, or 0."""
    while length and not waiting[length]:
        length -= 1
    return length


def _batches(rows: _Rows, budget: int) -> Iterator[Layout]:
    """Cut rows into batches."""
    first, n_rows = 0, len(rows.filled_R)
    while first < n_rows:
        end = min(n_rows, first + max(1, budget // int(rows.room_R[first])))
        width = int(rows.filled_R[first:end].max())
        inside = slice(rows.bounds_R[first], rows.bounds_R[end])
        row_V = np.repeat(np.arange(end - first), np.diff(rows.bounds_R[first : end + 1]))
        yield Layout(rows.order_W[inside], row_V, rows.begin_W[inside], end - first, width)
        first = end
