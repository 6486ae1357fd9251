"""Pooling: from tokens' hidden states to rows' vectors, of all rows of a batch or of the most salient ones.

Owns which tokens stand for a row. Everything here runs on the model's device. Tensor names end in the
letters of their shape: B windows, T tokens, N rows, R rows among them that are kept, M wordpieces of rows,
P wordpieces of the longest row, D hidden size.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from ctxbatch.config import Pooling


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
    be waited for: every row is taken to have as many wordpieces as the longest.

    Args:
        positions_M: Wordpieces of all rows, row after row, as indices into the flattened (B * T).
        first_N: Where in ``positions_M`` each row begins.
        pooling: Whether the mean of a row's pieces or the first of them stands for it.
        salience: Says the salience of all rows, (N,).
        sentence_N: The sentence of each row.
        places_R: Which rows are kept: their places among rows ordered by sentence and falling salience.
        numbers_P: 0, 1, 2, …: a number for every piece that the longest row has.
    """

    def __init__(
        self,
        positions_M: Tensor,
        first_N: Tensor,
        pooling: Pooling,
        salience: Callable[[], Tensor],
        sentence_N: Tensor,
        places_R: Tensor,
        numbers_P: Tensor,
    ) -> None:
        self._positions_M = positions_M
        self._first_N = first_N
        self._pooling = pooling
        self._salience = salience
        self._sentence_N = sentence_N
        self._places_R = places_R
        self._numbers_P = numbers_P

    @cached_property
    def kept_R(self) -> Tensor:
        """Which rows are kept: as indices into the batch's."""
        by_salience_N = torch.argsort(self._salience(), descending=True, stable=True)
        by_sentence_N = by_salience_N[torch.argsort(self._sentence_N[by_salience_N], stable=True)]
        return by_sentence_N[self._places_R]

    @cached_property
    def _n_pieces_R(self) -> Tensor:
        end = self._first_N.new_full((1,), self._positions_M.shape[0])
        return torch.diff(self._first_N, append=end)[self.kept_R]

    @cached_property
    def _tokens_RP(self) -> Tensor:
        """The rows' tokens; the first again where a row has fewer than the longest."""
        number_RP = torch.where(self._numbers_P < self._n_pieces_R[:, None], self._numbers_P, 0)
        return self._positions_M[self._first_N[self.kept_R][:, None] + number_RP]

    def narrowed(self, hidden_BTD: Tensor) -> Tensor:
        """The hidden states of the rows' tokens alone, as one window (1, R * P, D)."""
        return hidden_BTD.flatten(0, 1)[self._tokens_RP.flatten()][None]

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """The rows' vectors, (R, D) in fp32."""
        return self.pooled_from_narrowed(self.narrowed(hidden_BTD))

    def pooled_from_narrowed(self, narrowed_BSD: Tensor) -> Tensor:
        """The rows' vectors, (R, D) in fp32, from hidden states as `narrowed` orders them."""
        n_rows, n_pieces = self._tokens_RP.shape
        hidden_RPD = narrowed_BSD.reshape(n_rows, n_pieces, -1).float()
        if self._pooling == "first":
            return hidden_RPD[:, 0]
        counts_RP = self._numbers_P < self._n_pieces_R[:, None]
        return (hidden_RPD * counts_RP[:, :, None]).sum(dim=1) / self._n_pieces_R[:, None]
