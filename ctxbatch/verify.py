"""Finding damage: every file of a store against the checksums that were written with it.

Owns the list of things that can be wrong; repairs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctxbatch.errors import InputError, StoreError
from ctxbatch.index import check_index, index_files
from ctxbatch.layout import SHARDS, Manifest, file_digest, read_json
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


def find_damage(out: Path) -> Iterator[Damage]:
    """Yield everything in a store that is not as it was written, indexes included.

    A shard that is missing is not damage but unfinished work, and not named here.

    Raises:
        StoreError: The folder is no store, or its manifest is damaged.
    """
    manifest = Manifest.read(out)
    for spec in manifest.shards:
        folder = shard_folder(out, spec.shard)
        if folder.exists():
            for text in _shard_damage(folder, manifest):
                yield Damage(text, shard=spec.shard)
    planned = {shard_folder(out, spec.shard).name for spec in manifest.shards}
    for entry in sorted((out / SHARDS).glob("[!.]*")):
        if entry.name not in planned:
            yield Damage(f"{entry} is not part of the store: remove it")
    for path in index_files(out):
        for text in check_index(path, manifest):
            yield Damage(text, index=path.stem)


def _shard_damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    try:
        commit = read_json(folder / COMMIT)
        if commit["fingerprint"] != manifest.config.fingerprint:
            yield f"{folder} is of another configuration than the manifest"
            return
        damaged = list(_file_damage(folder, commit))
        yield from damaged
        if not damaged:
            yield from _content_damage(folder, manifest, commit)
    except StoreError as error:
        yield str(error)
    except OSError as error:
        yield f"{folder} cannot be read: {error.strerror}"


def _file_damage(folder: Path, commit: dict[str, Any]) -> Iterator[str]:
    for name, facts in commit["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{path} is missing"
        elif path.stat().st_size != facts["bytes"] or file_digest(path) != facts["sha256"]:
            yield f"{path} is damaged: its content does not match the checksum in {COMMIT}"


# --- content --------------------------------------------------------------------------------------


def _content_damage(folder: Path, manifest: Manifest, commit: dict[str, Any]) -> Iterator[str]:
    """What checksums cannot tell: whether what was written was right."""
    tables = {name: open_arrow(folder / name) for name in (WORDS, SENTENCES)}
    schemas = {WORDS: words_schema(manifest.config), SENTENCES: sentences_schema(manifest.config)}
    for name, table in tables.items():
        if not table.schema.equals(schemas[name], check_metadata=True):
            yield f"{folder / name} is of another configuration: its schema is not that of the manifest"
            return
    for name, column, count in ((WORDS, "row_id", "rows"), (SENTENCES, "sentence_id", "sentences")):
        n_rows = commit["counts"][count]
        expected = np.arange(n_rows) + (commit["shard"] << 32)
        if not np.array_equal(tables[name][column].to_numpy(), expected):
            yield f"{folder / name} does not hold the {n_rows} rows of {COMMIT} in order"
            return
    words, sentences = tables[WORDS], tables[SENTENCES]
    if not _words_stand_at_their_offsets(words, sentences, pieces=manifest.config.pool == "none"):
        yield f"{folder / WORDS} has words that are not at their offsets in {SENTENCES}"
    salience, expected = words["salience"], 0 if manifest.config.salience_layer else len(words)
    if salience.null_count != expected or not np.isfinite(salience.drop_null().to_numpy()).all():
        yield f"{folder / WORDS} has salience that is missing, not finite, or not asked for"
    for name in manifest.config.columns:
        if not all(_is_finite(chunk) for chunk in words[name].chunks):
            yield f"{folder / WORDS} has values in {name} that are not finite"


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


def find_source_changes(out: Path) -> Iterator[str]:
    """Yield a line for every source that no longer holds the bytes that were planned; reads them all.

    Raises:
        StoreError: The folder is no store, or its manifest is damaged.
        ResourceError: The network fails, so that nothing can be said.
    """
    manifest = Manifest.read(out)
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
