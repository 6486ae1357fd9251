"""Gives every sentence one vector: the mean over its rows, or that of its most salient word.

Array names end in the letters of their shape: N rows, K rows that count, S sentences, D hidden size.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Floats, Ints, Mask, as_floats
from ctxbatch.choices import SENTENCE_VECTORS, SentenceVector
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.store.arrow_files import ArrowFile
from ctxbatch.store.columns import Column
from ctxbatch.store.commits import damaged
from ctxbatch.text.sampling import most_salient

# How many sentences are yielded, and how many rows are read at a time: they bound the memory.
_SENTENCES = 4096
_ROWS = 8192


def sentence_vectors(
    by: SentenceVector, config: ResolvedConfig, column: Column, files: Iterable[ArrowFile]
) -> Iterator[tuple[Ints, Floats]]:
    """Yield the sentence_ids (S,) of sentences that have rows, and a vector of each, (S, D), in order.

    Args:
        by: ``mean``: the mean over all rows of a sentence. ``salient``: over those of its most salient word,
            the first of equals; it has several rows if each wordpiece is one.
        config: What the store holds.
        column: The vectors of all rows. They are averaged as they are, whatever their lengths.
        files: Each shard's words.arrow, in order; no sentence lies in two.

    Raises:
        InputError: There is no such way, or it needs salience and the store has none.
        StoreError: A file is damaged.
    """
    if by not in SENTENCE_VECTORS:
        raise InputError(f"by={by!r} must be one of {', '.join(SENTENCE_VECTORS)}")
    if by == "salient" and config.salience_layer is None:
        raise InputError(
            "the store holds no salience, so it cannot say which word of a sentence is the most salient: run "
            "with --salience and another -o, or take by='mean'"
        )
    return _of_shards(by, column, files)


def _of_shards(
    by: SentenceVector, column: Column, files: Iterable[ArrowFile]
) -> Iterator[tuple[Ints, Floats]]:
    first = 0
    for file in files:
        sentence_N = file.column("sentence_id").to_numpy()
        if (np.diff(sentence_N) < 0).any():
            raise damaged(file.path, "its rows are not in the order of sentences")
        counted_K = np.flatnonzero(_counted(by, file, sentence_N))
        yield from _means(column, first + counted_K, sentence_N[counted_K])
        first += len(sentence_N)


def _counted(by: SentenceVector, file: ArrowFile, sentence_N: Ints) -> Mask:
    """Mark the rows that count for their sentence's vector."""
    if by == "mean":
        return np.ones(len(sentence_N), bool)
    word_index_N, salience_N = (file.column(name).to_numpy() for name in ("word_index", "salience"))
    return most_salient(sentence_N, word_index_N, salience_N, 1)


def _means(column: Column, positions_K: Ints, sentence_K: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Yield sentences, and the mean vector over the rows of each; the rows stand in order of sentences."""
    ids_S, firsts_S, counts_S = np.unique(sentence_K, return_index=True, return_counts=True)
    ends_S = firsts_S + counts_S
    for begin in range(0, len(ids_S), _SENTENCES):
        some = slice(begin, begin + _SENTENCES)
        rows = slice(firsts_S[some][0], ends_S[some][-1])
        number_K = np.repeat(np.arange(len(ids_S[some])), counts_S[some])
        sums_SD = _sums(column, positions_K[rows], number_K)
        yield ids_S[some], (sums_SD / counts_S[some, None]).astype(np.float32)


def _sums(column: Column, positions_K: Ints, number_K: Ints) -> npt.NDArray[np.float64]:
    """Return the sums of the vectors with each number from 0 up, (S, D); one may have very many rows."""
    sums_SD = np.zeros((number_K[-1] + 1, column.dimension))
    for begin in range(0, len(positions_K), _ROWS):
        some = slice(begin, begin + _ROWS)
        vectors_KD, mine_K = as_floats(column.take(positions_K[some])), number_K[some]
        firsts = np.flatnonzero(np.diff(mine_K, prepend=-1))
        sums_SD[mine_K[firsts]] += np.add.reduceat(vectors_KD, firsts, axis=0, dtype=np.float64)
    return sums_SD
