"""The FAISS index that proposes nearest contexts: how it is searched, and its files.

Owns the files under OUT/index: an index on a column, and the table of each word's rows, each with a JSON
file, written last, that names what it was built from. Without an intact JSON there is no index. Array
names end in the letters of their shape: Q queries, K hits, C candidates, L lists, N rows, D hidden size.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError, ResourceError, StoreError
from ctxbatch.files import refused_link
from ctxbatch.sealed import Count, Positive, Sha256, file_digest, is_there, read_json, size_of, typed
from ctxbatch.search.exact import Selection, among, exact
from ctxbatch.search.postings import Postings
from ctxbatch.store.commits import WORDS, Commit
from ctxbatch.store.folder_location import FolderLocation
from ctxbatch.store.manifest import INDEX, Manifest
from ctxbatch.store.reader import Column, Store

log = logging.getLogger("ctxbatch")
# What FAISS says where a file that is there cannot be read, rather than be understood.
_NOT_READ = re.compile(r"could not open .* for reading|read error in .*\((?!Success\))")
# The table of each word's rows.
WORD_ROWS = "words"
# So many queries share one pass over the lists that they probe; and so many are held at a time.
_CHUNK_QUERIES = 64
_BATCH_QUERIES = 1_024
# So many candidates, of several queries, are compared at a time: they fit the processor's cache.
_COMPARED_ROWS = 2_048
# So few rows are compared exactly sooner than an index proposes among them.
_SCANNED_ROWS = 8_192
# And so do rows that are fewer than this many times its proposals.
_SCANNED_SHARE = 4
# For each hit beyond ten.
_PROPOSALS_PER_HIT = 20


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
class Effort:
    """How much of an index one search reads; tuned when the index is built.

    Lists are probed whose centroid's cosine lies within ``margin`` of the nearest centroid's: few for a
    query like many stored rows, many for one like none. Of the best ``depth`` proposals for ten hits,
    those are compared exactly whose estimated cosine lies within ``slack`` of the last hit's.
    """

    margin: float
    depth: Positive
    slack: float

    def candidates(self, k: int) -> int:
        """How many proposals a search for so many hits asks for."""
        return self.depth + _PROPOSALS_PER_HIT * max(0, k - 10)


class Proposer:
    """A FAISS index that estimates which rows are nearest; threads may use it together.

    Args:
        index: IVF, of inner products; its ids are the positions of the rows.
    """

    def __init__(self, index: Any) -> None:  # noqa: ANN401 (any FAISS index)
        self._index = index
        quantizer = faiss.downcast_index(index.quantizer)
        self._centroids_LD: Floats = quantizer.reconstruct_n(0, index.nlist)

    def share_probed(self, queries_QD: Floats, margin: float) -> float:
        """The share of the lists that the mean query probes."""
        coarse_QL = queries_QD @ self._centroids_LD.T
        return float(np.mean(coarse_QL >= coarse_QL.max(axis=1, keepdims=True) - margin))

    def propose(
        self,
        queries_QD: Floats,
        margin: float,
        n_candidates: int,
        selection: Selection | None,
        take: Callable[[int, Floats, Ints], None],
    ) -> None:
        """Hand proposals to ``take``: the number of the first query, estimated cosines (Q, C), positions.

        Best first, ``n_candidates`` at most; -1 is none. ``take`` is called from several threads, each
        time for other queries.
        """
        bits = None if selection is None else np.packbits(selection.mask_N, bitorder="little")
        # FAISS's stubs describe C++; in Python its classes take arrays and keywords.
        selector: Any = None if bits is None else faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg,arg-type]  # FAISS wraps it
        n_candidates = min(n_candidates, self._index.ntotal)

        def run(first: int, queries_QD: Floats, coarse_QL: Floats) -> None:
            lists_QL, coarse_QL = _probed(coarse_QL, margin)
            options: Any = faiss.SearchParametersIVF(nprobe=lists_QL.shape[1], sel=selector)  # type: ignore[call-arg]  # FAISS wraps it
            estimates_QC = np.empty((len(queries_QD), n_candidates), np.float32)
            found_QC = np.empty((len(queries_QD), n_candidates), np.int64)
            arrays = (queries_QD, n_candidates, lists_QL, coarse_QL, estimates_QC, found_QC)
            pointers = [each if isinstance(each, int) else faiss.swig_ptr(each) for each in arrays]
            try:
                self._index.search_preassigned_c(len(queries_QD), *pointers, False, options)
            except RuntimeError as error:  # its file was made by somebody who can compute checksums
                why = str(error).rpartition("failed: ")[2][:200]
                raise StoreError(
                    f"the index cannot be searched ({why}): rebuild it with `ctxbatch index`"
                ) from error
            take(first, estimates_QC, found_QC)

        for begin in range(0, len(queries_QD), _BATCH_QUERIES):
            batch_QD = np.ascontiguousarray(queries_QD[begin : begin + _BATCH_QUERIES])
            coarse_QL = batch_QD @ self._centroids_LD.T
            parts = [slice(at, at + _CHUNK_QUERIES) for at in range(0, len(batch_QD), _CHUNK_QUERIES)]
            tasks = [_threads().submit(run, begin + p.start, batch_QD[p], coarse_QL[p]) for p in parts]
            for task in tasks:
                task.result()


class Index:
    """An index on one column of a store; threads may search it together.

    Args:
        proposer: What proposes rows.
        column: The stored vectors that decide.
        plain: The effort of a search among all rows.
        filtered: The effort of a search among some of them, which lie farther from the query.
    """

    def __init__(self, proposer: Proposer, column: Column, plain: Effort, filtered: Effort) -> None:
        self._proposer = proposer
        self._column = column
        self.plain = plain
        self.filtered = filtered

    def nearest(self, queries_QD: Floats, k: int, selection: Selection | None = None) -> tuple[Ints, Floats]:
        """Positions and cosines (Q, K) of the nearest rows, best first; K is less than k where rows are few.

        The index proposes, the exact cosine decides.

        Args:
            queries_QD: Normalised queries.
            k: How many hits.
            selection: Which rows count; all of them by default.
        """
        n_rows = len(self._column) if selection is None else selection.n
        k = min(k, n_rows)
        effort = self.plain if selection is None else self.filtered
        if n_rows <= max(_SCANNED_ROWS, _SCANNED_SHARE * effort.candidates(k)):
            return exact(self._column, queries_QD, k, selection)
        positions_QK = np.full((len(queries_QD), k), -1, np.int64)
        scores_QK = np.full((len(queries_QD), k), -np.inf, np.float32)

        def decide(first: int, estimates_QC: Floats, candidates_QC: Ints) -> None:
            if candidates_QC.max(initial=-1) >= len(self._column):
                raise StoreError(
                    "the index proposes rows that the store does not have: rebuild it with `ctxbatch index`"
                )
            # Where fewer than k rows are estimated, all that the probed lists hold are compared.
            bar_Q = estimates_QC[:, k - 1 : k] - effort.slack if k <= estimates_QC.shape[1] else -np.inf
            compared_QC = (candidates_QC >= 0) & (estimates_QC >= bar_Q)
            at_once = max(1, int(_COMPARED_ROWS * len(compared_QC) / max(1, compared_QC.sum())))
            for begin in range(0, len(candidates_QC), at_once):
                some = slice(begin, begin + at_once)
                here = slice(first + begin, first + min(begin + at_once, len(candidates_QC)))
                query_C = np.nonzero(compared_QC[some])[0]
                candidates_C = candidates_QC[some][compared_QC[some]]
                found = among(self._column, queries_QD[here], query_C, candidates_C, k)
                positions_QK[here], scores_QK[here] = found

        self._proposer.propose(queries_QD, effort.margin, effort.candidates(k), selection, decide)
        short = np.flatnonzero((positions_QK < 0).any(axis=1))
        if len(short):  # more asked for than the probed lists hold
            positions_QK[short], scores_QK[short] = exact(self._column, queries_QD[short], k, selection)
        return positions_QK, scores_QK


def _probed(coarse_QL: Floats, margin: float) -> tuple[Ints, Floats]:
    """The lists to probe for each query and their centroids' cosines; -1 is no list."""
    query, found = np.nonzero(coarse_QL >= coarse_QL.max(axis=1, keepdims=True) - margin)
    counts_Q = np.bincount(query, minlength=len(coarse_QL))
    column = np.arange(len(query)) - np.repeat(np.cumsum(counts_Q) - counts_Q, counts_Q)
    lists_QL = np.full((len(coarse_QL), counts_Q.max()), -1, np.int64)
    lists_QL[query, column] = found
    cosines_QL = np.zeros(lists_QL.shape, np.float32)
    cosines_QL[query, column] = coarse_QL[query, found]
    return lists_QL, cosines_QL


@cache
def _threads() -> ThreadPoolExecutor:
    """One thread a core; each searches alone, since FAISS's own threads would outnumber the cores."""
    return ThreadPoolExecutor(count_cores(), "search", initializer=faiss.omp_set_num_threads, initargs=(1,))


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """What every JSON file of an index says: which file it is of, and what that was built from.

    ``built_from`` are the checksums of the shards' words, by shard.
    """

    file: str
    bytes: Count
    sha256: Sha256
    built_from: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts(FileOrigin):
    """What the JSON file of an index on a column says."""

    column: str
    rows: Count
    factory: str
    options: IndexOptions
    plain: Effort
    filtered: Effort
    recall_at_10: float
    filtered_recall_at_10: float
    seconds: float
    faiss_version: str


def facts_path(out: Path, name: str) -> Path:
    """Where the JSON lies that makes an index on a column, or the table of words, count."""
    return out / INDEX / f"{name}.json"


def index_files(out: Path) -> list[Path]:
    """The JSON files of all indexes of a store and of its table of words; also where only it is missing."""
    folder = out / INDEX
    orphans = (path.with_suffix(".json") for path in (*folder.glob("*.faiss"), *folder.glob("*.arrow")))
    return sorted({*folder.glob("*.json"), *orphans})


def built_from(commits: Mapping[int, Commit]) -> dict[str, str]:
    """The checksums of the shards' words, by shard: what an index has to match."""
    return {str(shard): commit.files[WORDS].sha256 for shard, commit in commits.items()}


def check_index(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield a line if an index, named by its JSON file, is damaged or not of this store's shards.

    Raises:
        ResourceError: The disk or a permission does not let it be read.
    """
    try:
        damage = _damage(read_facts(path), path, manifest)
    except FileNotFoundError as error:
        damage = f"{error.filename} is missing"
    except StoreError as error:
        damage = str(error)
    if damage is not None:
        yield f"{damage}; rebuild it with `{rebuild_command(path)}`"


def _damage(facts: FileOrigin, path: Path, manifest: Manifest) -> str | None:
    file = path.parent / facts.file
    if size_of(file) not in (None, facts.bytes) or file_digest(file) != facts.sha256:
        return f"{file} is damaged: its content does not match its checksum"
    if facts.built_from != built_from(FolderLocation(path.parent.parent).commits(manifest)):
        return f"{file} was built from other shards than those that are there"
    return None


def read_facts(path: Path) -> FileOrigin:
    """Read the JSON file of an index, or of the table of words.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: It is damaged.
        ResourceError: The disk or a permission does not let it be read.
    """
    kind, suffix = (FileOrigin, ".arrow") if path.stem == WORD_ROWS else (IndexFacts, ".faiss")
    facts = typed(read_json(path), kind, path)
    if facts.file != path.stem + suffix:
        raise StoreError(f"{path} is damaged: it names the file {facts.file!r}")
    if isinstance(facts, IndexFacts) and facts.column != path.stem:
        raise StoreError(f"{path} is damaged: it is of the column {facts.column!r}")
    return facts


def rebuild_command(path: Path) -> str:
    """Return the command that rebuilds an index."""
    kind, _, layer = path.stem.partition("_")
    wanted = "" if kind == WORD_ROWS else f" --on {kind}" + (f" --layer {layer}" if layer else "")
    return f"ctxbatch index {path.parent.parent}{wanted}"


def folder_damage(out: Path) -> Iterator[str]:
    """Yield what is wrong with the folder of a store's indexes; a store need not have one."""
    folder = out / INDEX
    if folder.is_symlink():
        yield refused_link(folder)
    elif is_there(folder) and not folder.is_dir():
        yield f"{folder} is not a folder: remove it"


def _intact_facts(store: Store, name: str) -> FileOrigin | None:
    path = facts_path(store.path, name)
    if not is_there(path):
        if path in index_files(store.path):  # as a build leaves it that is killed, or somebody's hand
            log.warning("%s is missing: all rows are read; rebuild it with `%s`", path, rebuild_command(path))
        for damage in folder_damage(store.path):
            raise StoreError(damage)
        return None
    for damage in check_index(path, store.manifest):
        raise StoreError(damage)
    return read_facts(path)


def open_index(store: Store, column: str) -> Index | None:
    """Load the index on a column; ``None`` where there is none.

    Raises:
        StoreError: It is damaged or was built from other shards; the message says how to rebuild it.
        ResourceError: The disk, a permission or the memory does not let it be loaded.
    """
    facts = _intact_facts(store, column)
    if not isinstance(facts, IndexFacts):
        return None
    index = _load(store, column, store.path / INDEX / facts.file)
    return Index(Proposer(index), store.column(column), facts.plain, facts.filtered)


def _load(store: Store, column: str, path: Path) -> Any:  # noqa: ANN401 (any FAISS index)
    """Load a FAISS file, and make sure that it is an index of the store's rows."""
    try:
        index: Any = faiss.read_index(str(path))
    except MemoryError as error:
        raise ResourceError(f"{path} cannot be loaded: there is not enough memory") from error
    except (RuntimeError, ValueError, OverflowError) as error:
        why = str(error).strip().splitlines()[-1].rpartition("failed: ")[2]
        if _NOT_READ.search(why):
            raise ResourceError(f"{path} cannot be read ({why[:200]}): fix that and run again") from error
        raise StoreError(_not_an_index(store, column, path, why)) from error
    if not isinstance(index, faiss.IndexIVF):
        raise StoreError(_not_an_index(store, column, path, "it holds no IVF index"))
    n_rows, dimension = store.n_rows, store.config.hidden_size
    lists: Any = index.invlists
    n_listed = sum(lists.list_size(number) for number in range(min(index.nlist, lists.nlist)))
    if (index.ntotal, index.d, n_listed) != (n_rows, dimension, n_rows):
        why = f"it holds {index.ntotal:,} vectors of {index.d}, the store {n_rows:,} of {dimension}"
        raise StoreError(_not_an_index(store, column, path, why))
    for part in (index, index.quantizer):
        if not part.is_trained or part.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise StoreError(_not_an_index(store, column, path, "it is not trained for cosines"))
    if (index.quantizer.ntotal, index.quantizer.d) != (index.nlist, dimension):
        raise StoreError(_not_an_index(store, column, path, "its lists have no centroids"))
    return index


def _not_an_index(store: Store, column: str, path: Path, why: str) -> str:
    return f"{path} is damaged ({why}); rebuild it with `{rebuild_command(facts_path(store.path, column))}`"


def open_postings(store: Store) -> Postings:
    """The rows of each word, from their table where there is one.

    Raises:
        StoreError: The table is damaged or was built from other shards; the message says how to rebuild it.
    """
    facts = _intact_facts(store, WORD_ROWS)
    return Postings(store, None if facts is None else store.path / INDEX / facts.file)


def effort_facts(index: Index) -> dict[str, Any]:
    """What `open_index` reads of an index's efforts."""
    return {"plain": asdict(index.plain), "filtered": asdict(index.filtered)}
