"""Finds damage in a store: compares its files with their checksums, and its sources with the plan.

Owns the list of things that can be wrong; repairs nothing.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctxbatch.arrays import Vectors
from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.records import Reader, place_of
from ctxbatch.corpus.source_files import current_size
from ctxbatch.corpus.sources import Source
from ctxbatch.errors import InputError, StoreError
from ctxbatch.filesystem import without_password
from ctxbatch.sealed import is_intact, read_bytes
from ctxbatch.store.arrow_files import ArrowFile
from ctxbatch.store.commits import (
    COMMIT,
    MOMENTS,
    SENTENCES,
    WORDS,
    Commit,
    FileName,
    is_of_plan,
    parse_commit,
    shard_folder,
)
from ctxbatch.store.int8_vectors import Int8Vectors
from ctxbatch.store.kept_moments import carried_by
from ctxbatch.store.location import StoreLocation, location_of, manifest_of
from ctxbatch.store.manifest import SHARDS, Manifest
from ctxbatch.store.moments import Moments
from ctxbatch.store.rejects import misread
from ctxbatch.store.schema import sentences_schema, words_schema

log = logging.getLogger("ctxbatch")
_MAX_LISTED_SOURCES = 20


@dataclass(frozen=True, slots=True)
class Damage:
    """A description of damage, and the damaged shard or index.

    ``is_misread`` means that the files of the shard are intact, but that its text was read wrongly.
    """

    text: str
    shard: int | None = None
    index: str | None = None
    is_misread: bool = False


def find_shard_damage(location: StoreLocation, manifest: Manifest) -> Iterator[Damage]:
    """Yield all damage in a store's shards; a missing shard is unfinished work, not damage.

    Raises:
        ResourceError: The disk, a permission or the network prevents reading.
    """
    for spec in manifest.shards:
        with location.shard_files(spec.shard) as folder:
            if folder is not None:
                name = f"{location.out}/{SHARDS}/{spec.shard:06d}"
                yield from _shard_damage(folder, name, manifest, spec)
    if not location.is_here:
        return
    planned = {shard_folder(location.folder, spec.shard).name for spec in manifest.shards}
    for entry in sorted((location.folder / SHARDS).glob("[!.]*")):
        if entry.name not in planned:
            yield Damage(f"{entry} is not part of the store: remove it")


def _shard_damage(folder: Path, name: str, manifest: Manifest, spec: ShardSpec) -> Iterator[Damage]:
    """Yield the damage in a shard whose files are in ``folder``; messages call the shard ``name``."""
    shard = spec.shard
    try:
        commit = parse_commit(read_bytes(folder / COMMIT), f"{name}/{COMMIT}", shard)
        if not is_of_plan(commit, manifest, spec):
            yield Damage(f"{name} has another configuration or other text than the manifest", shard)
            return
        damaged = list(file_damage(folder, name, commit)) or _content_damage(folder, name, manifest, commit)
        for text in damaged:
            yield Damage(text, shard)
        if found := misread(folder, commit):
            yield Damage(f"{name} {found}", shard, is_misread=True)
    except FileNotFoundError:
        yield Damage(f"{name}/{COMMIT} is missing", shard)
    except StoreError as error:
        yield Damage(str(error), shard)


def file_damage(folder: Path, name: str, commit: Commit) -> Iterator[str]:
    """Yield a line for each of a shard's files that is missing or does not match its commit record.

    Args:
        folder: The folder of the files.
        name: The shard's name in messages.
        commit: The commit record.

    Raises:
        ResourceError: The disk or a permission prevents reading.
    """
    for file, facts in commit.files.items():
        path = folder / file
        try:
            if not is_intact(path, facts.bytes, facts.sha256):
                yield f"{name}/{file} is damaged: its content does not match the checksum in {COMMIT}"
        except FileNotFoundError:
            yield f"{name}/{file} is missing"
        except StoreError:
            yield f"{name}/{file} is damaged: it is not a regular file"


# --- content --------------------------------------------------------------------------------------


def _content_damage(folder: Path, name: str, manifest: Manifest, commit: Commit) -> Iterator[str]:
    """Yield errors that checksums cannot find: content that was already wrong when it was written."""
    config, counts = manifest.config, commit.counts
    files: dict[FileName, ArrowFile] = {}
    for file, schema, id_column, n_rows in (
        (WORDS, words_schema(config, manifest.reading), "row_id", counts.rows),
        (SENTENCES, sentences_schema(config, manifest.reading), "sentence_id", counts.sentences),
    ):
        files[file] = ArrowFile(folder / file, schema, n_rows, commit.files[file]).check()
        if files[file].metadata != schema.metadata:
            yield f"{name}/{file} has another configuration: its schema differs from that of the manifest"
            return
        expected = np.arange(n_rows) + (commit.shard << 32)
        if not np.array_equal(files[file].column(id_column).to_numpy(), expected):
            yield f"{name}/{file} does not hold the {n_rows} rows of {COMMIT} in order"
            return
    words = files[WORDS]
    if not _words_match_offsets(words, files[SENTENCES], pieces=config.pool == "none"):
        yield f"{name}/{WORDS} has words that are not at their offsets in {SENTENCES}"
    salience = words.column("salience")
    expected_nulls = 0 if config.salience_layer else counts.rows
    if salience.null_count != expected_nulls or not np.isfinite(salience.drop_null().to_numpy()).all():
        yield f"{name}/{WORDS} has salience that is missing, not finite, or unexpected"
    for column in config.columns:
        if not all(map(_is_sound, words.vectors(column))):
            scales = ", or scales that are none" if config.dtype == "int8" else ""
            yield f"{name}/{WORDS} has values in {column} that are not finite{scales}"
    if MOMENTS in commit.files and not _moments_match(folder, commit, words, config):
        yield f"{name}/{MOMENTS} does not hold the moments of {WORDS}"


def _is_sound(vectors: Vectors | Int8Vectors) -> bool:
    return vectors.sound if isinstance(vectors, Int8Vectors) else bool(np.isfinite(vectors).all())


def _moments_match(folder: Path, commit: Commit, words: ArrowFile, config: ResolvedConfig) -> bool:
    held = carried_by(folder, commit, len(config.columns), config.hidden_size)
    right = (Moments.of(words.vectors(column), config.hidden_size) for column in config.columns)
    return all(one.nearly_equals(other) for one, other in zip(held, right, strict=True))


def _words_match_offsets(words: ArrowFile, sentences: ArrowFile, pieces: bool) -> bool:
    n_sentences, all_texts = int(sentences.firsts[-1]), sentences.column("text")
    last = 0
    for number in range(len(words)):
        batch = words.batch(number)
        ids = batch["sentence_id"].to_numpy()
        numbers = ids & 0xFFFFFFFF
        if not len(ids):
            continue
        if numbers[0] < last or (np.diff(ids) < 0).any() or numbers[-1] >= n_sentences:
            return False
        first, last = int(numbers[0]), int(numbers[-1])
        texts = all_texts.slice(first, last - first + 1).to_pylist()
        starts, ends = batch["char_start"].to_pylist(), batch["char_end"].to_pylist()
        for sentence, start, end, word in zip(numbers, starts, ends, batch["word"].to_pylist(), strict=True):
            text = texts[sentence - first]
            # If rows are wordpieces, "word" is the whole word, and the offsets are those of the wordpiece.
            if not 0 <= start < end <= len(text) or (not pieces and text[start:end] != word):
                return False
    return True


def tell_sources(out: str | Path, sources: Sequence[Source]) -> None:
    """Log which sources will be opened because the store names them; for many, only their folders."""
    names = [without_password(source.path) for source in sources]
    if len(names) > _MAX_LISTED_SOURCES:
        folders = Counter(name.rpartition("/")[0] or "/" for name in names)
        names = [f"{count:,} in {folder}" for folder, count in sorted(folders.items())]
    log.info("opening the sources named in %s: %s", out, ", ".join(names))


def find_source_changes(out: str | Path) -> Iterator[str]:
    """Yield a line for every source that has changed since it was planned; this reads all sources.

    Raises:
        StoreError: ``out`` is not a store, or its manifest is damaged.
        ResourceError: The network fails, so that nothing is known about a source.
    """
    manifest = manifest_of(location_of(out))
    named: set[int] = set()
    for number, source in enumerate(manifest.sources):
        size = current_size(source.path)
        if size is not None and size != source.size:
            named.add(number)
            yield f"{source.path} has {size} bytes, but had {source.size} when the run was planned"
    reader = Reader(manifest.sources, manifest.reading)
    for spec in manifest.shards:
        for segment in spec.segments:
            source = manifest.sources[segment.source]
            if segment.source in named:
                continue
            try:
                if not reader.is_unchanged(segment):
                    named.add(segment.source)
                    yield f"{source.path} has changed in {place_of(source, segment)}"
            except InputError as error:
                named.add(segment.source)
                yield str(error)
