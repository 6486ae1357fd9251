"""Pools the hidden states of tokens into vectors of rows: of all rows of a batch, or the most salient ones.

Owns which tokens stand for a row. Everything here runs on the model's device. Tensor names end in the
letters of their shape: B windows, T tokens, N rows, R rows among them that are kept, M wordpieces of rows,
S slots for the tokens of kept rows, D hidden size.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from ctxbatch.choices import Pooling


class AllRows:
    """All rows of a batch.

    Args:
        positions_M: Their wordpieces, row after row, as indices into the flattened (B * T).
        first_N: Where in ``positions_M`` each row begins.
        pooling: ``mean`` for the mean of a row's pieces, else the first of them.
    """

    def __init__(self, positions_M: Tensor, first_N: Tensor, pooling: Pooling) -> None:
        self._positions_M = positions_M
        self._first_N = first_N
        self._pooling = pooling

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """Return the rows' vectors, (N, D) in fp32."""
        hidden_SD = hidden_BTD.flatten(0, 1)
        if self._pooling == "mean":
            return nn.functional.embedding_bag(
                self._positions_M, hidden_SD.float(), self._first_N, mode="mean"
            )
        return hidden_SD[self._positions_M[self._first_N]].float()


class KeptRows:
    """The most salient rows of each sentence of a batch, known only once attention has been computed.

    No shape depends on a value, so that a program can be compiled and nobody waits for a GPU: there are as
    many slots as the kept rows can have tokens.

    Args:
        positions_M: Wordpieces of all rows, row after row, as indices into the flattened (B * T).
        first_N: Where in ``positions_M`` each row begins.
        pooling: ``mean`` for the mean of a row's pieces, else the first of them.
        salience: Returns the salience of all rows, (N,).
        sentence_N: The sentence of each row.
        places_R: The places of the kept rows among rows ordered by sentence and falling salience.
        slots_S: 0, 1, 2, …: a number for every token that the kept rows can have.
    """

    def __init__(
        self,
        positions_M: Tensor,
        first_N: Tensor,
        pooling: Pooling,
        salience: Callable[[], Tensor],
        sentence_N: Tensor,
        places_R: Tensor,
        slots_S: Tensor,
    ) -> None:
        self._all = AllRows(positions_M, first_N, pooling)
        self._positions_M = positions_M
        self._first_N = first_N
        self._pooling = pooling
        self._salience = salience
        self._sentence_N = sentence_N
        self._places_R = places_R
        self._slots_S = slots_S

    @cached_property
    def kept_R(self) -> Tensor:
        """The kept rows, as indices into the rows of the batch."""
        by_salience_N = torch.argsort(self._salience(), descending=True, stable=True)
        by_sentence_N = by_salience_N[torch.argsort(self._sentence_N[by_salience_N], stable=True)]
        return by_sentence_N[self._places_R]

    @cached_property
    def _length_R(self) -> Tensor:
        """The number of slots of each row: one for every token that is pooled."""
        if self._pooling == "first":
            return torch.ones_like(self.kept_R)
        end = self._first_N.new_full((1,), self._positions_M.shape[0])
        return torch.diff(self._first_N, append=end)[self.kept_R]

    @cached_property
    def _end_R(self) -> Tensor:
        """The slot behind the last token of each row."""
        return self._length_R.cumsum(0)

    def narrowed(self, hidden_BTD: Tensor) -> Tensor:
        """Return the hidden states of only the rows' tokens, in slots, as one window (1, S, D)."""
        # Slots left over repeat the last token of the last row.
        slot_S = torch.minimum(self._slots_S, self._end_R[-1] - 1)
        row_S = torch.searchsorted(self._end_R, slot_S, right=True)
        begin_R = self._end_R - self._length_R  # a slice of length R - 1 would not compile
        piece_S = self._first_N[self.kept_R][row_S] + slot_S - begin_R[row_S]
        return hidden_BTD.flatten(0, 1)[self._positions_M[piece_S]][None]

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """Return the rows' vectors, (R, D) in fp32."""
        return self._all.pooled(hidden_BTD)[self.kept_R]

    def pooled_from_narrowed(self, narrowed_BSD: Tensor) -> Tensor:
        """Return the rows' vectors, (R, D) in fp32, from hidden states in the order of `narrowed`."""
        begin = torch.nn.functional.pad(self._end_R, (1, 0))  # the last row takes the slots left over
        pooled = nn.functional.embedding_bag(self._slots_S, narrowed_BSD[0].float(), begin, mode="mean")
        return pooled[:-1]
