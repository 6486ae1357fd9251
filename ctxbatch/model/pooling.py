"""Pooling: from tokens' hidden states to rows' vectors, of all rows of a batch or of the most salient ones.

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
    """The rows of a batch, all of them kept.

    Args:
        positions_M: Their wordpieces, row after row, as indices into the flattened (B * T).
        first_N: Where in ``positions_M`` each row begins.
        pooling: Whether the mean of a row's pieces or the first of them stands for it.
    """

    def __init__(self, positions_M: Tensor, first_N: Tensor, pooling: Pooling) -> None:
        self._positions_M = positions_M
        self._first_N = first_N
        self._pooling = pooling

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """The rows' vectors, (N, D) in fp32."""
        hidden_SD = hidden_BTD.flatten(0, 1)
        if self._pooling == "mean":
            return nn.functional.embedding_bag(
                self._positions_M, hidden_SD.float(), self._first_N, mode="mean"
            )
        return hidden_SD[self._positions_M[self._first_N]].float()


class KeptRows:
    """The most salient rows of each sentence of a batch, which are known once attention has been seen.

    All shapes come from outside and none from a value, so that a program can be compiled and a GPU need not
    be waited for: there are as many slots for tokens as the kept rows can have at most.

    Args:
        positions_M: Wordpieces of all rows, row after row, as indices into the flattened (B * T).
        first_N: Where in ``positions_M`` each row begins.
        pooling: Whether the mean of a row's pieces or the first of them stands for it.
        salience: Says the salience of all rows, (N,).
        sentence_N: The sentence of each row.
        places_R: Which rows are kept: their places among rows ordered by sentence and falling salience.
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
        """Which rows are kept: as indices into the batch's."""
        by_salience_N = torch.argsort(self._salience(), descending=True, stable=True)
        by_sentence_N = by_salience_N[torch.argsort(self._sentence_N[by_salience_N], stable=True)]
        return by_sentence_N[self._places_R]

    @cached_property
    def _length_R(self) -> Tensor:
        """How many slots each row takes: one for every token that is pooled."""
        if self._pooling == "first":
            return torch.ones_like(self.kept_R)
        end = self._first_N.new_full((1,), self._positions_M.shape[0])
        return torch.diff(self._first_N, append=end)[self.kept_R]

    @cached_property
    def _end_R(self) -> Tensor:
        """The slot behind the last token of each row."""
        return self._length_R.cumsum(0)

    def narrowed(self, hidden_BTD: Tensor) -> Tensor:
        """The hidden states of the rows' tokens alone, in slots, as one window (1, S, D)."""
        # The last row's last token again in slots that are left over.
        slot_S = torch.minimum(self._slots_S, self._end_R[-1] - 1)
        row_S = torch.searchsorted(self._end_R, slot_S, right=True)
        begin_R = self._end_R - self._length_R  # of a slice, R - 1 long, no program could be compiled
        piece_S = self._first_N[self.kept_R][row_S] + slot_S - begin_R[row_S]
        return hidden_BTD.flatten(0, 1)[self._positions_M[piece_S]][None]

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """The rows' vectors, (R, D) in fp32."""
        return self._all.pooled(hidden_BTD)[self.kept_R]

    def pooled_from_narrowed(self, narrowed_BSD: Tensor) -> Tensor:
        """The rows' vectors, (R, D) in fp32, from hidden states as `narrowed` orders them."""
        begin = torch.nn.functional.pad(self._end_R, (1, 0))  # with a last row of what is left over
        pooled = nn.functional.embedding_bag(self._slots_S, narrowed_BSD[0].float(), begin, mode="mean")
        return pooled[:-1]
