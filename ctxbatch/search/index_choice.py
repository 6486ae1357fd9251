"""Chooses an index by rows and memory, and makes it, still empty.

An index is named by its FAISS factory string.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from ctxbatch.errors import InputError
from ctxbatch.search.index import IndexOptions

# Fewer rows than this are too few to tune an index with, even where one is asked for.
LEAST_ROWS = 1_000
_ROWS_PER_LIST = 1_024
_LISTS = (64, 65_536)
# Memory that searches work in, beside the index itself (measured: batches of a thousand queries).
WORKING_BYTES = 36 << 20
# How a factory string begins, and where it names codebooks: pieces, and the bits of a code.
_IVF = re.compile(r"IVF(\d{1,9})([kM]?)(?=[,_(])")
_CODEBOOKS = re.compile(r"([A-Z]*)((?:\d{1,9}x)+)(\d{1,9})")
# The factory strings of indexes by rotated residuals, in codes of 4 bits: pieces, dimension, lists, pieces.
BY_RESIDUALS = re.compile(r"OPQ(\d{1,6})_(\d{1,6}),IVF(\d{1,6}),PQ(\d{1,6})x4fsr")
# What FAISS needs for a list that is empty.
_LIST_BYTES = 48


@dataclass(frozen=True, slots=True)
class Choice:
    """What is going to be built: the FAISS factory string, the memory that it takes, the bytes of a code."""

    factory: str
    bytes: int
    code_bytes: int


def choose(rows: int, dimension: int, options: IndexOptions) -> Choice:
    """Choose the most exact index that fits the memory: IVF, with rotated residuals in 4-bit codes.

    Raises:
        InputError: None fits; the message names the smallest that would.
    """
    possible = choices(rows, dimension)
    fitting = [choice for choice in possible if choice.bytes <= options.memory]
    if not fitting:
        raise InputError(
            f"--memory {megabytes(options.memory)} is too little for {rows:,} vectors of "
            f"{dimension} dimensions: give --memory "
            f"{megabytes(possible[-1].bytes)} or more (for {possible[-1].factory})"
        )
    return fitting[0]


def choices(rows: int, dimension: int) -> list[Choice]:
    """Return the possible indexes, the most exact and largest first."""
    n_lists = 2 ** round(np.log2(np.clip(rows / _ROWS_PER_LIST, *_LISTS)))
    found = []
    for values in (4, 6, 8, 16):  # values of a vector that share a code of 4 bits
        pieces = max(m for m in range(1, max(1, dimension // values) + 1) if dimension % m == 0)
        found.append(_choice(rows, dimension, n_lists, pieces))
    return found


def _choice(rows: int, dimension: int, n_lists: int, pieces: int) -> Choice:
    code = (pieces + 1) // 2
    # Lists are filled up to blocks of 32; centroids are kept by FAISS and by the search.
    size = (rows + 16 * n_lists) * (code + 8)
    size += 2 * n_lists * dimension * 4 + dimension * (16 + dimension) * 4 + WORKING_BYTES
    return Choice(f"OPQ{pieces}_{dimension},IVF{n_lists},PQ{pieces}x4fsr", size, code)


def for_rows(choice: Choice, rows: int) -> Choice:
    """Return a choice of `choices` for another number of rows: the same index, of another size."""
    found = BY_RESIDUALS.fullmatch(choice.factory)
    assert found is not None
    pieces, dimension, n_lists, _ = map(int, found.groups())
    return _choice(rows, dimension, n_lists, pieces)


def megabytes(size: int) -> str:
    """Return a size as --memory takes it, rounded up."""
    return f"{-(-size // 1024)}KB" if size < 10 << 20 else f"{-(-size // (1 << 20))}MB"


def begin(rows: int, dimension: int, options: IndexOptions) -> tuple[Any, Choice]:
    """Return an empty index of so many vectors, and the choice that it follows.

    Raises:
        InputError: No index fits the memory, or FAISS knows no such factory string.
    """
    if options.factory is None:
        choice = choose(rows, dimension, options)
        index = faiss.index_factory(dimension, choice.factory, faiss.METRIC_INNER_PRODUCT)
    else:
        # What FAISS allocates at once is looked at before, the rest when the size of a code is known.
        first = _first_bytes(options.factory, rows, dimension)
        _check_memory(options, first)
        index = _empty(options.factory, dimension)
        choice = Choice(options.factory, first + rows * (index.code_size + 8), index.code_size)
        _check_memory(options, choice.bytes)
    return index, choice


def _first_bytes(factory: str, rows: int, dimension: int) -> int:
    """Return the bytes of the empty index of a factory string: its lists and its codebooks."""
    lists = _IVF.match(factory)
    n_lists = int(lists[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[lists[2]] if lists else 0
    if n_lists < 1:
        raise _no_ivf(factory, dimension)
    if rows < LEAST_ROWS:
        raise InputError(f"--factory {factory!r} cannot be used: {rows:,} rows need no index")
    if n_lists > rows:
        raise InputError(f"--factory {factory!r} has more lists than the store has rows ({rows:,})")
    size = n_lists * (_LIST_BYTES + 8 * dimension)  # centroids are kept by FAISS and by the search
    for name, pieces, bits in _CODEBOOKS.findall(factory):
        # The pieces of product quantization share the dimensions; others have codebooks of all of them.
        n_books = 1 if name == "PQ" else math.prod(map(int, pieces.split("x")[:-1]))
        size += n_books * (4 * dimension << min(int(bits), 64))
    return size


def _empty(factory: str, dimension: int) -> Any:  # noqa: ANN401 (any FAISS index)
    try:
        index: Any = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        index = None
    if not isinstance(index, faiss.IndexIVF):
        raise _no_ivf(factory, dimension)
    return index


def _no_ivf(factory: str, dimension: int) -> InputError:
    return InputError(
        f"--factory {factory!r} is no IVF index for vectors of {dimension} dimensions: give one such as "
        f"IVF1024,PQ{dimension // 4}x4fs"
    )


def _check_memory(options: IndexOptions, size: int) -> None:
    if size > options.memory:
        raise InputError(
            f"--factory {options.factory} takes {megabytes(size)}, more than "
            f"--memory {megabytes(options.memory)}: raise it or choose another"
        )
