"""Makes rows of a batch's hidden states with numpy: pooling, salience, and which rows are the most salient.

The numpy twin of `ctxbatch.model.pooling` and `ctxbatch.model.salience`, for CPUs without torch. Letters of
shapes: B windows, H heads, T tokens, E dimensions of a head, N rows, R rows that are kept, M wordpieces of
rows, D hidden size.
"""

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Mask, Vectors
from ctxbatch.choices import Pooling
from ctxbatch.text.batching import TokenBatch
from ctxbatch.text.words import ranges

Array = npt.NDArray[np.float32]


def pooled(hidden_BTD: Array, batch: TokenBatch, pooling: Pooling, *, only_theirs: bool = False) -> Array:
    """Return the rows' vectors, (N, D): the mean of a row's wordpieces, or the first of them.

    Args:
        hidden_BTD: Hidden states of the batch's tokens; (1, M, D) if only of the rows' wordpieces.
        batch: The batch.
        pooling: ``mean``, or else the first wordpiece stands for its row.
        only_theirs: Whether the hidden states are only those of the rows' wordpieces, row after row.
    """
    hidden_SD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    first_N = batch.first_N
    positions_M = np.arange(len(hidden_SD)) if only_theirs else batch.positions_M
    vectors_ND: Array = hidden_SD[positions_M[first_N]]
    if pooling == "mean" and len(positions_M) > len(first_N):
        several = np.flatnonzero(batch.n_pieces_N > 1)
        counts = batch.n_pieces_N[several]
        pieces_SD = hidden_SD[positions_M[ranges(first_N[several], counts)]]
        total = np.add.reduceat(pieces_SD, np.cumsum(counts) - counts, axis=0)
        vectors_ND[several] = total / counts[:, None].astype(np.float32)
    return vectors_ND


def finite(vectors_CRD: Vectors) -> Mask:
    """Mark the rows, (R,), all of whose values are finite.

    By their bits: the exponent of infinities and NaN is all ones. Comparing half floats is ten times as slow.
    """
    kind, exponent = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}[vectors_CRD.itemsize]
    bits_CRD = vectors_CRD.view(kind) & kind(exponent)
    rows_R: Mask = bits_CRD.max(axis=(0, 2)) != exponent
    return rows_R


def salience(
    query_BHTE: Array, key_BHTE: Array, mask: Array | None, batch: TokenBatch, head: int | None
) -> Array:
    """Return the attention that rows receive, (N,): their wordpieces' shares of all tokens added up.

    Args:
        query_BHTE: Queries of one layer, scaled.
        key_BHTE: Its keys.
        mask: What is added to scores, (B, 1, T, T); ``None`` where nothing is.
        batch: The batch.
        head: The head to look at, from 1; the mean of all if not given.
    """
    tokens_BT = batch.window_BT >= 0
    heads = range(query_BHTE.shape[1]) if head is None else (head - 1,)
    received_BT = np.zeros(tokens_BT.shape, np.float32)
    for number in heads:  # head by head, because all at once can be gigabytes
        scores_BTT = query_BHTE[:, number] @ key_BHTE[:, number].transpose(0, 2, 1)
        if mask is not None:
            scores_BTT += mask[:, number if mask.shape[1] > 1 else 0]
        scores_BTT -= scores_BTT.max(axis=2, keepdims=True)
        probabilities_BTT = np.exp(scores_BTT, out=scores_BTT)
        probabilities_BTT /= probabilities_BTT.sum(axis=2, keepdims=True)
        received_BT += (probabilities_BTT * tokens_BT[:, :, None]).sum(axis=1)
    received_BT /= len(heads)
    first_N = batch.first_N
    summed: Array = np.add.reduceat(received_BT.ravel()[batch.positions_M], first_N)
    return summed


def most_salient(salience_N: Array, batch: TokenBatch) -> npt.NDArray[np.int64]:
    """Return the rows to keep of each sentence, (R,), as `ctxbatch.model.pooling.KeptRows` does."""
    by_salience_N = np.argsort(-salience_N, kind="stable")
    by_sentence_N = by_salience_N[np.argsort(batch.sentence_N[by_salience_N], kind="stable")]
    return by_sentence_N[batch.places_R]
