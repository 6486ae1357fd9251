"""Builds indexes: chooses one by rows and memory, trains it, adds the rows, writes it.

Owns what is built and why; `ctxbatch.search.index_tuning` says how it is searched, `ctxbatch.search.index`
searches it, and `ctxbatch.search.index_files` checks and loads it.
"""

import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from ctxbatch.errors import InputError, StoreError
from ctxbatch.files import replacing, write_json
from ctxbatch.formulas import plain
from ctxbatch.sealed import file_digest
from ctxbatch.search.exact import normalised
from ctxbatch.search.index import Index, IndexOptions, Proposer, said_by_faiss
from ctxbatch.search.index_files import (
    WORD_ROWS,
    IndexFacts,
    check_index,
    effort_facts,
    facts_path,
    read_facts,
)
from ctxbatch.search.index_tuning import choose_rows, hold_out, measure, tune
from ctxbatch.search.postings import Postings, is_current, write
from ctxbatch.store.checks import check_finished
from ctxbatch.store.columns import Column
from ctxbatch.store.commits import built_from
from ctxbatch.store.manifest import INDEX
from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")

# Fewer rows than this are compared exactly faster than an index of them is loaded.
SCAN_ROWS = 50_000
# And fewer than this are too few to tune an index with, even where one is asked for.
_LEAST_ROWS = 1_000
_ROWS_PER_LIST = 1_024
_LISTS = (64, 65_536)
_TRAIN_ROWS_PER_LIST = 64
_ADD_ROWS = 65_536
_SEED = 20_240_607
# Memory that searches work in, beside the index itself (measured: batches of a thousand queries).
_WORKING_BYTES = 36 << 20
# Room on the disk that a row takes in the table of words.
_WORD_BYTES = 5
# How a factory string begins, and where it names codebooks: pieces, and the bits of a code.
_IVF = re.compile(r"IVF(\d{1,9})([kM]?)(?=[,_(])")
_CODEBOOKS = re.compile(r"([A-Z]*)((?:\d{1,9}x)+)(\d{1,9})")
# What FAISS needs for a list that is empty.
_LIST_BYTES = 48
# Seconds a core needs for a row of one dimension, roughly: what is said before a build begins.
_SECONDS_PER_VALUE = 1.5e-7


@dataclass(frozen=True, slots=True)
class Choice:
    """What is going to be built: the FAISS factory string, and the memory that it takes, estimated."""

    factory: str
    bytes: int


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a build did. ``path`` is ``None`` where the rows are few enough to be compared one by one.

    ``recall`` is that at 10 on held-out rows, ``filtered_recall`` that among rows of other words.
    ``appended`` rows were appended to the store since, and are not in the index.
    """

    column: str
    rows: int
    path: Path | None
    bytes: int = 0
    seconds: float = 0.0
    recall: float = 0.0
    filtered_recall: float = 0.0
    appended: int = 0

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.column}: {self.rows:,} rows are searched exactly, no index needed"
        appended = f"; {self.appended:,} appended rows are not in it" if self.appended else ""
        return (
            f"{self.column}: {self.rows:,} rows indexed in {self.seconds:.0f} s, "
            f"{self.bytes / self.rows:.0f} bytes per vector, recall@10 {self.recall:.3f} on held-out rows "
            f"({self.filtered_recall:.3f} among other words){appended}"
        )


def choose(rows: int, dimension: int, options: IndexOptions) -> Choice:
    """Choose the most exact index that fits the memory: IVF, product quantization to 4 bits, fast scan.

    Raises:
        InputError: None fits; the message names the smallest that would.
    """
    choices = _choices(rows, dimension)
    fitting = [choice for choice in choices if choice.bytes <= options.memory]
    if not fitting:
        raise InputError(
            f"--memory {_megabytes(options.memory)} is too little for {rows:,} vectors of "
            f"{dimension} dimensions: give --memory "
            f"{_megabytes(choices[-1].bytes)} or more (for {choices[-1].factory})"
        )
    return fitting[0]


def expected_bytes(rows: int, dimension: int) -> int:
    """Return about how many bytes a run's index takes on disk, with the table of words; 0 if it has none."""
    if rows < SCAN_ROWS:
        return 0
    choices = _choices(rows, dimension)
    chosen = next((choice for choice in choices if choice.bytes <= IndexOptions().memory), choices[-1])
    return chosen.bytes - _WORKING_BYTES + _WORD_BYTES * rows


def _choices(rows: int, dimension: int) -> list[Choice]:
    """Return the possible indexes, the most exact and largest first."""
    n_lists = 2 ** round(np.log2(np.clip(rows / _ROWS_PER_LIST, *_LISTS)))
    choices = []
    for values in (4, 8, 16):  # values of a vector that share a code of 4 bits
        pieces = max(m for m in range(1, max(1, dimension // values) + 1) if dimension % m == 0)
        vector = (pieces + 1) // 2 + 8
        # Lists are filled up to blocks of 32; centroids are kept by FAISS and by the search.
        size = (rows + 16 * n_lists) * vector + 2 * n_lists * dimension * 4 + dimension * 16 * 4
        size += _WORKING_BYTES
        choices.append(Choice(f"IVF{n_lists},PQ{pieces}x4fs", size))
    return choices


def _megabytes(size: int) -> str:
    """Return a size as --memory takes it, rounded up."""
    return f"{-(-size // 1024)}KB" if size < 10 << 20 else f"{-(-size // (1 << 20))}MB"


# --- building -------------------------------------------------------------------------------------


def ensure(store: Store, column: str, *, quiet: bool = True) -> IndexReport:
    """Like `build`, but leaves alone an index that is intact, also if shards were appended since."""
    path = facts_path(store.path, column)
    if not path.exists() or any(check_index(path, store.manifest)):
        return build(store, column, recorded_options(path), quiet=quiet)
    _ensure_words(store)
    facts = read_facts(path)
    assert isinstance(facts, IndexFacts)
    return IndexReport(
        column,
        facts.rows,
        path.parent / facts.file,
        facts.bytes,
        facts.seconds,
        facts.recall_at_10,
        facts.filtered_recall_at_10,
        store.n_rows - facts.rows,
    )


def rebuild(store: Store, damaged: Sequence[str], *, quiet: bool = True) -> tuple[str, ...]:
    """Rebuild what is damaged, by the names of the JSON files; returns the names."""
    known = tuple(name for name in damaged if name == WORD_ROWS or store.config.has_column(name))
    for name in known:
        if name == WORD_ROWS:
            _ensure_words(store)
        else:
            build(store, name, recorded_options(facts_path(store.path, name)), quiet=quiet)
    return known


def recorded_options(path: Path) -> IndexOptions:
    """Return the options that an index was built with; the defaults if its JSON cannot be read."""
    try:
        facts = read_facts(path)
    except (FileNotFoundError, StoreError):
        return IndexOptions()
    return facts.options if isinstance(facts, IndexFacts) else IndexOptions()


def build(
    store: Store, column: str, options: IndexOptions | None = None, *, quiet: bool = True
) -> IndexReport:
    """Build the index on a column, replacing the one that is there. Only under the store's lock.

    Trained on a random sample over all shards; rows are added block by block.

    Args:
        store: The store, finished.
        column: Full name of the column.
        options: What the index may cost and has to find.
        quiet: Show no progress on standard error.

    Raises:
        InputError: No index fits the memory, or FAISS knows no such factory string.
        StoreError: Shards are missing or damaged.
        OSError: The disk refuses.
    """
    options = options or IndexOptions()
    check_finished(store)
    if store.n_rows >= SCAN_ROWS or options.factory is not None:
        return _build(store, column, options, quiet)
    for old in (facts_path(store.path, column), _index_path(store, column)):
        old.unlink(missing_ok=True)
    return IndexReport(column, store.n_rows, None)


def _index_path(store: Store, column: str) -> Path:
    return store.path / INDEX / f"{column}.faiss"


def _build(store: Store, column: str, options: IndexOptions, quiet: bool) -> IndexReport:
    """Make the index. Write it, and then the facts about it."""
    empty, choice = _begin(store, options)
    if not quiet:
        _announce(store, column, choice)
    started = time.monotonic()
    path = _index_path(store, column)
    path.parent.mkdir(exist_ok=True)
    standardiser = None if plain(column) == column else store.moments.of(plain(column)).standardiser()
    vectors = store.column(column, standardiser)
    index, recalls = _make(empty, vectors, _ensure_words(store), store, options, quiet)
    _write_index(empty, path, facts_path(store.path, column))
    seconds = round(time.monotonic() - started, 1)
    size = path.stat().st_size
    facts = {
        "column": column,
        "rows": store.n_rows,
        "file": path.name,
        "factory": choice.factory,
        "options": asdict(options),
        **effort_facts(index),
        "recall_at_10": recalls[0],
        "filtered_recall_at_10": recalls[1],
        "seconds": seconds,
        "faiss_version": faiss.__version__,
        "built_from": built_from(store.commits),
        "bytes": size,
        "sha256": file_digest(path),
    }
    if standardiser is not None:
        facts["standardiser"] = standardiser.as_text()
    write_json(facts_path(store.path, column), facts)
    _tell_low_recall(column, recalls, options)
    return IndexReport(column, store.n_rows, path, size, seconds, *recalls)


def _begin(store: Store, options: IndexOptions) -> tuple[Any, Choice]:
    """Return an empty index, and the choice that it follows."""
    dimension = store.config.hidden_size
    if options.factory is None:
        choice = choose(store.n_rows, dimension, options)
        index = _empty(choice.factory, dimension)
    else:
        # What FAISS allocates at once is looked at before, the rest when the size of a code is known.
        first = _first_bytes(options.factory, store.n_rows, dimension)
        _check_memory(options, first)
        index = _empty(options.factory, dimension)
        choice = Choice(options.factory, first + store.n_rows * (index.code_size + 8))
        _check_memory(options, choice.bytes)
    # FAISS would print that it likes more rows for a centroid.
    index.cp.min_points_per_centroid = 1
    if hasattr(index, "pq"):
        index.pq.cp.min_points_per_centroid = 1
    return index, choice


def _first_bytes(factory: str, rows: int, dimension: int) -> int:
    """Return the bytes of the empty index of a factory string: its lists and its codebooks."""
    lists = _IVF.match(factory)
    n_lists = int(lists[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[lists[2]] if lists else 0
    if n_lists < 1:
        raise _no_ivf(factory, dimension)
    if rows < _LEAST_ROWS:
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
            f"--factory {options.factory} takes {_megabytes(size)}, more than "
            f"--memory {_megabytes(options.memory)}: raise it or choose another"
        )


def _write_index(filled: Any, path: Path, facts_file: Path) -> None:  # noqa: ANN401 (any FAISS index)
    """Write an index, whole or not at all. The facts about the old one are valid until then."""
    with replacing(path) as beside:
        with beside.open("wb") as stream:  # FAISS's own files lose what the disk says; its stubs, the writer
            faiss.write_index(filled, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]  # not in its stubs
        facts_file.unlink(missing_ok=True)


def _tell_low_recall(column: str, recalls: tuple[float, float], options: IndexOptions) -> None:
    for recall, what in zip(recalls, ("", " among the rows of other words"), strict=True):
        if recall < options.recall - 0.01:
            log.warning(
                "index on %s: recall@10 is %.3f%s, below --recall %g", column, recall, what, options.recall
            )


def _announce(store: Store, column: str, choice: Choice) -> None:
    seconds = store.n_rows * store.config.hidden_size * _SECONDS_PER_VALUE / faiss.omp_get_max_threads()
    log.info(
        "index on %s: %s for %s rows, about %s of memory, roughly %d s",
        column,
        choice.factory,
        f"{store.n_rows:,}",
        _megabytes(choice.bytes),
        max(1, seconds),
    )


def _ensure_words(store: Store) -> Postings:
    """Return the table of each word's rows; write it if it is missing or of another version's keys."""
    facts_file = facts_path(store.path, WORD_ROWS)
    path = store.path / INDEX / f"{WORD_ROWS}.arrow"
    if (
        not facts_file.exists()
        or any(check_index(facts_file, store.manifest))
        or not read_facts(facts_file).has_all(store)
        or not is_current(path)
    ):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as beside, beside.open("wb") as stream:
            write(store, stream)
        facts = {
            "file": path.name,
            "built_from": built_from(store.commits),
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        write_json(facts_file, facts)
    return Postings(store, path)


def _make(
    empty: Any,  # noqa: ANN401 (any FAISS index)
    column: Column,
    postings: Postings,
    store: Store,
    options: IndexOptions,
    quiet: bool,
) -> tuple[Index, tuple[float, float]]:
    """Train, fill and tune an index: the index, and its recall among all rows and among other words'."""
    random = np.random.default_rng(_SEED)
    size = min(len(column), max(empty.nlist * _TRAIN_ROWS_PER_LIST, 10_000))
    try:
        empty.train(normalised(column.take(choose_rows(random, len(column), size))))
    except RuntimeError as error:
        raise InputError(
            f"--factory {options.factory!r} cannot be trained: {said_by_faiss(error)}: choose another"
        ) from None
    with tqdm(
        total=len(column), unit=" rows", desc="indexing", disable=quiet or None, leave=False
    ) as progress:
        for _, block in column.blocks(_ADD_ROWS):
            empty.add(normalised(block))
            progress.update(len(block))
    proposer = Proposer(empty)
    *to_tune, plain, filtered = hold_out(store, column, postings, random)
    efforts = [tune(proposer, column, rows, options.recall) for rows in to_tune]
    index = Index(proposer, column, efforts[0], efforts[1])
    recall, filtered_recall = (round(measure(index, column, rows), 4) for rows in (plain, filtered))
    return index, (recall, filtered_recall)
