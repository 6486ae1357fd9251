"""Settles once, against inputs, model and machine, what a run has to do.

Owns which option goes to which stage. Of the stages only `ctxbatch.model.resolve` sees `RunConfig`.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctxbatch.choices import DEFAULT_ENCODING, DEFAULT_ID_FIELD, DEFAULT_TEXT_FIELD, FormatName
from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.encoding import check_encoding
from ctxbatch.corpus.examine import examine, layout_notes
from ctxbatch.corpus.inputs import EXCLUDED, find_sources
from ctxbatch.corpus.listing import LeftOut
from ctxbatch.corpus.plan import default_shard_size
from ctxbatch.corpus.sources import ANNOTATED_FORMATS, UNKNOWN, Reading, Source, suffix_of
from ctxbatch.errors import InputError, StoreError, shortened
from ctxbatch.execution.engines import Engine, LocalEngine, RayEngine
from ctxbatch.execution.known_sources import new_sources
from ctxbatch.execution.ray_cluster import connected
from ctxbatch.execution.resume import reading_as_stored, with_stored_options
from ctxbatch.run_config import RunConfig
from ctxbatch.store.location import StoreLocation
from ctxbatch.store.manifest import Manifest

log = logging.getLogger("ctxbatch")
_SHOWN = 3
_SHOWN_LETTERS = 40
_WITH_LISTS = {"jsonl", "json", "parquet", "arrow"}
_WITHOUT_FIELDS = {"txt", "subtitles", "leipzig"}
_SHOWN_SUFFIXES = 8


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is read: the sources, how they are read, and what folders hold besides, each with the reason."""

    sources: tuple[Source, ...]
    reading: Reading
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """What is asked for of a run itself, none of which is seen in a shard.

    Args:
        part: (i, n) for the i-th of n parts of the run, i from 1; ``None`` where this is all of it.
        max_rejects: The records that may be rejected: their number as an ``int``, their share as a ``float``.
        index: Whether the store gets its index.
        force: Whether to begin where room on the disk seems too little.
        given: The names of all options that were given; a store that is resumed decides the others.
        append: Whether sources that the store does not have are added to it.
    """

    part: tuple[int, int] | None
    max_rejects: int | float | None
    index: bool
    force: bool
    given: frozenset[str]
    append: bool

    @property
    def is_first_part(self) -> bool:
        """True of a whole run, and of the first of several parts, which does what only one has to do."""
        return self.part is None or self.part[0] == 1


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run with nothing left open: where the store is, what is read, what is computed, where, and how."""

    location: StoreLocation
    corpus: Corpus
    config: ResolvedConfig
    engine: Engine
    choices: Choices


@contextlib.contextmanager
def planned(
    corpus: Corpus, location: StoreLocation, config: RunConfig, stored: Manifest | None
) -> Iterator[RunPlan]:
    """Settle what is to be done with a corpus; the engine is there as long as the context.

    Imports torch: mistakes in the inputs are better told before.

    Args:
        corpus: What is read.
        location: Where the store is.
        config: The options.
        stored: The manifest of the store that is to be resumed, if there is one.

    Raises:
        InputError: The model cannot be used, this machine does not have the devices, or there is no cluster.
        StoreError: A given option is not the store's, or the model that the store names is not in a place
            that is safe to load from.
    """
    choices = Choices(
        part=config.shard_range,
        max_rejects=config.max_rejects,
        index=config.index,
        force=config.force,
        given=config.given,
        append=config.append,
    )
    if stored is not None:
        config = with_stored_options(config, stored, location)
    with _engine(config) as engine:
        resolved = engine.resolve(config)
        yield RunPlan(location, corpus, resolved, engine, choices)


@contextlib.contextmanager
def _engine(config: RunConfig) -> Iterator[Engine]:
    if config.engine == "ray":
        with connected(config.address or "auto"):
            yield RayEngine(config.workers)
    else:
        yield LocalEngine(config.devices, config.workers)


# --- the corpus -----------------------------------------------------------------------------------


def find_stored(location: StoreLocation, config: RunConfig) -> Manifest | None:
    """Check that a run can write to a location; return the manifest of the store that is there, if one is.

    Raises:
        InputError: An option cannot be used with a store at this location.
        StoreError: At the location is something else than a store, or its manifest is damaged.
        ResourceError: The network fails.
    """
    if not location.is_here:
        _check_for_object_storage(location.out, config)
    location.check()
    return location.manifest()


def find_corpus(
    inputs: Sequence[str | Path] | str | Path,
    location: StoreLocation,
    config: RunConfig,
    stored: Manifest | None = None,
) -> Corpus:
    """Find the files behind the inputs, and settle how they are read.

    Args:
        inputs: Files, folders and patterns.
        location: Where the store is.
        config: The options.
        stored: The manifest of the store that is to be resumed, if there is one.

    Raises:
        InputError: An input or an option cannot be used.
        ResourceError: The network fails.
    """
    listed = [inputs] if isinstance(inputs, str | Path) else inputs
    form, text_field = config.format, config.text_field
    if stored is not None:
        form, text_field = form or stored.reading.format, text_field or stored.reading.text_field
    sources, left_out = find_sources(
        listed, location.folder, form, text_field or DEFAULT_TEXT_FIELD, config.exclude
    )
    reading = resolve_reading(config, sources)
    if stored is not None:
        reading = reading_as_stored(reading, stored.reading, config.given)
    if stored is not None and config.append:
        new = new_sources(
            location.out, stored, location.commits(stored), sources, skip_changed=config.skip_changed
        )
        sized = "shard_size" in config.given
        reading = _reading_to_append(location.out, stored, new, reading, sized=sized)
        return Corpus(new, reading, tuple(left_out))
    return Corpus(tuple(sources), reading, tuple(left_out))


def _reading_to_append(
    out: Path | str, stored: Manifest, sources: Sequence[Source], reading: Reading, *, sized: bool
) -> Reading:
    """Return how sources are read that are appended to a store; ``sized`` if the size of shards is given.

    Raises:
        StoreError: The store cannot hold what they are.
    """
    if sources and stored.reading.limit is not None:
        raise StoreError(
            f"{out} was made with --limit {stored.reading.limit}: nothing can be appended, use another -o"
        )
    annotated = [source for source in sources if source.format in ANNOTATED_FORMATS]
    if annotated and not stored.reading.annotated:
        raise StoreError(
            f"{annotated[0].path} says lemmas and parts of speech, and {out} has no columns for them: use "
            "another -o"
        )
    if sources and reading.tapered and not sized:  # else the store says the size of its shards
        reading = replace(reading, shard_size=default_shard_size(sources))
    return replace(reading, annotated=stored.reading.annotated)


def examined(corpus: Corpus, config: RunConfig) -> Corpus:
    """Complete the sources with what their first bytes tell, which the plan of a new store needs.

    Raises:
        InputError: A source cannot be opened, or lacks a field that is asked for.
    """
    sources = examine(corpus.sources, corpus.reading, config.id_field)
    for note in layout_notes(sources, corpus.reading):
        log.info("%s", note)
    return replace(corpus, sources=sources)


def tell_left_out(corpus: Corpus, log_file: Path | None = None) -> None:
    """Warn of what is in the folders and is not read.

    Args:
        corpus: The corpus.
        log_file: Where each is named, if that is kept.
    """
    if not corpus.left_out:
        return
    unknown = Counter(suffix_of(each.name) for each in corpus.left_out if each.why.startswith(UNKNOWN))
    others = [str(each) for each in corpus.left_out if not each.why.startswith((UNKNOWN, EXCLUDED))]
    parts = [shortened(others, _SHOWN)] if others else []
    if unknown:
        kinds = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in unknown.most_common()]
        parts.append(f"unknown formats: {shortened(kinds, _SHOWN_SUFFIXES)}")
    if excluded := sum(each.why.startswith(EXCLUDED) for each in corpus.left_out):
        parts.append(f"{excluded:,} by {EXCLUDED}")
    if log_file is not None and (unknown or excluded or len(others) > _SHOWN):
        parts.append(f"all are named in {log_file}")
    log.warning("skipped %d files or folders: %s", len(corpus.left_out), "; ".join(parts))
    for each in corpus.left_out:
        log.debug("skipped %s", each)


def resolve_reading(config: RunConfig, sources: Sequence[Source]) -> Reading:
    """Settle how sources are read.

    Raises:
        InputError: An option was given that applies to none of the sources' formats.
    """
    formats = {source.format for source in sources}
    if config.record != "auto" and "txt" not in formats:
        other = sorted(formats)[0]
        raise InputError(f"--record {config.record} is for text files; in {other} a record is a line or row")
    if formats <= _WITHOUT_FIELDS:
        for option, value in (
            ("--text-field", config.text_field),
            ("--id-field", config.id_field),
            ("--tokens-field", config.tokens_field),
            ("--span-field", ",".join(config.span_field)),
            ("--keep-field", ",".join(config.keep_field)),
        ):
            if value:
                raise InputError(f"{option} {value} cannot be used: none of the inputs has fields")
    if config.tokens_field is not None and not formats <= _WITH_LISTS:
        other = sorted(formats - _WITH_LISTS)[0]
        raise InputError(f"--tokens-field {config.tokens_field} cannot be used: {other} files have no lists")
    _check_delimited(config, formats)
    if config.text_path is not None and "xml" not in formats:
        raise InputError(f"--text-path {config.text_path} cannot be used: none of the inputs is XML")
    if config.encoding is not None and all(source.is_table for source in sources):
        raise InputError(f"--encoding {config.encoding} cannot be used: tables are UTF-8")
    return Reading(
        format=config.format,
        record=config.record,
        text_field=config.text_field or DEFAULT_TEXT_FIELD,
        id_field=config.id_field or DEFAULT_ID_FIELD,
        encoding=check_encoding(config.encoding or DEFAULT_ENCODING),
        errors=config.errors,
        delimiter=config.delimiter,
        limit=config.limit,
        shard_size=config.shard_size or default_shard_size(sources, config.limit),
        tapered=config.shard_size is None,
        quoting=config.quoting,
        escape=config.escape,
        header=config.header,
        text_path=config.text_path,
        tokens_field=config.tokens_field,
        span_field=config.span_field,
        keep_field=config.keep_field,
        annotated=not formats.isdisjoint(ANNOTATED_FORMATS),
    )


def _check_delimited(config: RunConfig, formats: set[FormatName]) -> None:
    """Refuse options of CSV if there is none."""
    given = {
        f"--delimiter {config.delimiter}": config.delimiter is not None,
        f"--quoting {config.quoting}": config.quoting != "auto",
        f"--escape {config.escape}": config.escape is not None,
        "--no-header": not config.header,
    }
    for option, is_given in given.items():
        if is_given and not formats & {"csv", "tsv"}:
            raise InputError(f"{option} cannot be used: none of the inputs is CSV or TSV")


def _check_for_object_storage(out: Path | str, config: RunConfig) -> None:
    """Refuse options that need a folder."""
    if config.shard_range is not None:
        raise InputError(
            f"--shard-range needs a folder that all machines share, and {out} is on object storage: use "
            "--engine ray, or a folder as -o"
        )
    if config.force and config.precision != "int8":  # whose fidelity can be forced too
        raise InputError(
            f"--force cannot be used with {out}: free space is not checked there, so leave it out"
        )


# --- words that are asked for ---------------------------------------------------------------------


def check_words(config: ResolvedConfig) -> None:
    """Warn of the words of --words that no text can hold, and of those that the model does not know.

    Raises:
        InputError: No text can hold any of them.
    """
    if config.words is None:
        return
    from ctxbatch.model.resolve import read_tokenizer
    from ctxbatch.text.batching import BatchMaker

    maker = BatchMaker(read_tokenizer(config), replace(config, sample=None, top_salient=None))
    found, known = maker.try_words(config.words)
    lost = [word for word, is_found in zip(config.words, found, strict=True) if not is_found]
    marks = [word for word in lost if not any(map(str.isalnum, word))]
    long = [word for word in lost if word not in marks]
    unknown = [
        word for word, *is_so in zip(config.words, found, known, strict=True) if is_so == [True, False]
    ]
    for words, what, hint in (
        (marks, "have no letter or digit", "without --keep-punctuation they will not be found"),
        (long, f"are longer than a window of {config.model}", "they will not be stored"),
        (unknown, f"are unknown to {config.model}", "their vectors are those of any unknown text"),
    ):
        if not words:
            continue
        said = f"{len(words)} of {len(config.words)} --words {what}: {_shown(words)}"
        if len(lost) == len(config.words):
            raise InputError(f"{said}; give other words")
        log.warning("%s; %s", said, hint)


def _shown(words: Sequence[str]) -> str:
    """Return the first of some words for a message, each shortened."""
    long = _SHOWN_LETTERS
    return shortened((repr(word if len(word) <= long else f"{word[:long]}…") for word in words), _SHOWN)
