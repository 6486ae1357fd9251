"""Finding damage: every file of a store against the checksums that were written with it.

Owns the list of things that can be wrong; repairs nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctxbatch.corpus import source_size
from ctxbatch.errors import InputError, StoreError
from ctxbatch.index import check_index, index_files
from ctxbatch.layout import Manifest, file_digest, read_json
from ctxbatch.readers import check_segment
from ctxbatch.store import open_arrow
from ctxbatch.writer import COMMIT, SENTENCES, WORDS, sentences_schema, shard_folder, words_schema


def find_damage(out: Path) -> Iterator[str]:
    """Yield a line for everything in a store that is not as it was written, index included.

    A shard that is missing is not damage but unfinished work, and not named here.

    Raises:
        StoreError: The folder is no store, or its manifest is damaged.
    """
    manifest = Manifest.read(out)
    for spec in manifest.shards:
        folder = shard_folder(out, spec.shard)
        if folder.exists():
            try:
                yield from _shard_damage(folder, manifest)
            except StoreError as error:
                yield str(error)
            except OSError as error:
                yield f"{folder} cannot be read: {error.strerror}"
    for path in index_files(out):
        yield from check_index(path, manifest)


def _shard_damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    commit = read_json(folder / COMMIT)
    if commit["fingerprint"] != manifest.config.fingerprint:
        yield f"{folder} is of another configuration than the manifest"
        return
    for name, facts in commit["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{path} is missing"
        elif path.stat().st_size != facts["bytes"] or file_digest(path) != facts["sha256"]:
            yield f"{path} is damaged: its content does not match the checksum in {COMMIT}"
        elif name in (WORDS, SENTENCES):
            yield from _content_damage(path, manifest, commit)


def _content_damage(path: Path, manifest: Manifest, commit: dict[str, Any]) -> Iterator[str]:
    table = open_arrow(path)
    is_words = path.name == WORDS
    schema = (words_schema if is_words else sentences_schema)(manifest.config)
    if not table.schema.equals(schema, check_metadata=True):
        yield f"{path} is of another configuration: its schema is not that of the manifest"
        return
    rows = commit["counts"]["rows" if is_words else "sentences"]
    ids = table["row_id" if is_words else "sentence_id"].to_numpy()
    if not np.array_equal(ids, np.arange(rows) + (commit["shard"] << 32)):
        yield f"{path} does not hold the {rows} rows of {COMMIT} in order"


def find_source_changes(out: Path) -> Iterator[str]:
    """Yield a line for every source that no longer holds the bytes that were planned; reads them all.

    Raises:
        StoreError: The folder is no store, or its manifest is damaged.
    """
    manifest = Manifest.read(out)
    named: set[int] = set()
    for number, source in enumerate(manifest.sources):
        size = source_size(source)
        if size is not None and size != source.size:
            named.add(number)
            yield f"{source.path} has {size} bytes and had {source.size} when it was planned"
    for spec in manifest.shards:
        for segment in spec.segments:
            source = manifest.sources[segment.source]
            if segment.source in named:
                continue
            try:
                if not check_segment(segment, source):
                    named.add(segment.source)
                    yield f"{source.path} has changed between bytes {segment.start} and {segment.end}"
            except InputError as error:
                named.add(segment.source)
                yield str(error)
