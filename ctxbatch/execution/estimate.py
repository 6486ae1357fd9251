"""Estimates a run before it starts: tokenises a sample of the input and extrapolates.

Owns the sample, and the size that a store will have on disk.
"""

import itertools
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, get_args

import numpy as np

from ctxbatch.choices import StoredType
from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.plan import number_of_shards
from ctxbatch.corpus.read_errors import telling_of_memory
from ctxbatch.corpus.sample import SourceSample, sample_source, spread
from ctxbatch.corpus.sources import Source, how_read, suffix_of
from ctxbatch.errors import InputError
from ctxbatch.execution.rates import known_rate, known_start
from ctxbatch.execution.resume import check_options
from ctxbatch.execution.run_plan import (
    Corpus,
    RunPlan,
    check_words,
    examined,
    find_corpus,
    find_stored,
    planned,
    tell_left_out,
)
from ctxbatch.files import free_bytes
from ctxbatch.run_config import RunConfig
from ctxbatch.search.index_build import expected_bytes, expected_seconds
from ctxbatch.store.location import location_of
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.buffers import Buffer
from ctxbatch.text.fit import FitShares
from ctxbatch.text.sentences import split_sentences

log = logging.getLogger("ctxbatch")
_SAMPLE_BYTES = 1 << 19
_MIN_BYTES_A_SOURCE = 16 << 10
_SOURCES_A_KIND = 32
# Where there is no store: its disk is that of the current folder.
_NO_STORE = ".no-store"
# Bytes of a row and of a sentence on disk besides texts and vectors: ids, offsets and counts.
_ROW_BYTES = 40.3
_SENTENCE_BYTES = 48


@dataclass(frozen=True, slots=True)
class Kind:
    """Sources of one suffix that are read in one way, and the size of their files in bytes."""

    suffix: str
    sources: int
    bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run over some sources will come to.

    ``bytes`` are of the input, decompressed; ``kinds`` says of each suffix how many sources have it, and how
    they are read; ``seconds``, with the start of the run and without its index, and ``tokens_per_second`` are
    ``None`` where no run with this model has been timed on this device, ``bytes_free`` where the store is on
    object storage, ``words`` where only sentences with given words are tokenised. ``bytes_of_shifts`` of
    ``bytes_on_disk`` are shifts that need not be stored, because they could be computed from the static and
    contextual vectors beside them; 0 where the store exists, which keeps them. ``bytes_on_disk_as`` says what
    it would be with each other ``--dtype`` that is possible; empty where the store exists. ``first_reject``
    names a source and a reason, if anything in the sample is rejected. ``fit`` says how well the model's
    vocabulary fits the sample, ``control_tokens`` how often the text spells one. Exact only where ``sampled``
    is 1 and all words are stored.
    """

    sources: int
    sources_compressed: int
    bytes: int
    sampled: float
    records: int
    rejected: int
    sentences: int
    words: int | None
    rows: int
    tokens: int
    shards: int
    bytes_on_disk: int
    bytes_of_shifts: int
    bytes_on_disk_as: dict[StoredType, int]
    bytes_of_index: int
    bytes_free: int | None
    tokens_per_second: float | None
    seconds: float | None
    seconds_of_index: float
    first_reject: str | None
    fit: FitShares
    control_tokens: int
    kinds: tuple["Kind", ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the disk has room for the store and its index."""
        return self.bytes_free is None or self.bytes_on_disk + self.bytes_of_index <= self.bytes_free

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(slots=True)
class _Totals:
    """Sums over a sample, and then over what it stands for; floats, because they are scaled."""

    bytes: float = 0
    records: float = 0
    rejected: float = 0
    sentences: float = 0
    words: float = 0
    rows: float = 0
    tokens: float = 0
    wordpieces: float = 0
    unknown_pieces: float = 0
    unknown_words: float = 0
    long_words: float = 0
    characters: float = 0
    bare_characters: float = 0
    control_tokens: float = 0
    disk: float = 0

    def add(self, other: "_Totals", factor: float) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + factor * getattr(other, name))


def estimate(
    inputs: Sequence[str | Path] | str | Path, out: str | Path | None, config: RunConfig | None = None
) -> Estimate:
    """Do what `ctxbatch.estimate` says, which describes arguments and errors."""
    config, location = config or RunConfig(), location_of(_NO_STORE if out is None else out)
    stored = find_stored(location, config)
    corpus = find_corpus(inputs, location, config, stored)
    if stored is not None and not corpus.sources:
        raise InputError(f"{location.out} has all of these inputs already: there is nothing to append")
    corpus = examined(corpus, config)
    tell_left_out(corpus)
    if config.shard_range is not None:
        log.info("the estimate is for all parts, not only for part %d of %d", *config.shard_range)
    with planned(corpus, location, config, stored) as plan:
        if stored is not None:
            check_options(location.out, stored, plan.config, corpus.reading, plan.choices.given)
        check_words(plan.config)
        found = estimate_plan(plan)
        if stored is not None:
            found = replace(found, bytes_of_shifts=0, bytes_on_disk_as={})
        if warning := found.fit.warning(plan.config.model):
            log.warning("%s", warning)
    if found.sampled == 1 and found.rejected == found.records and found.first_reject is not None:
        raise InputError(f"nothing can be read: {found.first_reject}")
    return found


def estimate_plan(plan: RunPlan) -> Estimate:
    """Estimate a run from a sample of half a megabyte, drawn from all over the input.

    Raises:
        InputError: A source cannot be read.
    """
    corpus, config = plan.corpus, plan.config
    sample = _draw(corpus, config)
    total = sample.total if corpus.reading.limit is None else _limited(sample.total, corpus.reading.limit)
    whole = sample.total.bytes
    rate = known_rate(config, plan.engine.devices)
    return Estimate(
        sources=len(corpus.sources),
        sources_compressed=sum(source.compression is not None for source in corpus.sources),
        bytes=round(total.bytes),
        # Rounded down: 1 means that nothing was left out.
        sampled=min(1.0, math.floor(1e4 * sample.bytes / whole) / 1e4) if whole else 1.0,
        records=round(total.records),
        rejected=round(total.rejected),
        sentences=round(total.sentences),
        words=None if config.words is not None else round(total.words),
        rows=round(total.rows),
        tokens=round(total.tokens),
        shards=number_of_shards(corpus.sources, corpus.reading, round(total.bytes)),
        bytes_on_disk=round(total.disk),
        bytes_of_shifts=round(total.rows) * _bytes_of_shifts(config),
        bytes_on_disk_as=_as_other_types(total, config),
        bytes_of_index=expected_bytes(round(total.rows), config.hidden_size),
        bytes_free=free_bytes(plan.location.folder) if plan.location.is_here else None,
        tokens_per_second=rate,
        seconds=round(known_start(config, plan.engine.devices) + total.tokens / rate, 1) if rate else None,
        seconds_of_index=round(_seconds_of_index(plan, round(total.rows)), 1),
        first_reject=sample.first_reject,
        fit=FitShares.of(asdict(sample.total), sample.scripts),
        control_tokens=round(total.control_tokens),
        kinds=_kinds(corpus),
    )


def _seconds_of_index(plan: RunPlan, rows: int) -> float:
    """Return how long the index of a run takes; 0 if it builds none."""
    builds = plan.choices.index and plan.choices.part is None and plan.location.is_here
    return expected_seconds(rows, plan.config.hidden_size) if builds else 0.0


def _bytes_of_shifts(config: ResolvedConfig) -> int:
    """Return how many bytes of a row are shifts that could be computed as they are read."""
    if not {"static", "contextual", "shift"} <= {*config.vectors}:
        return 0
    return len(config.layers) * _vector_bytes(config, config.dtype)


def _as_other_types(total: "_Totals", config: ResolvedConfig) -> dict[StoredType, int]:
    """Return the bytes on disk by each other type in which the vectors could be stored."""
    own = _vector_bytes(config, config.dtype)
    others: list[StoredType] = [each for each in get_args(StoredType) if each != config.dtype]
    if config.shift == "log_ratio":
        others = [each for each in others if each != "int8"]
    n_vectors = total.rows * len(config.columns)
    return {each: round(total.disk + n_vectors * (_vector_bytes(config, each) - own)) for each in others}


def _vector_bytes(config: ResolvedConfig, dtype: StoredType) -> int:
    """Return the bytes of a vector, with the scale of one that is int8."""
    if dtype == "int8":
        return config.hidden_size + 4
    return config.hidden_size * (2 if dtype == "float16" else 4)


def _kinds(corpus: Corpus) -> tuple[Kind, ...]:
    """Return how the sources are read, the largest kinds first."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for source in corpus.sources:
        suffix = suffix_of(source.path)
        if suffix != (last := PurePath(source.path).suffix.lower()):
            suffix += last
        sizes.setdefault((suffix, how_read(source, corpus.reading)), []).append(source.size)
    kinds = (Kind(suffix, len(each), sum(each), how) for (suffix, how), each in sizes.items())
    return tuple(sorted(kinds, key=lambda kind: (-kind.bytes, kind.suffix, kind.how)))


def _limited(total: _Totals, limit: int) -> _Totals:
    """Return the sums over at most so many records."""
    if total.records <= limit:
        return total
    part = _Totals()
    part.add(total, limit / total.records)
    return part


# --- the sample -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sample:
    """What was drawn of the sources: its size, and sums over all that it stands for."""

    total: _Totals = field(default_factory=_Totals)
    scripts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes: float = 0
    first_reject: str | None = None


def _draw(corpus: Corpus, config: ResolvedConfig) -> _Sample:
    """Draw a sample of some sources of each format and compression."""
    from ctxbatch.model.resolve import read_tokenizer  # torch comes last: mistakes are told at once

    maker = BatchMaker(read_tokenizer(config), config)
    kinds: dict[tuple[str, str | None], list[Source]] = {}
    for source in corpus.sources:
        if source.size:
            kinds.setdefault((source.format, source.compression), []).append(source)
    chosen = {kind: spread(group, _SOURCES_A_KIND) for kind, group in kinds.items()}
    budget = max(_MIN_BYTES_A_SOURCE, _SAMPLE_BYTES // max(1, sum(map(len, chosen.values()))))
    sample = _Sample()
    for kind, group in kinds.items():
        factor = sum(s.size for s in group) / sum(s.size for s in chosen[kind])
        for source in chosen[kind]:
            with telling_of_memory(source.path):
                read = sample_source(source, corpus.reading, budget)
            sums, scripts = _sums_of(read, maker, config)
            sample.total.add(sums, factor / read.share)
            for script, count in scripts.items():
                sample.scripts[script] += count * factor / read.share
            sample.bytes += read.bytes
            if sample.first_reject is None and read.first_reject is not None:
                sample.first_reject = f"{source.path}: {read.first_reject}"
    return sample


def _sums_of(sample: SourceSample, maker: BatchMaker, config: ResolvedConfig) -> tuple[_Totals, Counter[str]]:
    """Return the sums over what was read of a source, and the scripts of words that do not fit the model."""
    found = _Totals(bytes=sample.bytes, records=sample.n_records, rejected=sample.n_rejected)
    scripts: Counter[str] = Counter()
    records, name = sample.records, sample.source.path
    lang, rules = config.lang, config.sentence_rules
    sentences = itertools.chain.from_iterable(split_sentences(record, lang, rules) for record in records)
    vector_bytes = len(config.columns) * _vector_bytes(config, config.dtype)
    specials = maker.n_specials
    for buffer in maker.buffers(sentences):
        run = np.unique(buffer.rows.window_N)
        n_rows = _expected_rows(buffer, config)
        found.sentences += len(buffer.sentences)
        found.words += int(buffer.n_words_S.sum())
        found.rows += n_rows
        found.tokens += int(buffer.window_length_W[run].sum()) + specials * len(run)
        texts = sum(len(sentence.text.encode()) for sentence in buffer.sentences)
        ids = sum(len(sentence.record.doc_id or "") for sentence in buffer.sentences)
        words = len(buffer.words.utf8) * n_rows / max(1, len(buffer.rows))
        found.wordpieces += int(buffer.n_pieces_S.sum())
        for counted, count in buffer.fit.counts.items():
            setattr(found, counted, getattr(found, counted) + count)
        scripts.update(buffer.fit.scripts)
        found.disk += n_rows * (vector_bytes + _ROW_BYTES) + words + texts + ids
        found.disk += len(buffer.sentences) * (_SENTENCE_BYTES + len(name))
    return found, scripts


def _expected_rows(buffer: Buffer, config: ResolvedConfig) -> float:
    """Return how many rows of a buffer a run would store; the most salient ones are only counted."""
    rows = buffer.rows
    if config.top_salient is None:
        return len(rows)
    n_words_N = buffer.n_words_S[rows.sentence_N]
    return float((rows.wanted_N * np.minimum(1, config.top_salient / n_words_N)).sum())
