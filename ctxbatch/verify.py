"""Finding damage: every file of a store against the checksums that were written with it.

Owns the list of things that can be wrong; repairs nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctxbatch.errors import InputError, StoreError
from ctxbatch.index import check_index, index_files
from ctxbatch.layout import SHARDS, Manifest, file_digest, unseal
from ctxbatch.places import manifest_of, place_of
from ctxbatch.readers import Reader, place
from ctxbatch.sources import current_size
from ctxbatch.store import open_arrow
from ctxbatch.writer import COMMIT, SENTENCES, WORDS, sentences_schema, shard_folder, words_schema


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not as it was written, in words; and the shard or the index that it is in."""

    text: str
    shard: int | None = None
    index: str | None = None


def find_damage(out: str | Path) -> Iterator[Damage]:
    """Yield everything in a store that is not as it was written, indexes included.

    A shard that is missing is not damage but unfinished work, and not named here.

    Raises:
        StoreError: The folder is no store, or its manifest is damaged.
    """
    place = place_of(out)
    manifest = manifest_of(place)
    for spec in manifest.shards:
        with place.shard_files(spec.shard) as folder:
            if folder is not None:
                for text in _shard_damage(folder, f"{place.out}/{SHARDS}/{spec.shard:06d}", manifest):
                    yield Damage(text, shard=spec.shard)
    if not place.is_here:
        return
    planned = {shard_folder(place.folder, spec.shard).name for spec in manifest.shards}
    for entry in sorted((place.folder / SHARDS).glob("[!.]*")):
        if entry.name not in planned:
            yield Damage(f"{entry} is not part of the store: remove it")
    for path in index_files(place.folder):
        for text in check_index(path, manifest):
            yield Damage(text, index=path.stem)


def _shard_damage(folder: Path, name: str, manifest: Manifest) -> Iterator[str]:
    """What is wrong with a shard's files, which lie in a folder and are called by another name."""
    try:
        commit = unseal((folder / COMMIT).read_bytes(), f"{name}/{COMMIT}")
        if commit["fingerprint"] != manifest.config.fingerprint:
            yield f"{name} is of another configuration than the manifest"
            return
        damaged = list(file_damage(folder, name, commit))
        yield from damaged
        if not damaged:
            yield from _content_damage(folder, name, manifest, commit)
    except StoreError as error:
        yield str(error)
    except OSError as error:
        yield f"{error.filename or name} cannot be read: {error.strerror}"


def file_damage(folder: Path, name: str, commit: Mapping[str, Any]) -> Iterator[str]:
    """Yield which of a shard's files are not those of its commit record.

    Args:
        folder: Where they are.
        name: What that is called.
        commit: The record.
    """
    for file, facts in commit["files"].items():
        path = folder / file
        if not path.is_file():
            yield f"{name}/{file} is missing"
        elif path.stat().st_size != facts["bytes"] or file_digest(path) != facts["sha256"]:
            yield f"{name}/{file} is damaged: its content does not match the checksum in {COMMIT}"


# --- content --------------------------------------------------------------------------------------


def _content_damage(folder: Path, name: str, manifest: Manifest, commit: dict[str, Any]) -> Iterator[str]:
    """What checksums cannot tell: whether what was written was right."""
    tables = {file: open_arrow(folder / file) for file in (WORDS, SENTENCES)}
    schemas = {WORDS: words_schema(manifest.config), SENTENCES: sentences_schema(manifest.config)}
    for file, table in tables.items():
        if not table.schema.equals(schemas[file], check_metadata=True):
            yield f"{name}/{file} is of another configuration: its schema is not that of the manifest"
            return
    for file, id_column, count in ((WORDS, "row_id", "rows"), (SENTENCES, "sentence_id", "sentences")):
        n_rows = commit["counts"][count]
        expected = np.arange(n_rows) + (commit["shard"] << 32)
        if not np.array_equal(tables[file][id_column].to_numpy(), expected):
            yield f"{name}/{file} does not hold the {n_rows} rows of {COMMIT} in order"
            return
    words, sentences = tables[WORDS], tables[SENTENCES]
    if not _words_stand_at_their_offsets(words, sentences, pieces=manifest.config.pool == "none"):
        yield f"{name}/{WORDS} has words that are not at their offsets in {SENTENCES}"
    salience, expected = words["salience"], 0 if manifest.config.salience_layer else len(words)
    if salience.null_count != expected or not np.isfinite(salience.drop_null().to_numpy()).all():
        yield f"{name}/{WORDS} has salience that is missing, not finite, or not asked for"
    for column in manifest.config.columns:
        if not all(_is_finite(chunk) for chunk in words[column].chunks):
            yield f"{name}/{WORDS} has values in {column} that are not finite"


def _words_stand_at_their_offsets(words: pa.Table, sentences: pa.Table, pieces: bool) -> bool:
    last = 0
    for batch in words.select(["sentence_id", "word", "char_start", "char_end"]).to_batches():
        if not batch.num_rows:
            continue
        numbers = batch["sentence_id"].to_numpy() & 0xFFFFFFFF
        if numbers[0] < last or (np.diff(numbers) < 0).any() or numbers[-1] >= len(sentences):
            return False
        first, last = int(numbers[0]), int(numbers[-1])
        texts = sentences["text"].slice(first, last - first + 1).to_pylist()
        starts, ends = batch["char_start"].to_pylist(), batch["char_end"].to_pylist()
        for number, start, end, word in zip(numbers, starts, ends, batch["word"].to_pylist(), strict=True):
            text = texts[number - first]
            # With rows for pieces the word is the whole word's and the offsets are the piece's.
            if not 0 <= start < end <= len(text) or (not pieces and text[start:end] != word):
                return False
    return True


def _is_finite(chunk: pa.Array) -> bool:
    flat: npt.NDArray[Any] = chunk.flatten().to_numpy(zero_copy_only=True)
    return bool(np.isfinite(flat).all())


def find_source_changes(out: str | Path) -> Iterator[str]:
    """Yield a line for every source that no longer holds the bytes that were planned; reads them all.

    Raises:
        StoreError: The folder is no store, or its manifest is damaged.
        ResourceError: The network fails, so that nothing can be said.
    """
    manifest = manifest_of(place_of(out))
    named: set[int] = set()
    for number, source in enumerate(manifest.sources):
        size = current_size(source)
        if size is not None and size != source.size:
            named.add(number)
            yield f"{source.path} has {size} bytes and had {source.size} when it was planned"
    reader = Reader(manifest.sources, manifest.reading)
    for spec in manifest.shards:
        for segment in spec.segments:
            source = manifest.sources[segment.source]
            if segment.source in named:
                continue
            try:
                if not reader.is_unchanged(segment):
                    named.add(segment.source)
                    yield f"{source.path} has changed in {place(source, segment)}"
            except InputError as error:
                named.add(segment.source)
                yield str(error)
