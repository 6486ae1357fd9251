"""Trains the codebook of an index, codes each shard against it in a file of its own, and merges these parts.

A codebook is an index without rows: its lists, its rotation and its codes. It is trained on rows of a few
shards from all over the store. What a part holds depends on the codebook and on its shard alone. So a build
that was stopped goes on where it was, workers code shards as soon as these are committed, and an index grows
without being trained again. Array names end in the letters of their shape: N rows, C bytes of a code.
"""

import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ctxbatch.arrays import Floats, Ints
from ctxbatch.cores import count_cores
from ctxbatch.errors import StoreError
from ctxbatch.files import remove, replacing, write_atomically, write_json
from ctxbatch.sealed import is_there, not_readable, open_regular, read_bytes, read_json, typed
from ctxbatch.search.exact import normalised
from ctxbatch.search.index import IndexOptions, ivf_in, rotation_in
from ctxbatch.search.index_choice import Choice, begin, for_rows
from ctxbatch.search.index_files import CodebookFacts, IndexFacts, load
from ctxbatch.search.index_training import coder_of, empty_index, learned_by, train, trained_rows
from ctxbatch.search.index_tuning import choose_rows
from ctxbatch.store.checks import check_all, check_words
from ctxbatch.store.commits import WORDS, built_from
from ctxbatch.store.manifest import CODEBOOK, parts_folder
from ctxbatch.store.moments import Standardiser
from ctxbatch.store.reader import Store

# A codebook is trained on rows of at most so many shards.
_SAMPLED_SHARDS = 16
# Rows that are coded at a time, which take a few MB, and whose codes are read at a time.
_CODED_ROWS, _READ_ROWS = 4_096, 65_536
_SEED = 20_240_607
_DIGEST_BYTES = 32
# What a codebook has learned, as `ctxbatch.search.index_training.learned_by` gives it.
_FILE, _FLOATS = "codebook.f32", np.dtype("<f4")
_OF_FILE = ("file", "bytes", "sha256")

Codes = npt.NDArray[np.uint8]


# --- the codebook ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a codebook is trained on, for how many rows, and the choice of its index."""

    shards: Sequence[int]
    rows: int
    choice: Choice


def sampled_shards(n_shards: int) -> list[int]:
    """Return the shards of a plan that its codebook is trained on: some from all over it."""
    n = min(n_shards, _SAMPLED_SHARDS)
    return [n_shards * number // n for number in range(n)]


def recipe_of(store: Store, options: IndexOptions) -> Recipe | None:
    """Return what a store's codebook is trained on; ``None`` if shards that it needs are not committed yet.

    The rows of the whole store are estimated from those of the sampled shards, so that a store that is being
    written gets the codebook that it would have when it is finished.

    Raises:
        InputError: No index fits the memory.
    """
    planned, commits, dimension = store.manifest.shards, store.commits, store.config.hidden_size
    shards = sampled_shards(len(planned))
    if any(shard not in commits for shard in shards):
        return None
    exact = Recipe([*commits], store.n_rows, begin(store.n_rows, dimension, options)[1])
    rows = sum(commits[shard].counts.rows for shard in shards)
    size = sum(planned[shard].size for shard in shards)
    expected = round(rows * sum(spec.size for spec in planned) / max(1, size))
    empty, choice = begin(expected, dimension, options)
    if store.complete and for_rows(choice, store.n_rows).bytes > options.memory:
        return exact
    if rows >= trained_rows(empty):
        return Recipe(shards, expected, choice)
    return exact if store.complete else None


class Codebook:
    """A trained index without rows, and the parts that are coded against it.

    Args:
        folder: Where its files and its parts are.
        facts: What its JSON file says.
        empty: The FAISS index.
        checked: The shards whose vectors were just compared with their checksums.
    """

    def __init__(
        self,
        folder: Path,
        facts: CodebookFacts,
        empty: Any,  # noqa: ANN401 (any FAISS index)
        checked: Collection[int] = (),
    ) -> None:
        self.facts = facts
        self.empty = empty
        self._checked = frozenset(checked)
        self._folder = folder
        self._width = int(empty.sa_code_size())
        self._list_bytes = int(ivf_in(empty).coarse_code_size())

    @cached_property
    def _coder(self) -> Any:  # noqa: ANN401 (any FAISS index)
        return coder_of(self.empty)

    # --- parts

    def path(self, shard: int) -> Path:
        """Return the path of a shard's part."""
        return self._folder / f"{shard:06d}.codes"

    def ensure(
        self, store: Store, shards: Sequence[int], standardiser: Standardiser | None, *, quiet: bool = True
    ) -> None:
        """Code those of a store's shards that have no intact part, several at once.

        Raises:
            StoreError: A shard is damaged.
            OSError: The disk refuses.
        """
        n_rows = sum(store.commits[shard].counts.rows for shard in shards)
        stopped = threading.Event()

        def code(shard: int) -> int:
            self.ensure_part(store, shard, standardiser, stopped)
            return store.commits[shard].counts.rows

        # One thread of FAISS a shard, as in a worker: the bits of a product may depend on their number.
        threads = ThreadPoolExecutor(count_cores(), initializer=faiss.omp_set_num_threads, initargs=(1,))
        with threads, coding_bar(n_rows, quiet=quiet) as bar:
            try:
                for rows in threads.map(code, shards):
                    bar.update(rows)
            finally:
                stopped.set()  # after an error or a signal, nobody waits for the rest of large shards

    def ensure_part(
        self,
        store: Store,
        shard: int,
        standardiser: Standardiser | None,
        stopped: threading.Event | None = None,
    ) -> None:
        """Code a shard unless it has an intact part.

        Raises:
            CancelledError: ``stopped`` was set.
            StoreError: The shard is damaged.
            OSError: The disk refuses.
        """
        if not self.has_part(store, shard):
            self._write(store, shard, standardiser, stopped or threading.Event())

    def _write(
        self, store: Store, shard: int, standardiser: Standardiser | None, stopped: threading.Event
    ) -> None:
        if shard not in self._checked:
            check_words(store, shard, stopped)
        column = store.column(self.facts.column, standardiser, [shard])
        digest, path = hashlib.sha256(), self.path(shard)
        if path.is_dir():
            remove(path)
        with replacing(path) as beside, beside.open("wb") as stream:

            def put(content: bytes) -> None:
                digest.update(content)
                stream.write(content)

            put(self._origin(store, shard))
            for _, block in column.blocks(_CODED_ROWS):
                if stopped.is_set():
                    raise CancelledError
                put(self._coder.sa_encode(normalised(block)).tobytes())
            stream.write(digest.digest())

    def _origin(self, store: Store, shard: int) -> bytes:
        """Return the checksum of what a part is made from: the codebook, and the rows."""
        words = store.commits[shard].files[WORDS].sha256
        return hashlib.sha256(f"{self.facts.sha256} {words}".encode()).digest()

    def has_part(self, store: Store, shard: int) -> bool:
        """Return True if a shard has an intact part.

        Raises:
            ResourceError: The disk or a permission prevents reading.
        """
        try:
            for _ in self._codes(store, shard):
                pass
        except (FileNotFoundError, StoreError):
            return False
        return True

    def _codes(self, store: Store, shard: int) -> Iterator[Codes]:
        """Yield the lists and codes (N, C) of a shard's rows, some at a time.

        Raises:
            FileNotFoundError: It has no part.
            StoreError: Its part is damaged, as may be said only at the end, or of another codebook.
            ResourceError: The disk or a permission prevents reading.
        """
        n_rows, path = store.commits[shard].counts.rows, self.path(shard)
        damaged = StoreError(f"{path} is damaged: run the same command again")
        digest = hashlib.sha256()
        try:
            with open_regular(path) as stream:
                size = os.fstat(stream.fileno()).st_size
                origin = stream.read(_DIGEST_BYTES)
                if size != 2 * _DIGEST_BYTES + n_rows * self._width or origin != self._origin(store, shard):
                    raise damaged
                digest.update(origin)
                for first in range(0, n_rows, _READ_ROWS):
                    raw = stream.read(min(_READ_ROWS, n_rows - first) * self._width)
                    digest.update(raw)
                    codes_NC = np.frombuffer(raw, np.uint8).reshape(-1, self._width)
                    if np.any(self._lists(codes_NC) >= ivf_in(self.empty).nlist):
                        raise damaged
                    yield codes_NC
                if stream.read() != digest.digest():
                    raise damaged
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise not_readable(path, error) from error

    def _lists(self, codes_NC: Codes) -> Ints:
        """Return the lists (N,) that begin the codes, lowest byte first."""
        lists_N = np.zeros(len(codes_NC), np.int64)
        for byte in range(self._list_bytes):
            lists_N += codes_NC[:, byte].astype(np.int64) << (8 * byte)
        return lists_N

    # --- the index

    def merged(self, store: Store, shards: Iterable[int]) -> Any:  # noqa: ANN401 (any FAISS index)
        """Return the index of the rows of a store's first shards, byte for byte as if they were added to it.

        Raises:
            FileNotFoundError: A part is missing.
            StoreError: A part is damaged.
        """
        ivf = ivf_in(self.empty)
        lists: Any = faiss.IndexIVFPQ(
            ivf.quantizer, ivf.d, ivf.nlist, ivf.pq.M, ivf.pq.nbits, ivf.metric_type
        )
        lists.by_residual, lists.pq, lists.is_trained = ivf.by_residual, ivf.pq, True
        first = 0
        for shard in shards:
            for codes_NC in self._codes(store, shard):
                lists.add_sa_codes(codes_NC, np.arange(first, first + len(codes_NC)))
                first += len(codes_NC)
        packed = faiss.IndexIVFPQFastScan(lists, ivf.bbs)
        whole: Any = faiss.clone_index(self.empty)
        inside = ivf_in(whole)
        inside.replace_invlists(packed.invlists, True)
        packed.own_invlists = False
        inside.ntotal = whole.ntotal = first
        return whole


def coding_bar(n_rows: int, *, quiet: bool) -> "tqdm[None]":
    """Return the bar of an index that is filled with so many rows."""
    return tqdm(total=n_rows, unit=" rows", desc="indexing", disable=quiet or None, leave=False)


def parts_damage(store: Store, facts: IndexFacts) -> Iterator[str]:
    """Yield a line for each file that an index was made from and that is not as it was written.

    Raises:
        ResourceError: The disk, a permission or a lack of memory prevents reading.
    """
    if facts.codebook is None:
        return
    path = parts_folder(store.path, facts.column) / _FILE
    remedy = f"make it again with `ctxbatch verify {store.path} --repair`"
    codebook = find_codebook(store, facts.column)
    if codebook is None:
        yield f"{path} is missing or damaged; {remedy}"
        return
    if codebook.facts != facts.codebook:
        return  # a build with other options was stopped; the index is as it was
    for shard in (shard for shard in store.commits if str(shard) in facts.built_from):
        if not codebook.has_part(store, shard):
            yield f"{codebook.path(shard)} is missing or damaged; {remedy}"


# --- finding and making ---------------------------------------------------------------------------


def find_codebook(store: Store, column: str) -> Codebook | None:
    """Return the codebook of a column's index; ``None`` if it has none that is intact.

    Raises:
        ResourceError: The disk, a permission or a lack of memory prevents reading.
    """
    folder = parts_folder(store.path, column)
    path = folder / CODEBOOK
    try:
        facts = typed(read_json(path), CodebookFacts, path)
        raw = read_bytes(folder / _FILE)
        if (facts.column, facts.file, facts.sha256) != (column, _FILE, hashlib.sha256(raw).hexdigest()):
            return None
        empty = empty_index(facts.factory, store.config.hidden_size, np.frombuffer(raw, _FLOATS))
    except (FileNotFoundError, StoreError, ValueError):
        return None
    return Codebook(folder, facts, empty)


def restore_codebook(store: Store, facts: IndexFacts) -> Codebook | None:
    """Return the codebook of an intact index, taken out of it again if its file is gone or damaged.

    Returns:
        ``None`` if the index has none, or is not what its rows were coded against.

    Raises:
        OSError: The disk refuses.
    """
    if facts.codebook is None:
        return None
    found = find_codebook(store, facts.column)
    if found is not None and found.facts == facts.codebook:
        return found
    index, _ = load(store, facts)
    if rotation_in(index) is None or not isinstance(ivf_in(index), faiss.IndexIVFPQFastScan):
        return None  # a crafted file, as is one that cannot be read out
    try:
        restored = _write_codebook(store, learned_by(index), _without_file(facts.codebook))
    except (RuntimeError, ValueError):
        return None
    return restored if restored.facts == facts.codebook else None


def _without_file(facts: CodebookFacts) -> dict[str, Any]:
    return {name: value for name, value in asdict(facts).items() if name not in _OF_FILE}


def _write_codebook(
    store: Store, learned: Floats, made: Mapping[str, Any], checked: Collection[int] = ()
) -> Codebook:
    folder = parts_folder(store.path, made["column"])
    if is_there(folder) and not folder.is_dir():
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, raw = folder / CODEBOOK, learned.astype(_FLOATS).tobytes()
    content = {**made, "file": _FILE, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    facts = typed(content, CodebookFacts, path)
    codebook = Codebook(folder, facts, empty_index(facts.factory, store.config.hidden_size, learned), checked)
    write_atomically(folder / _FILE, raw)
    write_json(path, asdict(facts))
    return codebook


def ensure_codebook(store: Store, column: str, recipe: Recipe, standardiser: Standardiser | None) -> Codebook:
    """Return the codebook that a column's index is built with, trained now unless it is there.

    Raises:
        StoreError: A shard is damaged.
        OSError: The disk refuses.
    """
    wanted = {
        "column": column,
        "factory": recipe.choice.factory,
        "built_from": built_from({shard: store.commits[shard] for shard in recipe.shards}),
        "standardiser": None if standardiser is None else standardiser.as_text(),
        "faiss_version": faiss.__version__,
    }
    found = find_codebook(store, column)
    if found is not None and _without_file(found.facts) == wanted:
        return found
    dimension = store.config.hidden_size
    index: Any = faiss.index_factory(dimension, recipe.choice.factory, faiss.METRIC_INNER_PRODUCT)
    check_all(store, recipe.shards)
    vectors = store.column(column, standardiser, recipe.shards)
    rows_N = choose_rows(np.random.default_rng(_SEED), len(vectors), trained_rows(index))
    train(index, normalised(vectors.take(rows_N)))
    return _write_codebook(store, learned_by(index), wanted, checked=recipe.shards)
