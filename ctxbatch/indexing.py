"""Building indexes: the choice by rows and memory, training, adding, tuning to a recall, measuring it.

Owns what is built and why; `ctxbatch.index` owns the files and the search. Array names as there.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from ctxbatch.errors import InputError, StoreError
from ctxbatch.index import (
    WORD_ROWS,
    Effort,
    Index,
    Mask,
    built_from,
    check_index,
    effort_facts,
    facts_path,
)
from ctxbatch.layout import INDEX, file_digest, read_json, replacing, write_json
from ctxbatch.nearest import Floats, cosines, normalised, scan
from ctxbatch.postings import Postings, write
from ctxbatch.store import Column, Ints, Store

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
# Held-out rows that an index is tuned with, and as many others that it is measured with.
_QUERIES = 320
_FILTERED_QUERIES = 128
# What tuning chooses from. Held-out rows have nearer neighbours than sentences from elsewhere, which
# suffer first where little is probed and compared: the least effort leaves them some room.
_MARGINS = (0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 2.0)
_DEPTHS = (800, 1600, 3200)
_FILTERED_MARGINS = (0.2, 0.4, 0.6, 2.0)
_FILTERED_DEPTHS = (800, 1600, 3200, 6400)
_SLACKS = (0.06, 0.08, 0.1, 0.15, 2.0)
# What it reckons with: nanoseconds for a row of a probed list, a proposal, an exact comparison, measured
# with vectors of 384 dimensions. Their ratios matter, not the machine.
_SCAN_COST, _PROPOSAL_COST, _EXACT_COST = 4.0, 50.0, 800.0
# Memory that searches work in, beside the index itself (measured: batches of a thousand queries).
_WORKING_BYTES = 36 << 20
# Seconds a core needs for a row of one dimension, roughly: what is said before a build begins.
_SECONDS_PER_VALUE = 1.5e-7


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What an index may cost and has to find.

    Args:
        memory: Bytes of memory that it may take when it is searched.
        recall: Share of the ten nearest rows that a search has to find.
        factory: A FAISS factory string of an IVF index, to take instead of a choice by rows and memory.

    Raises:
        InputError: A value is out of its range.
    """

    memory: int = 4 << 30
    recall: float = 0.95
    factory: str | None = None

    def __post_init__(self) -> None:
        if self.memory <= 0:
            raise InputError(f"--memory {self.memory} must be more than 0")
        if not 0 < self.recall <= 1:
            raise InputError(f"--recall {self.recall} must be above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is going to be built: the FAISS factory string, and the memory that it takes, estimated."""

    factory: str
    bytes: int


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a build did. ``path`` is ``None`` where the rows are few enough to be compared one by one.

    ``recall`` is that at 10 on held-out rows, ``filtered_recall`` that among rows of other words.
    """

    column: str
    rows: int
    path: Path | None
    bytes: int = 0
    seconds: float = 0.0
    recall: float = 0.0
    filtered_recall: float = 0.0

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.column}: {self.rows:,} rows are searched exactly, no index needed"
        return (
            f"{self.column}: {self.rows:,} rows indexed in {self.seconds:.0f} s, "
            f"{self.bytes / self.rows:.0f} bytes a vector, recall@10 {self.recall:.3f} on held-out rows "
            f"({self.filtered_recall:.3f} among other words)"
        )


def choose(rows: int, dimension: int, options: IndexOptions) -> Choice:
    """Choose the most exact index that fits the memory: IVF, product quantization to 4 bits, fast scan.

    Raises:
        InputError: None fits; the message names the smallest that would.
    """
    n_lists = 2 ** round(np.log2(np.clip(rows / _ROWS_PER_LIST, *_LISTS)))
    choices = []
    for values in (4, 8, 16):  # values of a vector that share a code of 4 bits
        pieces = max(m for m in range(1, max(1, dimension // values) + 1) if dimension % m == 0)
        vector = (pieces + 1) // 2 + 8
        # Lists are filled up to blocks of 32; centroids are kept by FAISS and by the search.
        size = (rows + 16 * n_lists) * vector + 2 * n_lists * dimension * 4 + dimension * 16 * 4
        size += _WORKING_BYTES
        choices.append(Choice(f"IVF{n_lists},PQ{pieces}x4fs", size))
    fitting = [choice for choice in choices if choice.bytes <= options.memory]
    if not fitting:
        raise InputError(
            f"--memory {_megabytes(options.memory)} is too little for {rows:,} vectors of {dimension}: the "
            f"smallest index is {choices[-1].factory}, give --memory {_megabytes(choices[-1].bytes)}"
        )
    return fitting[0]


def _megabytes(size: int) -> str:
    """A size as --memory takes it, rounded up."""
    return f"{-(-size // 1024)}KB" if size < 10 << 20 else f"{-(-size // (1 << 20))}MB"


# --- building -------------------------------------------------------------------------------------


def ensure(store: Store, column: str, *, quiet: bool = True) -> IndexReport:
    """Like `build`, but leaves alone an index that is intact and of these very shards."""
    path = facts_path(store.path, column)
    if not path.exists() or any(check_index(path, store.manifest)):
        return build(store, column, recorded_options(path), quiet=quiet)
    _ensure_words(store)
    facts = read_json(path)
    return IndexReport(
        column,
        store.n_rows,
        path.parent / facts["file"],
        *(facts[name] for name in ("bytes", "seconds", "recall_at_10", "filtered_recall_at_10")),
    )


def rebuild(store: Store, damaged: Sequence[str], *, quiet: bool = True) -> tuple[str, ...]:
    """Build anew what is damaged, by the names of the JSON files; returns the names."""
    known = tuple(name for name in damaged if name in (WORD_ROWS, *store.config.columns))
    for name in known:
        if name == WORD_ROWS:
            _ensure_words(store)
        else:
            build(store, name, recorded_options(facts_path(store.path, name)), quiet=quiet)
    return known


def recorded_options(path: Path) -> IndexOptions:
    """The options that an index was built with, if its JSON can be read; else the defaults."""
    try:
        return IndexOptions(**read_json(path)["options"])
    except StoreError:
        return IndexOptions()


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
    if not store.complete:
        missing = len(store.manifest.shards) - len(store.commits)
        raise StoreError(
            f"{store.path} lacks {missing} of its shards: finish it with the `ctxbatch run` that began it"
        )
    facts_file = facts_path(store.path, column)
    path = store.path / INDEX / f"{column}.faiss"
    if store.n_rows < SCAN_ROWS and options.factory is None:
        for old in (facts_file, path):
            old.unlink(missing_ok=True)
        return IndexReport(column, store.n_rows, None)
    empty, choice = _begin(store, options)
    if not quiet:
        _announce(store, column, choice)
    started = time.monotonic()
    path.parent.mkdir(exist_ok=True)
    vectors = store.column(column)
    index, recalls = _make(empty, vectors, _ensure_words(store), store, options, quiet)
    with replacing(path) as beside:
        faiss.write_index(empty, str(beside))
        facts_file.unlink(missing_ok=True)  # the old index counts until the new one takes its place
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
    write_json(facts_file, facts)
    for recall, what in zip(recalls, ("", " among the rows of other words"), strict=True):
        if recall < options.recall - 0.01:
            log.warning("index on %s: recall@10 is %.3f%s, below --recall %g: %s", column, recall, what,
                        options.recall, "a larger --memory would help")  # fmt: skip
    return IndexReport(column, store.n_rows, path, size, seconds, *recalls)


def _begin(store: Store, options: IndexOptions) -> tuple[Any, Choice]:
    """An empty index, and what it is."""
    dimension = store.config.hidden_size
    if options.factory is None:
        choice = choose(store.n_rows, dimension, options)
    else:
        choice = Choice(options.factory, 0)
    try:
        index: Any = faiss.index_factory(dimension, choice.factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        index = None
    if not isinstance(index, faiss.IndexIVF) or index.nlist < 1:
        raise InputError(
            f"--factory {choice.factory!r} names no IVF index for vectors of {dimension}: give one such as "
            f"IVF1024,PQ{dimension // 4}x4fs"
        )
    if store.n_rows < _LEAST_ROWS:
        raise InputError(
            f"--factory {choice.factory!r} is not for {store.n_rows:,} rows: they are searched exactly"
        )
    # FAISS would print that it likes more rows for a centroid.
    index.cp.min_points_per_centroid = 1
    if hasattr(index, "pq"):
        index.pq.cp.min_points_per_centroid = 1
    if index.nlist > store.n_rows:
        raise InputError(
            f"--factory {choice.factory!r} has more lists than the store has rows ({store.n_rows:,})"
        )
    if not choice.bytes:
        choice = Choice(choice.factory, store.n_rows * (index.code_size + 8) + 8 * index.nlist * dimension)
        if choice.bytes > options.memory:
            raise InputError(
                f"--factory {choice.factory} takes {_megabytes(choice.bytes)}, more than "
                f"--memory {_megabytes(options.memory)}: raise it or choose another"
            )
    return index, choice


def _announce(store: Store, column: str, choice: Choice) -> None:
    seconds = store.n_rows * store.config.hidden_size * _SECONDS_PER_VALUE / faiss.omp_get_max_threads()
    log.info(
        "index on %s: %s for %s rows, about %s MB of memory, roughly %d s",
        column,
        choice.factory,
        f"{store.n_rows:,}",
        f"{choice.bytes / 1e6:,.0f}",
        max(1, seconds),
    )


def _ensure_words(store: Store) -> Postings:
    """The table of each word's rows, written if it is not there."""
    facts_file = facts_path(store.path, WORD_ROWS)
    path = store.path / INDEX / f"{WORD_ROWS}.arrow"
    if not facts_file.exists() or any(check_index(facts_file, store.manifest)):
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
        empty.train(normalised(column.take(_choose_rows(random, len(column), size))))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("failed: ")[2]
        raise InputError(
            f"--factory {options.factory!r} cannot be trained: {reason}: choose another"
        ) from None
    with tqdm(
        total=len(column), unit=" rows", desc="indexing", disable=quiet or None, leave=False
    ) as progress:
        for _, block in column.blocks(_ADD_ROWS):
            empty.add(normalised(block))
            progress.update(len(block))
    questions = list(_questions(column, postings, store, random))
    index = Index(empty, column, _tune(empty, column, questions[0], options), Effort(2.0, 0, 0.0))
    index.filtered = _tune(empty, column, questions[1], options)
    return index, (round(_recall(index, questions[2]), 4), round(_recall(index, questions[3]), 4))


def _choose_rows(random: np.random.Generator, rows: int, n: int) -> Ints:
    return np.sort(random.choice(rows, min(rows, n), replace=False, shuffle=False))


# --- tuning ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Questions:
    """Stored rows as queries, the rows that may not answer each, and the cosine of the tenth that do.

    ``filtered`` says that rows of the same word are left out, as --other-words does: the most selective
    filter there is, since most nearest rows are of the same word.
    """

    queries_QD: Floats
    excluded: Sequence[Ints]
    tenth_Q: Floats
    filtered: bool


def _questions(
    column: Column, postings: Postings, store: Store, random: np.random.Generator
) -> Iterator[_Questions]:
    """Held-out rows to tune with, among all rows and among other words' rows; and others to measure with."""
    counts = [_QUERIES, _FILTERED_QUERIES] * 2
    rows_N = _choose_rows(random, len(column), sum(counts))
    random.shuffle(rows_N)
    groups = np.split(rows_N, np.cumsum([round(len(rows_N) * n / sum(counts)) for n in counts])[:-1])
    excluded: list[Ints] = []
    for number, group in enumerate(groups):
        if number % 2:
            excluded += [postings.positions(row["word"]) for row in store.rows(group)]
        else:
            excluded += [group[n : n + 1] for n in range(len(group))]
    queries_QD = normalised(column.take(np.concatenate(groups)))
    _, best_QK = scan(column, queries_QD, 10, excluded)
    first = 0
    for number, group in enumerate(groups):
        mine = slice(first, first + len(group))
        # A millionth: scan and index do not sum a cosine in the same order.
        yield _Questions(queries_QD[mine], excluded[mine], best_QK[mine, -1] - 2e-6, bool(number % 2))
        first += len(group)


def _tune(empty: Any, column: Column, questions: _Questions, options: IndexOptions) -> Effort:  # noqa: ANN401 (any FAISS index)
    """The cheapest effort that reaches the recall; the best there is where none does."""
    index = Index(empty, column, Effort(2.0, 0, 0.0), Effort(2.0, 0, 0.0))
    margins = _FILTERED_MARGINS if questions.filtered else _MARGINS
    depths = _FILTERED_DEPTHS if questions.filtered else _DEPTHS
    tried: list[tuple[float, float, Effort]] = []
    for margin in margins:
        proposals = _propose(index, column, questions, margin, depths[-1] + 1)
        probed = index.share_probed(questions.queries_QD, margin) * len(column)
        for depth in depths:
            for slack in _SLACKS:
                recall, compared = _recall_of(proposals, questions.tenth_Q, depth, slack)
                cost = probed * _SCAN_COST + depth * _PROPOSAL_COST + compared * _EXACT_COST
                tried.append((recall, cost, Effort(margin, depth, slack)))
        # A wider margin costs more; it is worth a look only as long as depth makes up for it.
        reached = [cost for recall, cost, _ in tried if recall >= options.recall]
        if reached and probed * _SCAN_COST > min(reached):
            break
    good = [(cost, effort.depth, effort) for recall, cost, effort in tried if recall >= options.recall]
    if good:
        return min(good, key=lambda each: each[:2])[2]
    return max(tried, key=lambda each: (each[0], -each[1]))[2]


_Proposals = list[tuple[Floats, Floats]]


def _propose(index: Index, column: Column, questions: _Questions, margin: float, depth: int) -> _Proposals:
    """Estimated and exact cosines of each query's proposals, best estimates first."""
    found: _Proposals = [(np.zeros(0, np.float32), np.zeros(0, np.float32))] * len(questions.queries_QD)

    def propose(first: int, queries_QD: Floats, allowed_N: Mask | None) -> None:
        def take(begin: int, estimates_QC: Floats, candidates_QC: Ints) -> None:
            for query, row in enumerate(candidates_QC, first + begin):
                others = (row >= 0) & ~np.isin(row, questions.excluded[query])
                estimates_C = estimates_QC[query - first - begin][others]
                query_C = np.full(len(estimates_C), query)
                found[query] = estimates_C, cosines(column, questions.queries_QD, query_C, row[others])

        index.propose(queries_QD, margin, depth, allowed_N, take)

    if not questions.filtered:
        propose(0, questions.queries_QD, None)
        return found

    def propose_one(number: int) -> None:
        allowed_N = _all_but(len(column), questions.excluded[number])
        propose(number, questions.queries_QD[number : number + 1], allowed_N)

    # Each query has rows of its own to leave out, and so a search of its own: two at a time.
    with ThreadPoolExecutor(2) as waiting:
        list(waiting.map(propose_one, range(len(questions.queries_QD))))
    return found


def _all_but(rows: int, excluded: Ints) -> Mask:
    allowed_N = np.ones(rows, np.bool_)
    allowed_N[excluded] = False
    return allowed_N


def _recall_of(proposals: _Proposals, tenth_Q: Floats, depth: int, slack: float) -> tuple[float, float]:
    """Recall@10 of an effort, and how many rows it compares exactly, for the mean query."""
    found = compared = 0
    for (estimates_C, exact_C), tenth in zip(proposals, tenth_Q, strict=True):
        bar = estimates_C[9] - slack if len(estimates_C) > 9 else -np.inf
        n = int(np.count_nonzero(estimates_C[:depth] >= bar))
        compared += n
        # A hit counts by its score: texts repeat, so the tenth place is often shared.
        found += min(10, int(np.count_nonzero(exact_C[:n] >= tenth)))
    return found / (10 * len(tenth_Q)), compared / len(tenth_Q)


def _recall(index: Index, questions: _Questions) -> float:
    """Recall@10 of searches as users make them, against exact search."""
    found = 0
    for number, query_D in enumerate(questions.queries_QD):
        out = questions.excluded[number]
        if questions.filtered:
            allowed_N = _all_but(index.rows, out)
            positions_QK, scores_QK = index.nearest(query_D[None], 10, allowed_N, index.rows - len(out))
        else:
            positions_QK, scores_QK = index.nearest(query_D[None], 11)
        scores_K = scores_QK[0][~np.isin(positions_QK[0], out)][:10]
        found += int(np.count_nonzero(scores_K >= questions.tenth_Q[number]))
    return found / (10 * len(questions.queries_QD))
