"""Builds indexes: trains one, adds the rows, tunes its searches, writes it.

`ctxbatch.search.index_choice` says what is built, and `ctxbatch.search.index_tuning` how it is searched;
`ctxbatch.search.index` searches it, and `ctxbatch.search.index_files` checks and loads it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError, StoreError
from ctxbatch.files import remove, replacing, write_json
from ctxbatch.formulas import plain
from ctxbatch.sealed import file_digest
from ctxbatch.search.exact import normalised
from ctxbatch.search.index import IndexOptions, Recalls, said_by_faiss
from ctxbatch.search.index_choice import WORKING_BYTES, Choice, begin, choices, megabytes
from ctxbatch.search.index_files import (
    WORD_ROWS,
    IndexFacts,
    check_index,
    efforts_and_recalls,
    facts_path,
    load,
    read_facts,
    rebuild_command,
    standardiser_of,
    write_faiss_file,
)
from ctxbatch.search.index_parts import (
    Codebook,
    coding_bar,
    ensure_codebook,
    find_codebook,
    recipe_of,
    restore_codebook,
)
from ctxbatch.search.index_training import train, trained_rows
from ctxbatch.search.index_tuning import choose_rows, tune_index
from ctxbatch.search.new_queries import new_queries
from ctxbatch.search.postings import Postings, is_current, write
from ctxbatch.store.checks import check_all, check_finished
from ctxbatch.store.columns import Column
from ctxbatch.store.commits import built_from
from ctxbatch.store.manifest import INDEX, parts_folder
from ctxbatch.store.moments import Standardiser
from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")

# Fewer rows than this are compared exactly faster than an index of them is loaded.
SCAN_ROWS = 50_000
_ADD_ROWS = 65_536
_SEED = 20_240_607
# When an index has this many times the rows that it was trained on, a message advises to build it anew.
_GROWN = 2
# Room on the disk that a row takes in the table of words, and that its list takes in a part.
_WORD_BYTES, _LIST_BYTES = 5, 2
# Seconds a core needs to tune an index, and for a row of one dimension, roughly.
_SECONDS, _SECONDS_PER_VALUE = 12.0, 3e-7

# Of an index that is not built.
_NONE = Recalls(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a build did. ``path`` is ``None`` where the rows are few enough to be compared one by one."""

    column: str
    rows: int
    path: Path | None
    bytes: int = 0
    seconds: float = 0.0
    recalls: Recalls = _NONE

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.column}: {self.rows:,} rows are searched exactly, no index needed"
        return (
            f"{self.column}: {self.rows:,} rows indexed in {self.seconds:.0f} s, "
            f"{self.bytes / self.rows:.0f} bytes per vector, {self.recalls}"
        )


def expected_bytes(rows: int, dimension: int) -> int:
    """Return about how many bytes a run's index takes on disk, with parts and words; 0 if it has none."""
    if rows < SCAN_ROWS:
        return 0
    possible = choices(rows, dimension)
    chosen = next((choice for choice in possible if choice.bytes <= IndexOptions().memory), possible[-1])
    return chosen.bytes - WORKING_BYTES + (chosen.code_bytes + _LIST_BYTES + _WORD_BYTES) * rows


def expected_seconds(rows: int, dimension: int) -> float:
    """Return about how many seconds this machine needs for an index; 0 if a run builds none."""
    if rows < SCAN_ROWS:
        return 0.0
    return (_SECONDS + rows * dimension * _SECONDS_PER_VALUE) / count_cores()


# --- building -------------------------------------------------------------------------------------


def ensure(store: Store, column: str, model: str | None = None, *, quiet: bool = True) -> IndexReport:
    """Like `build`, but leaves alone what is intact: rows that were appended are added without training."""
    path = facts_path(store.path, column)
    facts = _usable_facts(store, path, quiet)
    if facts is None:
        return build(store, column, recorded_options(path), model, quiet=quiet)
    grown_bytes = facts.bytes * store.n_rows / max(1, facts.rows)
    if facts.rows < store.n_rows and grown_bytes > facts.options.memory:  # a smaller kind of index is needed
        return build(store, column, facts.options, model, quiet=quiet)
    _ensure_words(store)
    codebook = restore_codebook(store, facts)
    if facts.codebook is not None and codebook is None:  # what its rows were coded against is lost
        return build(store, column, facts.options, model, quiet=quiet)
    if codebook is not None:
        codebook.ensure(store, [*store.commits], standardiser_of(store, facts), quiet=quiet)
    if facts.rows == store.n_rows:
        return _report(store, facts)
    return _grow(store, facts, codebook, quiet)


def _usable_facts(store: Store, path: Path, quiet: bool) -> IndexFacts | None:
    """Return the facts of an index that is intact, or that its parts make again; else ``None``.

    Where growing it was stopped, its facts are those that are kept with its parts.
    """
    try:
        facts = read_facts(path if path.exists() else _kept_facts(path))
    except (FileNotFoundError, StoreError):
        return None
    assert isinstance(facts, IndexFacts)
    if path.exists() and not any(check_index(path, store.manifest)):
        return facts
    shards = [*store.commits][: len(facts.built_from)]
    codebook = find_codebook(store, facts.column)
    if codebook is None or codebook.facts != facts.codebook:
        return None
    if facts.built_from != built_from({shard: store.commits[shard] for shard in shards}):
        return None
    codebook.ensure(store, shards, standardiser_of(store, facts), quiet=quiet)
    made = write_faiss_file(codebook.merged(store, shards), path.parent / facts.file)
    if made["sha256"] != facts.sha256:
        return None
    if not path.exists():
        write_json(path, asdict(facts))
    return facts


def _kept_facts(path: Path) -> Path:
    """Return where the facts of an index are while it grows: with its parts, under the same name."""
    return parts_folder(path.parent.parent, path.stem) / path.name


def _grow(store: Store, facts: IndexFacts, codebook: Codebook | None, quiet: bool) -> IndexReport:
    """Add the rows that were appended to an index; lists, codes and efforts stay as they are.

    Until the new facts are written there are none, so that a search reads all rows. Those of an index with
    parts are kept with these: if this is stopped, the parts make the old index again.
    """
    started = time.monotonic()
    path = facts_path(store.path, facts.column)
    index = _with_new_rows(store, facts, quiet) if codebook is None else codebook.merged(store, store.commits)
    if codebook is not None:
        path.replace(_kept_facts(path))
    grown = replace(
        facts,
        rows=store.n_rows,
        seconds=round(time.monotonic() - started, 1),
        trained_rows=facts.trained_rows or facts.rows,
        built_from=built_from(store.commits),
        **write_faiss_file(index, path.parent / facts.file, outdated=path),
    )
    write_json(path, asdict(grown))
    _kept_facts(path).unlink(missing_ok=True)
    if store.n_rows >= _GROWN * (grown.trained_rows or 0):
        log.info(
            "the index on %s was made for %s rows and has %s now: a new one may be faster: `%s`",
            facts.column,
            f"{grown.trained_rows:,}",
            f"{store.n_rows:,}",
            rebuild_command(path),
        )
    return _report(store, grown)


def _with_new_rows(store: Store, facts: IndexFacts, quiet: bool) -> Any:  # noqa: ANN401 (any FAISS index)
    """Return an index that has no parts, with the rows that it lacks."""
    index, vectors = load(store, facts)
    check_all(store, [*store.commits][len(facts.built_from) :])
    new_N = np.arange(facts.rows, store.n_rows)
    with coding_bar(len(new_N), quiet=quiet) as progress:
        for first in range(0, len(new_N), _ADD_ROWS):
            some_N = new_N[first : first + _ADD_ROWS]
            index.add(normalised(vectors.take(some_N)))
            progress.update(len(some_N))
    return index


def _report(store: Store, facts: IndexFacts) -> IndexReport:
    path = store.path / INDEX / facts.file
    return IndexReport(facts.column, facts.rows, path, facts.bytes, facts.seconds, facts.recalls)


def rebuild(
    store: Store, damaged: Sequence[str], model: str | None = None, *, quiet: bool = True
) -> tuple[str, ...]:
    """Rebuild what is damaged, by the names of the JSON files; returns the names."""
    known = tuple(name for name in damaged if name == WORD_ROWS or store.config.has_column(name))
    for name in known:
        if name == WORD_ROWS:
            _ensure_words(store)
        elif plain(name) != name:  # its means may have been those of damaged rows
            build(store, name, recorded_options(facts_path(store.path, name)), model, quiet=quiet)
        else:
            ensure(store, name, model, quiet=quiet)
    return known


def recorded_options(path: Path) -> IndexOptions:
    """Return the options that an index was built with; the defaults if its JSON cannot be read."""
    try:
        facts = read_facts(path)
    except (FileNotFoundError, StoreError):
        return IndexOptions()
    return facts.options if isinstance(facts, IndexFacts) else IndexOptions()


def build(
    store: Store,
    column: str,
    options: IndexOptions | None = None,
    model: str | None = None,
    *,
    quiet: bool = True,
) -> IndexReport:
    """Build the index on a column, replacing the one that is there. Only under the store's lock.

    Trained on a random sample over all shards; rows are added block by block.

    Args:
        store: The store, finished.
        column: Full name of the column.
        options: What the index may cost and has to find.
        model: The store's model, as in `ctxbatch.search.new_queries.new_queries`.
        quiet: Show no progress on standard error.

    Raises:
        InputError: No index fits the memory, or FAISS knows no such factory string.
        StoreError: Shards are missing or damaged.
        OSError: The disk refuses.
    """
    options = options or IndexOptions()
    check_finished(store)
    if store.n_rows >= SCAN_ROWS or options.factory is not None:
        return _build(store, column, options, model, quiet)
    for old in (facts_path(store.path, column), _index_path(store, column)):
        old.unlink(missing_ok=True)
    remove(parts_folder(store.path, column))
    return IndexReport(column, store.n_rows, None)


def _index_path(store: Store, column: str) -> Path:
    return store.path / INDEX / f"{column}.faiss"


def _build(store: Store, column: str, options: IndexOptions, model: str | None, quiet: bool) -> IndexReport:
    """Make the index. Write it, and then the facts about it."""
    started = time.monotonic()
    path = _index_path(store, column)
    standardiser = None if plain(column) == column else store.moments.of(plain(column)).standardiser()
    vectors = store.column(column, standardiser)
    filled, factory, codebook = _filled(store, column, standardiser, options, quiet)
    postings = _ensure_words(store)
    random = np.random.default_rng(_SEED)
    new_QD = new_queries(store, column, standardiser, model, random)
    tuned = tune_index(filled, store, vectors, postings, new_QD, options.recall, random, quiet=quiet)
    written = write_faiss_file(filled, path, outdated=facts_path(store.path, column))
    seconds = round(time.monotonic() - started, 1)
    facts = {
        "column": column,
        "rows": store.n_rows,
        "factory": factory,
        "codebook": None if codebook is None else asdict(codebook.facts),
        "options": asdict(options),
        **efforts_and_recalls(tuned.efforts, tuned.recalls),
        "best_scores": None if tuned.best_scores is None else asdict(tuned.best_scores),
        "seconds": seconds,
        "faiss_version": faiss.__version__,
        "built_from": built_from(store.commits),
        **written,
    }
    if standardiser is not None:
        facts["standardiser"] = standardiser.as_text()
    write_json(facts_path(store.path, column), facts)
    _kept_facts(facts_path(store.path, column)).unlink(missing_ok=True)
    if codebook is None:
        remove(parts_folder(store.path, column))
    _tell_low_recall(column, tuned.recalls, options)
    return IndexReport(column, store.n_rows, path, written["bytes"], seconds, tuned.recalls)


def _filled(
    store: Store, column: str, standardiser: Standardiser | None, options: IndexOptions, quiet: bool
) -> tuple[Any, str, Codebook | None]:
    """Return an index with all rows, its factory string, and the codebook that its parts are kept for."""
    if options.factory is not None:
        empty, choice = begin(store.n_rows, store.config.hidden_size, options)
        if not quiet:
            _announce(store, column, choice)
        check_all(store, store.commits)
        _fill(empty, store.column(column, standardiser), options, quiet)
        return empty, choice.factory, None
    recipe = recipe_of(store, options)
    assert recipe is not None  # the store is finished
    if not quiet:
        _announce(store, column, recipe.choice)
    codebook = ensure_codebook(store, column, recipe, standardiser)
    codebook.ensure(store, [*store.commits], standardiser, quiet=quiet)
    return codebook.merged(store, store.commits), recipe.choice.factory, codebook


def _tell_low_recall(column: str, recalls: Recalls, options: IndexOptions) -> None:
    found = {
        "": recalls.stored,
        " among the rows of other words": recalls.other_words,
        " for new sentences": recalls.new,
    }
    for what, recall in found.items():
        if recall is not None and recall < options.recall - 0.01:
            log.warning(
                "index on %s: recall@10 is %.3f%s, below --recall %g", column, recall, what, options.recall
            )


def _announce(store: Store, column: str, choice: Choice) -> None:
    seconds = expected_seconds(max(SCAN_ROWS, store.n_rows), store.config.hidden_size)
    log.info(
        "index on %s: %s for %s rows, about %s of memory, roughly %d s",
        column,
        choice.factory,
        f"{store.n_rows:,}",
        megabytes(choice.bytes),
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
        facts = {"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)}
        write_json(facts_file, {**facts, "built_from": built_from(store.commits)})
    return Postings(store, path)


def _fill(
    empty: Any,  # noqa: ANN401 (any FAISS index)
    column: Column,
    options: IndexOptions,
    quiet: bool,
) -> None:
    """Train an index on random rows of a column, and add all rows."""
    rows_N = choose_rows(np.random.default_rng(_SEED), len(column), trained_rows(empty))
    try:
        train(empty, normalised(column.take(rows_N)))
    except RuntimeError as error:
        raise InputError(
            f"--factory {options.factory!r} cannot be trained: {said_by_faiss(error)}: choose another"
        ) from None
    with coding_bar(len(column), quiet=quiet) as progress:
        for _, block in column.blocks(_ADD_ROWS):
            empty.add(normalised(block))
            progress.update(len(block))
