"""The FAISS index that proposes nearest contexts: building, checking, opening.

Owns the normalisation that build and query share, and the files under OUT/index: the FAISS file, and a
JSON file, written last, that names what it was built from. Without an intact JSON there is no index.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ctxbatch.errors import StoreError
from ctxbatch.layout import INDEX, Manifest, file_digest, read_json, write_atomically, write_json
from ctxbatch.store import Ints, Store, committed_shards
from ctxbatch.writer import WORDS

# Fewer rows than this are scanned faster than an index of them is loaded.
SCAN_ROWS = 50_000
# Chosen by measurement on the million word vectors of the King James Bible; see README.
MIN_PROBES = 32
N_PROBE_SHARE = 1 / 8
CANDIDATES_PER_HIT = 60
MIN_CANDIDATES = 600
_TRAIN_ROWS_PER_LIST = 64
_ADD_ROWS = 65_536
_RECALL_QUERIES = 100
_SEED = 20_240_607

Floats = npt.NDArray[np.float32]


def normalised(vectors: npt.NDArray[Any]) -> Floats:
    """Copy vectors (N, D) to float32 of length 1; a zero vector stays zero."""
    copy = np.array(vectors, np.float32, order="C")
    norms = np.linalg.norm(copy, axis=1, keepdims=True)
    np.divide(copy, norms, out=copy, where=norms > 0)
    return copy


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a build did. ``path`` is ``None`` where the rows are few enough to be scanned."""

    column: str
    rows: int
    path: Path | None
    bytes: int = 0
    seconds: float = 0.0
    recall: float = 0.0

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.column}: {self.rows:,} rows are searched exactly, no index needed"
        return (
            f"{self.column}: {self.rows:,} rows indexed in {self.seconds:.0f} s, "
            f"{self.bytes / self.rows:.0f} bytes a vector, recall@10 {self.recall:.3f} on stored rows"
        )


def ensure(store: Store, column: str) -> IndexReport:
    """Like `build`, but leaves alone an index that is intact and of these very shards."""
    path = index_path(store.path, column)
    record = path.with_suffix(".json")
    if not record.exists() or any(check_index(record, store.manifest)):
        return build(store, column)
    facts = read_json(record)
    return IndexReport(column, store.n_rows, path, facts["bytes"], facts["seconds"], facts["recall_at_10"])


def build(store: Store, column: str) -> IndexReport:
    """Build the index on a column, replacing the one that is there. Only under the store's lock.

    Trained on a random sample over all shards, added block by block.

    Raises:
        StoreError: Shards are missing or damaged.
        OSError: The disk refuses.
    """
    if not store.complete:
        missing = len(store.manifest.shards) - len(store.commits)
        raise StoreError(
            f"{store.path} lacks {missing} of its shards: finish it with the `ctxbatch run` that began it"
        )
    path = index_path(store.path, column)
    path.with_suffix(".json").unlink(missing_ok=True)
    if store.n_rows < SCAN_ROWS:
        path.unlink(missing_ok=True)
        return IndexReport(column, store.n_rows, None)
    started = time.monotonic()
    index, factory = _train(store, column)
    for first, block in store.blocks(column):
        for begin in range(0, len(block), _ADD_ROWS):
            part = normalised(block[begin : begin + _ADD_ROWS])
            index.add_with_ids(part, np.arange(len(part), dtype=np.int64) + first + begin)
    content = faiss.serialize_index(index).tobytes()
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)
    seconds = round(time.monotonic() - started, 1)
    recall = _measure_recall(index, store, column)
    facts = {
        "column": column,
        "rows": store.n_rows,
        "factory": factory,
        "nprobe": index.nprobe,
        "seconds": seconds,
        "recall_at_10": round(recall, 4),
        "faiss_version": faiss.__version__,
        "built_from": built_from(store.commits),
        "bytes": len(content),
        "sha256": file_digest(path),
    }
    write_json(path.with_suffix(".json"), facts)
    return IndexReport(column, store.n_rows, path, len(content), seconds, recall)


def _train(store: Store, column: str) -> tuple[Any, str]:
    dimension = store.config.hidden_size
    n_lists = 2 ** round(np.log2(max(64, min(65_536, store.n_rows / 1024))))
    pieces = max(m for m in range(1, dimension // 4 + 1) if dimension % m == 0)
    factory = f"IVF{n_lists},PQ{pieces}x4fs"
    index: Any = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    random = np.random.default_rng(_SEED)
    size = min(store.n_rows, n_lists * _TRAIN_ROWS_PER_LIST)
    sample = np.sort(random.choice(store.row_ids(), size, replace=False))
    index.train(normalised(store.take(column, sample)))
    index.nprobe = max(MIN_PROBES, round(n_lists * N_PROBE_SHARE))
    return index, factory


def _measure_recall(index: Any, store: Store, column: str) -> float:  # noqa: ANN401 (any FAISS index)
    """Recall@10 of proposal and exact rerank for stored rows, against exact search over all rows."""
    random = np.random.default_rng(_SEED + 1)
    rows = np.sort(random.choice(store.row_ids(), _RECALL_QUERIES, replace=False))
    queries = normalised(store.take(column, rows))
    _, exact = scan(store.blocks(column), queries, 10)
    _, proposed = propose(index, store, column, queries, 10)
    # A hit counts by its score: texts repeat, so the tenth place is often shared.
    return float(np.mean(proposed >= exact[:, -1:] - 1e-6))


def scan(blocks: Iterator[tuple[int, npt.NDArray[Any]]], queries: Floats, k: int) -> tuple[Ints, Floats]:
    """Exact search: row_ids and cosines (Q, k) of the best rows of all blocks; -1 and -inf where fewer."""
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for first, block in blocks:
        for begin in range(0, len(block), _ADD_ROWS):
            part = normalised(block[begin : begin + _ADD_ROWS])
            numbers = np.arange(len(part), dtype=np.int64) + first + begin
            ids, scores = merge(ids, scores, numbers, queries @ part.T)
    return ids, scores


def merge(ids: Ints, scores: Floats, new_ids: Ints, new_scores: Floats) -> tuple[Ints, Floats]:
    """Keep the best k of (Q, k) hits and new ones, scores (Q, M) of ids (M,), best first, ties by row_id."""
    k = ids.shape[1]
    best_ids, best_scores = np.empty_like(ids), np.empty_like(scores)
    for query, found in enumerate(new_scores):
        # All that tie with the k-th stay in, so that which of them are kept depends on their ids alone.
        lowest = np.partition(found, -k)[-k] if len(found) > k else -np.inf
        kept = np.flatnonzero(found >= max(lowest, scores[query, -1]))
        all_ids = np.concatenate([ids[query], new_ids[kept]])
        all_scores = np.concatenate([scores[query], found[kept]])
        order = np.lexsort((all_ids, -all_scores))[:k]
        best_ids[query], best_scores[query] = all_ids[order], all_scores[order]
    return best_ids, best_scores


def propose(index: Any, store: Store, column: str, queries: Floats, k: int) -> tuple[Ints, Floats]:  # noqa: ANN401 (as above)
    """The index proposes, the exact cosine on the stored vectors decides: row_ids and cosines (Q, k)."""
    depth = max(MIN_CANDIDATES, k * CANDIDATES_PER_HIT)
    _, candidates = index.search(queries, depth)
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for number, query in enumerate(queries):
        found = np.unique(candidates[number][candidates[number] >= 0])
        exact = (normalised(store.take(column, found)) @ query)[None]
        mine = slice(number, number + 1)
        ids[mine], scores[mine] = merge(ids[mine], scores[mine], found, exact)
    return ids, scores


# --- files ----------------------------------------------------------------------------------------


def index_path(out: Path, column: str) -> Path:
    """Where the index on a column lies; its JSON has the same name."""
    return out / INDEX / f"{column}.faiss"


def index_files(out: Path) -> list[Path]:
    """The JSON files of all indexes of a store, and FAISS files without one."""
    folder = out / INDEX
    orphans = (path.with_suffix(".json") for path in folder.glob("*.faiss"))
    return sorted({*folder.glob("*.json"), *orphans})


def built_from(commits: dict[int, dict[str, Any]]) -> dict[str, str]:
    """The checksums of the shards' words, by shard: what an index has to match."""
    return {str(shard): commit["files"][WORDS]["sha256"] for shard, commit in commits.items()}


def check_index(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield a line if an index, named by its JSON file, is damaged or not of this store's shards."""
    remedy = f"rebuild it with `{rebuild_command(path)}`"
    try:
        facts = read_json(path)
    except StoreError as error:
        yield f"{error}; {remedy}"
        return
    file = path.with_suffix(".faiss")
    if not file.is_file() or file.stat().st_size != facts["bytes"] or file_digest(file) != facts["sha256"]:
        yield f"{file} is damaged or missing; {remedy}"
    elif facts["built_from"] != built_from(committed_shards(path.parent.parent, manifest)):
        yield f"{file} was built from other shards than those that are there; {remedy}"


def rebuild_command(path: Path) -> str:
    """The command that makes an index anew."""
    kind, _, layer = path.stem.partition("_")
    return f"ctxbatch index {path.parent.parent} --on {kind}" + (f" --layer {layer}" if layer else "")


def open_index(store: Store, column: str) -> Any | None:  # noqa: ANN401 (any FAISS index)
    """Load the index on a column; ``None`` where there is none.

    Raises:
        StoreError: It is damaged or was built from other shards; the message says how to rebuild it.
    """
    path = index_path(store.path, column).with_suffix(".json")
    if not path.exists():
        return None
    for damage in check_index(path, store.manifest):
        raise StoreError(damage)
    index: Any = faiss.read_index(str(path.with_suffix(".faiss")))
    index.nprobe = read_json(path)["nprobe"]
    return index
