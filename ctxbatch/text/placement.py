"""Places windows in sequences of tokens, and sequences in batches: knows their lengths, not their tokens.

A sequence holds one window, or several that share it, each blind to the others. Windows that share sequences
leave little to pad, and make batches of one shape, which a CPU takes less time to begin.

Array names end in the letters of their shape: W windows, V windows of a batch, Q sequences.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Ints

# How long shared sequences may be. 0: none is shared.
_LENGTHS = (0, 64, 80, 96, 128)
# A token takes this share longer for every token of its sequence: of all-MiniLM-L6-v2 in bf16 on a Zen 4.
_ATTENTION = 1 / 1400
# A batch takes as long as so many tokens before the first is computed, and longer if its shape is another
# than that of the batch before.
_BATCH, _SHAPE = 20, 25


@dataclass(frozen=True, slots=True)
class Placement:
    """The windows of a batch, in ``n_sequences`` sequences of ``longest`` tokens.

    ``windows_V`` says which windows they are, ``sequence_V`` and ``begin_V`` where each begins.
    """

    windows_V: Ints
    sequence_V: Ints
    begin_V: Ints
    n_sequences: int
    longest: int

    @property
    def starts_V(self) -> Ints:
        """Where each window begins among all tokens of the batch."""
        return self.sequence_V * self.longest + self.begin_V


@dataclass(frozen=True, slots=True)
class _Filled:
    """Windows in sequences, the longest sequences first.

    ``order_W`` is the order of the windows, ``begin_W`` where each begins in its sequence. ``bounds_Q`` says
    which of them a sequence holds, ``filled_Q`` how many of its ``room_Q`` tokens they take.
    """

    order_W: Ints
    begin_W: Ints
    bounds_Q: Ints
    room_Q: Ints
    filled_Q: Ints


def place(length_W: Ints, budget: int, *, shared: bool) -> list[Placement]:
    """Return batches of padded sequences within a token budget, longest sequences first.

    Args:
        length_W: The windows' tokens, special tokens included.
        budget: The most tokens of a batch, padding included. A longer window is a batch alone.
        shared: Whether windows may share sequences. They do if the batches should take less time so.
    """
    lengths = [length for length in _LENGTHS if length <= budget] if shared else [0]
    return min((list(_batches(_fill(length_W, length), budget)) for length in lengths), key=_cost)


def place_equally(length_W: Ints, budget: int) -> list[Placement]:
    """Return batches of about equally many tokens, each window a sequence, longest first.

    For windows that are packed, whose padding is not computed: a batch can exceed the budget by less than a
    window. A small rest would take a GPU as long as a whole batch.
    """
    if not len(length_W):
        return []
    order_W = np.argsort(-length_W, kind="stable")
    n_tokens = int(length_W.sum())
    size = -(-n_tokens // -(-n_tokens // budget))
    part_W = (np.cumsum(length_W[order_W]) - 1) // size
    return [
        Placement(part, np.arange(len(part)), np.zeros_like(part), len(part), int(length_W[part[0]]))
        for part in np.split(order_W, np.flatnonzero(np.diff(part_W)) + 1)
    ]


def _cost(batches: Sequence[Placement]) -> float:
    """Return about how long batches take, in tokens."""
    shapes = [(each.n_sequences, each.longest) for each in batches]
    n_changes = sum(1 for before, shape in itertools.pairwise([None, *shapes]) if before != shape)
    computed = sum(n * longest * (1 + longest * _ATTENTION) for n, longest in shapes)
    return computed + _BATCH * len(shapes) + _SHAPE * n_changes


def _fill(length_W: Ints, length: int) -> _Filled:
    """Fill sequences of a length, each with the longest windows that still fit.

    A sequence whose first window is longer is as long as that.
    """
    waiting = np.bincount(length_W).tolist()
    lengths: list[int] = []  # of the windows as they are placed, in runs
    times: list[int] = []
    bounds, room, filled, n_placed = [0], [], [], 0
    longest = len(waiting) - 1
    while n_placed < len(length_W):
        longest = _next(waiting, longest)
        free, fitting = max(length, longest), longest
        room.append(free)
        while fitting:
            n = min(waiting[fitting], free // fitting)
            waiting[fitting] -= n
            lengths.append(fitting)
            times.append(n)
            n_placed += n
            free -= n * fitting
            fitting = _next(waiting, min(fitting - 1, free))
        bounds.append(n_placed)
        filled.append(room[-1] - free)
    placed_W, bounds_Q = np.repeat(lengths, times).astype(np.int64), np.array(bounds)
    before_W = np.cumsum(placed_W) - placed_W
    begin_W = before_W - np.repeat(before_W[bounds_Q[:-1]], np.diff(bounds_Q))
    # Of the windows of one length, the first ones are placed first.
    order_W = np.empty(len(length_W), np.int64)
    order_W[np.argsort(-placed_W, kind="stable")] = np.argsort(-length_W, kind="stable")
    return _Filled(order_W, begin_W, bounds_Q, np.array(room), np.array(filled))


def _next(waiting: Sequence[int], length: int) -> int:
    """Return the greatest length up to one of which windows wait, or 0."""
    while length and not waiting[length]:
        length -= 1
    return length


def _batches(filled: _Filled, budget: int) -> Iterator[Placement]:
    """Cut sequences into batches."""
    first, n_sequences = 0, len(filled.room_Q)
    while first < n_sequences:
        end = min(n_sequences, first + max(1, budget // int(filled.room_Q[first])))
        inside = slice(filled.bounds_Q[first], filled.bounds_Q[end])
        sequence_V = np.repeat(np.arange(end - first), np.diff(filled.bounds_Q[first : end + 1]))
        longest = int(filled.filled_Q[first:end].max())
        yield Placement(filled.order_W[inside], sequence_V, filled.begin_W[inside], end - first, longest)
        first = end
