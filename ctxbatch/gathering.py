"""From batches' vectors to those of a buffer's rows, in source order; and which rows are stored in the end.

Owns the memory that a buffer's vectors take. Array names end in the letters of their shape: C vector
columns, N rows of a buffer, R rows of a batch that are kept, D hidden size.
"""

import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctxbatch.batching import Buffer, TokenBatch
from ctxbatch.config import ResolvedConfig

if TYPE_CHECKING:
    from ctxbatch.encoder import WordVectors  # not for those who only read what was written: it imports torch

# Vectors that are larger wait in a file: those of all layers can be gigabytes, and three buffers are on
# their way at a time.
IN_MEMORY = 512 << 20


@dataclass(frozen=True, slots=True)
class Gathered:
    """A buffer whose rows are all to be stored, and their vectors in the order of ``config.columns``.

    ``finite_N`` is false where some stored value of the row is NaN or infinite. ``salience_N`` is there if
    the configuration asks for it.
    """

    buffer: Buffer
    vectors_CND: npt.NDArray[Any]
    finite_N: npt.NDArray[np.bool_]
    salience_N: npt.NDArray[np.float32] | None


def gather(
    config: ResolvedConfig, buffer: Buffer, encoded: "Iterable[tuple[TokenBatch, WordVectors]]", out: Path
) -> Gathered:
    """Bring the vectors of a buffer's batches together.

    Args:
        config: The resolved configuration.
        buffer: The buffer.
        encoded: Its batches with their vectors.
        out: The store's folder, on whose disk vectors wait that are too many for the memory.

    Raises:
        OSError: The disk has no room for them.
    """
    if config.top_salient is not None:
        return _gather_most_salient(config, config.top_salient, buffer, encoded)
    n_rows = len(buffer.rows)
    vectors_CND = _room((len(config.columns), n_rows, config.hidden_size), np.dtype(config.dtype), out)
    finite_N = np.ones(n_rows, bool)
    salience_N = None if config.salience_layer is None else np.empty(n_rows, np.float32)
    for batch, found in encoded:
        vectors_CND[:, batch.rows_N] = found.vectors_CRD
        finite_N[batch.rows_N] = found.finite_R
        if salience_N is not None:
            salience_N[batch.rows_N] = found.salience_N
    return Gathered(buffer, vectors_CND, finite_N, salience_N)


def _gather_most_salient(
    config: ResolvedConfig, n_words: int, buffer: Buffer, encoded: "Iterable[tuple[TokenBatch, WordVectors]]"
) -> Gathered:
    """Keep the most salient words of each sentence, whose windows can have been in several batches.

    Every batch has kept as many of its part of a sentence as can be among those of the whole.
    """
    salience_N = np.empty(len(buffer.rows), np.float32)
    rows_R = [np.zeros(0, np.int64)]
    vectors_CRD = [np.empty((len(config.columns), 0, config.hidden_size), config.dtype)]
    finite_R = [np.zeros(0, bool)]
    for batch, found in encoded:
        salience_N[batch.rows_N] = found.salience_N
        rows_R.append(batch.rows_N if found.kept_R is None else batch.rows_N[found.kept_R])
        vectors_CRD.append(found.vectors_CRD)
        finite_R.append(found.finite_R)
    stored = np.flatnonzero(buffer.stored(salience_N, n_words))
    kept = np.concatenate(rows_R)
    order = np.argsort(kept)
    places = order[np.searchsorted(kept, stored, sorter=order)]
    vectors_CND = np.concatenate(vectors_CRD, axis=1)[:, places]
    return Gathered(buffer.take(stored), vectors_CND, np.concatenate(finite_R)[places], salience_N[stored])


def _room(shape: tuple[int, ...], dtype: np.dtype[Any], out: Path) -> npt.NDArray[Any]:
    """An array that is not filled yet; a large one is mapped from a file without a name."""
    size = math.prod(shape) * dtype.itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=out) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # without room, writing to it would kill the process
        return np.memmap(file, dtype, "r+", shape=shape)
