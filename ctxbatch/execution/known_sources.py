"""Compares the sources that a run names with those of a store: to resume it, or to append to it."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ctxbatch.corpus.records import Reader, Segment, place_of
from ctxbatch.corpus.source_files import real_place
from ctxbatch.corpus.sources import Source
from ctxbatch.errors import StoreError, shortened
from ctxbatch.filesystem import is_remote
from ctxbatch.store.manifest import Manifest

log = logging.getLogger("ctxbatch")
_SHOWN = 3
_ANOTHER = "use the same inputs and --exclude to resume, or another -o"


def check_sources(out: Path | str, manifest: Manifest, sources: Sequence[Source]) -> None:
    """Refuse other sources than those of the store; a new time alone is no other source.

    Raises:
        StoreError: They are others, or their text is.
    """
    stored, asked = [s.path for s in manifest.sources], [s.path for s in sources]
    for path in _unknown(out, manifest, sources):
        raise StoreError(
            f"{path} is not a source of {out}, which has {len(stored)}: add it with --append, {_ANOTHER}"
        )
    if missing := [path for path in stored if path not in {*asked}]:
        raise StoreError(f"{missing[0]} is a source of {out}, but this command does not name it: {_ANOTHER}")
    if stored != asked and not manifest.appended:  # what is appended stands behind, whatever its name
        raise StoreError(f"the inputs are in another order than when {out} was made: {_ANOTHER}")
    for why in _changes(out, manifest, sources):
        raise StoreError(f"{why}: {_ANOTHER}")


def new_sources(
    out: Path | str,
    manifest: Manifest,
    committed: Collection[int],
    sources: Sequence[Source],
    *,
    skip_changed: bool,
) -> tuple[Source, ...]:
    """Return the sources that a store does not have yet, and say what became of the others.

    Args:
        out: The store's name.
        manifest: Its manifest.
        committed: Its committed shards.
        sources: What a run names.
        skip_changed: Whether sources that have changed are skipped.

    Raises:
        StoreError: A source of the store has changed, and such are not to be skipped; or one has changed or
            is gone whose rows are not stored yet, so that the store cannot be finished.
    """
    unknown = {*_unknown(out, manifest, sources)}
    known = [source for source in sources if source.path not in unknown]
    changes = _changes(out, manifest, known)
    if not skip_changed:
        for why in changes:
            raise StoreError(
                f"{why}: restore it, give its new text another name, or keep the rows of its old text with "
                "--skip-changed"
            )
    elif skipped := [*changes]:
        _check_stored(out, manifest, committed, {source.path for source in known}, skipped)
        log.warning(
            "kept the rows of %d sources that have changed: %s", len(skipped), shortened(skipped, _SHOWN)
        )
    asked = {source.path for source in known}
    gone = [each.path for each in manifest.sources if each.path not in asked and _is_gone(each.path)]
    if gone:
        _check_stored(out, manifest, committed, {*gone}, [f"{path} is gone" for path in gone])
        log.warning("kept the rows of %d sources that are gone: %s", len(gone), shortened(gone, _SHOWN))
    return tuple(source for source in sources if source.path in unknown)


def _unknown(out: Path | str, manifest: Manifest, sources: Sequence[Source]) -> Iterator[str]:
    """Yield the paths that are no sources of a store.

    Raises:
        StoreError: One is a source under another name.
    """
    stored = {source.path for source in manifest.sources}
    asked = [source.path for source in sources if source.path not in stored]
    places = {real_place(path): path for path in stored} if asked else {}
    for path in asked:
        if as_before := places.get(real_place(path)):
            raise StoreError(f"{out} knows {path} as {as_before}: use that name")
        yield path


def _changes(out: Path | str, manifest: Manifest, sources: Sequence[Source]) -> Iterator[str]:
    """Yield how the text of sources differs from what a store was planned with."""
    numbers = {source.path: number for number, source in enumerate(manifest.sources)}
    segments: dict[int, list[Segment]] = defaultdict(list)
    reader = Reader(manifest.sources, manifest.reading)
    try:
        for new in sources:
            number = numbers[new.path]
            old = manifest.sources[number]
            if old.size != new.size:
                yield f"{new.path} has {new.size} bytes now, but had {old.size} when {out} was planned"
            elif old.mtime_ns != new.mtime_ns:
                if not segments:
                    for spec in manifest.shards:
                        for segment in spec.segments:
                            segments[segment.source].append(segment)
                for segment in segments[number]:
                    if not reader.is_unchanged(segment):
                        yield f"{new.path} has changed in {place_of(old, segment)} since {out} was planned"
                        break
    finally:
        reader.close()


def _check_stored(
    out: Path | str,
    manifest: Manifest,
    committed: Collection[int],
    paths: Collection[str],
    why: Sequence[str],
) -> None:
    """Refuse if rows of some of these sources are not stored yet; ``why`` begins with their paths."""
    unfinished = (spec for spec in manifest.shards if spec.shard not in committed)
    numbers = {segment.source for spec in unfinished for segment in spec.segments}
    needed = {manifest.sources[number].path for number in numbers}.intersection(paths)
    for each in why:
        if any(each.startswith(f"{path} ") for path in needed):
            raise StoreError(f"{each}, before its rows were stored in {out}: restore it, or use another -o")


def _is_gone(path: str) -> bool:
    try:
        return not is_remote(path) and not Path(path).exists()
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False
