"""Writes, checks and loads the files under OUT/index: an index a column, and the table of each word's rows.

Each has a JSON file, written last, that names the shards it was built from. Without an intact JSON file, an
index does not count.
"""

import itertools
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss

from ctxbatch.errors import SHOWN_REASON, StoreError, cannot_be_read, out_of_memory
from ctxbatch.files import refused_link, replacing
from ctxbatch.formulas import plain
from ctxbatch.sealed import Count, Sha256, file_digest, is_intact, is_there, read_json, typed
from ctxbatch.search.best_scores import BestScores
from ctxbatch.search.index import (
    Effort,
    Efforts,
    Index,
    IndexOptions,
    Proposer,
    Recalls,
    ivf_in,
    rotation_in,
    said_by_faiss,
)
from ctxbatch.search.postings import Postings, is_current
from ctxbatch.store.columns import Column
from ctxbatch.store.commits import built_from
from ctxbatch.store.folder_location import FolderLocation
from ctxbatch.store.manifest import INDEX, Manifest
from ctxbatch.store.moments import Standardiser
from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")
# Matches what FAISS says if it cannot read a file, rather than parse it.
_NOT_READ = re.compile(r"could not open .* for reading|read error in .*\((?!Success\))")
# The name of the table of each word's rows.
WORD_ROWS = "words"
# The names of recalls in the JSON file of an index.
_RECALLS = {
    "stored": "recall_at_10",
    "other_words": "filtered_recall_at_10",
    "new": "new_recall_at_10",
    "thorough_stored": "thorough_recall_at_10",
    "thorough_new": "thorough_new_recall_at_10",
}
# Of a few queries to an index that was not tuned for such: all lists.
_THOROUGH = Effort(margin=2.0, depth=3200, slack=2.0)


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """The fields of every JSON file of an index: its file, and what that was built from.

    ``built_from`` holds the checksum of each shard's words.arrow, by shard. Shards that were appended to the
    store since may be missing.
    """

    file: str
    bytes: Count
    sha256: Sha256
    built_from: dict[str, str]

    def has_all(self, store: Store) -> bool:
        """Return True if it was built from all shards of the store."""
        return len(self.built_from) == len(store.commits)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookFacts(FileOrigin):
    """The content of the JSON file of a codebook, which is trained on rows of the shards ``built_from``.

    ``standardiser`` is that of standardised vectors, as in `IndexFacts`.
    """

    column: str
    factory: str
    faiss_version: str
    standardiser: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts(FileOrigin):
    """The content of the JSON file of a column's index.

    ``standardiser`` is that of standardised vectors, as `ctxbatch.store.moments.Standardiser.as_text` has it.
    The recalls are those of `ctxbatch.search.index.Recalls`. Indexes of before have no thorough efforts.
    ``trained_rows`` are the rows of the store when the index was made, if it has grown since. ``codebook`` is
    what its rows were coded against, if that is kept.
    """

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
    standardiser: str | None = None
    thorough: Effort = _THOROUGH
    thorough_filtered: Effort = _THOROUGH
    new_recall_at_10: float | None = None
    thorough_recall_at_10: float | None = None
    thorough_new_recall_at_10: float | None = None
    best_scores: BestScores | None = None
    trained_rows: Count | None = None
    codebook: CodebookFacts | None = None

    @property
    def efforts(self) -> Efforts:
        """How much of the index a search reads."""
        return Efforts(self.plain, self.filtered, self.thorough, self.thorough_filtered)

    @property
    def recalls(self) -> Recalls:
        """How much of what exact search finds its searches found when it was built."""
        return Recalls(**{name: getattr(self, field) for name, field in _RECALLS.items()})


def facts_path(out: Path, name: str) -> Path:
    """Return the path of the JSON file of a column's index, or of the table of words."""
    return out / INDEX / f"{name}.json"


def index_files(out: Path) -> list[Path]:
    """Return the JSON files of a store's indexes and of its table of words, including missing ones."""
    folder = out / INDEX
    orphans = (path.with_suffix(".json") for path in (*folder.glob("*.faiss"), *folder.glob("*.arrow")))
    return sorted({*folder.glob("*.json"), *orphans})


def check_index(path: Path, manifest: Manifest, *, complete: bool = True) -> Iterator[str]:
    """Yield a line if the index of this JSON file is damaged or was built from other shards.

    Only a ``complete`` store tells whether they are others: missing ones may come to be the same again.

    Raises:
        ResourceError: The disk or a permission prevents reading.
    """
    try:
        damage = _damage(read_facts(path), path, manifest, complete)
    except FileNotFoundError as error:
        damage = f"{error.filename} is missing"
    except StoreError as error:
        damage = str(error)
    if damage is not None:
        yield f"{damage}; rebuild it with `{rebuild_command(path)}`"


def _damage(facts: FileOrigin, path: Path, manifest: Manifest, complete: bool = True) -> str | None:
    file = path.parent / facts.file
    if not is_intact(file, facts.bytes, facts.sha256):
        return f"{file} is damaged: its content does not match its checksum"
    if not complete or len(facts.built_from) > len(manifest.shards):
        return None  # appended to, and indexed, since the store was opened: it is of no use here
    now = built_from(FolderLocation(path.parent.parent).commits(manifest))
    if facts.built_from != dict(itertools.islice(now.items(), len(facts.built_from))):
        return f"{file} was built from other shards than the store has now"
    return None


def read_facts(path: Path) -> FileOrigin:
    """Read the JSON file of an index, or of the table of words.

    Raises:
        FileNotFoundError: The file does not exist.
        StoreError: The file is damaged.
        ResourceError: The disk or a permission prevents reading.
    """
    kind, suffix = (FileOrigin, ".arrow") if path.stem == WORD_ROWS else (IndexFacts, ".faiss")
    facts = typed(read_json(path), kind, path)
    if facts.file != path.stem + suffix:
        raise StoreError(f"{path} is damaged: it names the file {facts.file!r}")
    if isinstance(facts, IndexFacts) and facts.column != path.stem:
        raise StoreError(f"{path} is damaged: it names the column {facts.column!r}")
    if isinstance(facts, IndexFacts) and facts.codebook is not None and facts.codebook.column != path.stem:
        raise StoreError(f"{path} is damaged: it names a codebook of the column {facts.codebook.column!r}")
    return facts


def rebuild_command(path: Path) -> str:
    """Return the command that rebuilds an index."""
    return f"ctxbatch index {path.parent.parent}{'' if path.stem == WORD_ROWS else f' {_options(path.stem)}'}"


def _options(column: str) -> str:
    return f"--on {plain(column)}{' --standardise' if plain(column) != column else ''}"


def folder_damage(out: Path) -> Iterator[str]:
    """Yield a line if the folder of a store's indexes is a link or a file; a store need not have one."""
    folder = out / INDEX
    if folder.is_symlink():
        yield refused_link(folder)
    elif is_there(folder) and not folder.is_dir():
        yield f"{folder} is not a folder: remove it"


def _intact_facts(store: Store, name: str) -> FileOrigin | None:
    path = facts_path(store.path, name)
    if not is_there(path):
        if path in index_files(store.path):  # a build was killed, or somebody deleted it
            log.warning(
                "%s is missing, so the search reads all rows; rebuild it with `%s`",
                path,
                rebuild_command(path),
            )
        for damage in folder_damage(store.path):
            raise StoreError(damage)
        return None
    for damage in check_index(path, store.manifest):
        raise StoreError(damage)
    return read_facts(path)


def standardiser_of(store: Store, facts: IndexFacts) -> Standardiser | None:
    """Return what standardised the vectors of an index; ``None`` if they are not standardised.

    Raises:
        StoreError: The facts are damaged.
    """
    if plain(facts.column) == facts.column:
        return None
    try:
        return Standardiser.from_text(facts.standardiser or "", store.config.hidden_size)
    except ValueError as error:
        path = facts_path(store.path, facts.column)
        raise StoreError(f"{path} is damaged ({error}); rebuild it with `{rebuild_command(path)}`") from error


def open_index(store: Store, column: str) -> Index | None:
    """Load the index of a column; return ``None`` if it has none.

    Raises:
        StoreError: The index is damaged or was built from other shards; the message says how to rebuild it.
        ResourceError: The disk, a permission or a lack of memory prevents loading.
    """
    facts = _intact_facts(store, column)
    if not isinstance(facts, IndexFacts):
        return None
    if len(facts.built_from) > len(store.manifest.shards):
        log.info(
            "the index on %s is newer than this view of %s: the search reads all rows", column, store.path
        )
        return None
    index, vectors = load(store, facts)
    n_indexed = index.ntotal
    if n_indexed < store.n_rows:
        log.info(
            "the index on %s lacks the %s rows that were appended to %s since: the search reads these; index "
            "them with `%s`",
            column,
            f"{store.n_rows - n_indexed:,}",
            store.path,
            rebuild_command(facts_path(store.path, column)),
        )
    return Index(
        Proposer(index), vectors, facts.efforts, standardiser_of(store, facts), n_indexed, facts.best_scores
    )


def load(store: Store, facts: IndexFacts) -> tuple[Any, Column]:
    """Return the FAISS index of intact facts, and the column that it is on, of all rows of the store.

    Raises:
        StoreError: It is no index of the store's first rows.
        ResourceError: The disk, a permission or a lack of memory prevents loading.
    """
    rows = [commit.counts.rows for commit in store.commits.values()][: len(facts.built_from)]
    index = open_faiss_file(store, facts.column, store.path / INDEX / facts.file, sum(rows))
    return index, store.column(facts.column, standardiser_of(store, facts))


def write_faiss_file(index: Any, path: Path, *, outdated: Path | None = None) -> dict[str, Any]:  # noqa: ANN401 (any FAISS index)
    """Write an index, whole or not at all; ``outdated`` are facts about the old one, valid until then.

    Returns:
        What facts say of the file.
    """
    with replacing(path) as beside:
        with beside.open("wb") as stream:  # FAISS's own files lose what the disk says; its stubs, the writer
            faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]  # not in its stubs
        written = {"file": path.name, "bytes": beside.stat().st_size, "sha256": file_digest(beside)}
        if outdated is not None:
            outdated.unlink(missing_ok=True)
    return written


def open_faiss_file(store: Store, column: str, path: Path, n_rows: int) -> Any:  # noqa: ANN401 (any FAISS index)
    """Load the FAISS file of a column, and check that it is an index of the store's first rows.

    Raises:
        StoreError: It is none.
        ResourceError: The disk, a permission or a lack of memory prevents loading.
    """
    try:
        index: Any = faiss.read_index(str(path))
    except MemoryError as error:
        raise out_of_memory(path) from error
    except (RuntimeError, ValueError, OverflowError) as error:
        why = said_by_faiss(error)
        if _NOT_READ.search(why):
            raise cannot_be_read(path, why[:SHOWN_REASON]) from error
        raise StoreError(_not_an_index(store, column, path, why)) from error
    ivf = ivf_in(index)
    if ivf is None:
        raise StoreError(_not_an_index(store, column, path, "it holds no IVF index"))
    dimension = store.config.hidden_size
    lists: Any = ivf.invlists
    n_listed = sum(lists.list_size(number) for number in range(min(ivf.nlist, lists.nlist)))
    if (index.ntotal, index.d, ivf.ntotal, ivf.d, n_listed) != (n_rows, dimension, n_rows, dimension, n_rows):
        why = f"it holds {index.ntotal:,} vectors of {index.d} dimensions, not {n_rows:,} of {dimension}"
        raise StoreError(_not_an_index(store, column, path, why))
    turn = rotation_in(index)
    if turn is not None and (not turn.is_trained or turn.A.size() != dimension**2):
        raise StoreError(_not_an_index(store, column, path, "its rotation is none"))
    for part in (ivf, ivf.quantizer):
        if not part.is_trained or part.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise StoreError(_not_an_index(store, column, path, "it is not trained for cosines"))
    if (ivf.quantizer.ntotal, ivf.quantizer.d) != (ivf.nlist, dimension):
        raise StoreError(_not_an_index(store, column, path, "its centroids do not match its lists"))
    return index


def _not_an_index(store: Store, column: str, path: Path, why: str) -> str:
    return f"{path} is damaged ({why}); rebuild it with `{rebuild_command(facts_path(store.path, column))}`"


def open_postings(store: Store) -> Postings:
    """Return the rows of each word, read from their table if the store has one of this version's keys.

    Raises:
        StoreError: The table is damaged or was built from other shards; the message says how to rebuild it.
    """
    facts = _intact_facts(store, WORD_ROWS) if store.complete else None
    if facts is None or not facts.has_all(store):  # an append is not finished
        return Postings(store, None)
    path = store.path / INDEX / facts.file
    if is_current(path):
        return Postings(store, path)
    log.warning(
        "%s is of a version that compared words otherwise, so it is not used; rebuild it with `%s`",
        path,
        rebuild_command(facts_path(store.path, WORD_ROWS)),
    )
    return Postings(store, None)


def efforts_and_recalls(efforts: Efforts, recalls: Recalls) -> dict[str, Any]:
    """Return them as the JSON file of an index holds them."""
    return {**asdict(efforts), **{_RECALLS[name]: value for name, value in asdict(recalls).items()}}
