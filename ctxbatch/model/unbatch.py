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

from ctxbatch.config import ResolvedConfig
from ctxbatch.text.batching import TokenBatch
from ctxbatch.text.buffers import Buffer

if TYPE_CHECKING:
    from ctxbatch.model.encoder import (
        WordVectors,  # not for those who only read what was written: it imports torch
    )

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
    if config.kept_by_model is not None:
        return _gather_kept(config, config.kept_by_model, buffer, encoded, out)
    vectors_CND = _room(config, len(buffer.rows), out)
    finite_N = np.ones(len(buffer.rows), bool)
    salience_N = None if config.salience_layer is None else np.empty(len(buffer.rows), np.float32)
    for batch, found in encoded:
        vectors_CND[:, batch.rows_N] = found.vectors_CRD
        finite_N[batch.rows_N] = found.finite_R
        if salience_N is not None:
            salience_N[batch.rows_N] = found.salience_N
    if config.top_salient is None or salience_N is None:
        return Gathered(buffer, vectors_CND, finite_N, salience_N)
    stored_N = np.flatnonzero(buffer.stored(salience_N, config.top_salient))
    chosen_CND = np.take(vectors_CND, stored_N, axis=1, out=_room(config, len(stored_N), out), mode="clip")
    return Gathered(buffer.take(stored_N), chosen_CND, finite_N[stored_N], salience_N[stored_N])


def _gather_kept(
    config: ResolvedConfig,
    n_words: int,
    buffer: Buffer,
    encoded: "Iterable[tuple[TokenBatch, WordVectors]]",
    out: Path,
) -> Gathered:
    """Of the rows that batches have kept, choose the most salient of each sentence.

    Its windows can have been in several batches, each of which has kept as many as can be among the chosen.
    """
    n_most = _most_kept(buffer, n_words)
    salience_N = np.empty(len(buffer.rows), np.float32)
    vectors_CRD = _room(config, n_most, out)
    rows_R, finite_R = np.empty(n_most, np.int64), np.empty(n_most, bool)
    end = 0
    for batch, found in encoded:
        salience_N[batch.rows_N] = found.salience_N
        begin, end = end, end + len(found.finite_R)
        rows_R[begin:end] = batch.rows_N[found.kept_R]
        vectors_CRD[:, begin:end] = found.vectors_CRD
        finite_R[begin:end] = found.finite_R
    stored_N = np.flatnonzero(buffer.stored(salience_N, n_words))
    order_R = np.argsort(rows_R[:end])
    place_N = order_R[np.searchsorted(rows_R[:end], stored_N, sorter=order_R)]
    chosen_CND = np.take(vectors_CRD, place_N, axis=1, out=_room(config, len(stored_N), out), mode="clip")
    return Gathered(buffer.take(stored_N), chosen_CND, finite_R[place_N], salience_N[stored_N])


def _most_kept(buffer: Buffer, n_words: int) -> int:
    """How many rows the batches of a buffer keep at most: so many of every window."""
    _, n_rows_W = np.unique(buffer.rows.window_N, return_counts=True)
    return int(np.minimum(n_rows_W, n_words).sum())


def _room(config: ResolvedConfig, n_rows: int, out: Path) -> npt.NDArray[Any]:
    """Room for the vectors of some rows; much of it is mapped from a file without a name."""
    shape, dtype = (len(config.columns), n_rows, config.hidden_size), np.dtype(config.dtype)
    size = math.prod(shape) * dtype.itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=out) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # without room, writing to it would kill the process
        return np.memmap(file, dtype, "r+", shape=shape)
