"""Brings the vectors of batches into the order of a buffer's rows, and drops rows that are not stored.

Owns the memory that a buffer's vectors take. Array names end in the letters of their shape: C vector
columns, N rows of a buffer, R rows of a batch that are kept, D hidden size.
"""

import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxbatch.config import ResolvedConfig
from ctxbatch.model.word_vectors import WordVectors
from ctxbatch.text.batching import TokenBatch
from ctxbatch.text.buffers import Buffer

# Larger vectors wait in a file: those of all layers can take gigabytes, and three buffers are in flight.
IN_MEMORY = 512 << 20


@dataclass(frozen=True, slots=True)
class Gathered:
    """A buffer with only the rows to store, and their vectors in the order of ``config.columns``.

    ``finite_N`` is false if a stored value of the row is NaN or infinite. ``salience_N`` is set if the
    configuration asks for it.
    """

    buffer: Buffer
    vectors_CND: npt.NDArray[Any]
    finite_N: npt.NDArray[np.bool_]
    salience_N: npt.NDArray[np.float32] | None


def gather(
    config: ResolvedConfig, buffer: Buffer, encoded: Iterable[tuple[TokenBatch, WordVectors]], out: Path
) -> Gathered:
    """Collect the vectors of a buffer's batches.

    Args:
        config: The resolved configuration.
        buffer: The buffer.
        encoded: Its batches with their vectors.
        out: The store's folder; vectors that are too large for memory wait on its disk.

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
    encoded: Iterable[tuple[TokenBatch, WordVectors]],
    out: Path,
) -> Gathered:
    """Choose the most salient rows of each sentence among those that its batches kept.

    A sentence can have windows in several batches. Each batch kept as many rows as could be chosen.
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
    """Return the most rows that the batches of a buffer keep: ``n_words`` of every window."""
    _, n_rows_W = np.unique(buffer.rows.window_N, return_counts=True)
    return int(np.minimum(n_rows_W, n_words).sum())


def _room(config: ResolvedConfig, n_rows: int, out: Path) -> npt.NDArray[Any]:
    """Return an array for the vectors of some rows; a large one is mapped from an unnamed file."""
    shape, dtype = (len(config.columns), n_rows, config.hidden_size), np.dtype(config.value_type)
    size = math.prod(shape) * dtype.itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=out) as file:
        os.posix_fallocate(
            file.fileno(), 0, size
        )  # on a full disk, writing to the map would kill the process
        return np.memmap(file, dtype, "r+", shape=shape)
