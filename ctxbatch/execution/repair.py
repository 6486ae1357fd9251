"""Finds damage in the shards and indexes of a store, and rebuilds them."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.errors import StoreError
from ctxbatch.execution.engines import LocalEngine
from ctxbatch.execution.session import plan_again, warn_of_mixture, writing_to
from ctxbatch.files import remove
from ctxbatch.formulas import plain
from ctxbatch.model.hub import model_of_store
from ctxbatch.search import index_build
from ctxbatch.search.index_files import IndexFacts, check_index, folder_damage, index_files, read_facts
from ctxbatch.search.index_parts import parts_damage
from ctxbatch.store.kept_moments import kept_files
from ctxbatch.store.location import location_of, manifest_of
from ctxbatch.store.manifest import INDEX, log_path
from ctxbatch.store.reader import Store
from ctxbatch.store.verify import Damage, find_shard_damage, tell_sources

log = logging.getLogger("ctxbatch")


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair has rebuilt: shards by number, indexes by column."""

    shards: tuple[int, ...]
    indexes: tuple[str, ...]


def find_damage(out: str | Path) -> Iterator[Damage]:
    """Yield everything in a store that is not as it was written, indexes included.

    A shard that is missing is not damage but unfinished work, and not named here.

    Raises:
        StoreError: The folder is not a store, or its manifest is damaged.
        ResourceError: The disk, a permission or the network does not let something be read.
    """
    location = location_of(out)
    manifest = manifest_of(location)
    yield from find_shard_damage(location, manifest)
    if not location.is_here:
        return
    for text in folder_damage(location.folder):
        yield Damage(text, index=INDEX)
    with contextlib.suppress(StoreError):  # of a shard, which is named already
        store = Store(out)
        for path in index_files(location.folder):
            for text in _index_damage(store, path):
                yield Damage(text, index=path.stem)
        for path, text in store.moments.damage():
            yield Damage(text, index=path.stem)


def _index_damage(store: Store, path: Path) -> Iterator[str]:
    """Yield a line for each file that belongs to an index and is damaged; ``path`` is its JSON file."""
    damage = [*check_index(path, store.manifest, complete=store.complete)]
    yield from damage
    if not damage and isinstance(facts := read_facts(path), IndexFacts):
        yield from parts_damage(store, facts)


def repair_store(out: str | Path, model: str | None = None, *, quiet: bool = True) -> RepairReport:
    """Rebuild damaged and missing shards from the sources, and damaged indexes from the shards.

    Args:
        out: The store's folder.
        model: Where its model is; if not given, where the store says, as
            `ctxbatch.model.hub.find_stored_model` finds it.
        quiet: Show no progress on standard error.

    Raises:
        InputError: A source or the model is not there any more, or has changed.
        StoreError: The folder is not a store, or its manifest is damaged; or its model cannot be found.
        ResourceError: The disk, a permission or another run stands in the way.
    """
    location = location_of(out)
    manifest_of(location)  # refuses what is no store before a lock is put there
    with writing_to(location, quiet=quiet) as session:
        manifest = manifest_of(location)  # which another run may have appended to meanwhile
        found = list(find_damage(out))
        for damage in found:
            log.debug("to repair: %s", damage.text)
        if wrong := next((damage.text for damage in found if damage.is_misread), None):
            tell_sources(out, manifest.sources)
            manifest = plan_again(location, manifest, wrong)
        commits = location.commits(manifest)
        location.make_ready(manifest, commits)
        damaged = {damage.shard for damage in found if damage.shard is not None}
        intact = commits.keys() - damaged
        todo = [spec for spec in manifest.shards if spec.shard not in intact]
        folder = None
        if todo:
            folder = model_of_store(manifest.config, location.folder, model).path
            tell_sources(out, [manifest.sources[number] for number in _read_by(todo)])
        if given_up := session.work(LocalEngine(model=folder), manifest, todo, rebuild=damaged):
            shards = ", ".join(f"{shard:06d}" for shard in given_up)
            raise StoreError(
                f"shards {shards} of {out} could not be rebuilt: read {log_path(location.folder)}"
            )
        store = Store(out)
        stale = _stale_indexes(store, rebuilt=bool(damaged)) if location.is_here else []
        indexes = index_build.rebuild(store, stale, model, quiet=quiet)
        warn_of_mixture(store.commits.values())
    return RepairReport(tuple(spec.shard for spec in todo), indexes)


def _stale_indexes(store: Store, *, rebuilt: bool) -> list[str]:
    """Remove kept moments that are wrong; return the names of indexes that are damaged, or made with such.

    What was added up of a damaged shard seems to match the shard that took its place.
    """
    files = index_files(store.path)
    stale = [path.stem for path in files if any(_index_damage(store, path))]
    for path in kept_files(store.path) if rebuilt else [path for path, _ in store.moments.damage()]:
        remove(path)
    standardised = (path.stem for path in files if plain(path.stem) != path.stem)
    return [*dict.fromkeys([*stale, *(standardised if rebuilt else ())])]


def _read_by(todo: Sequence[ShardSpec]) -> list[int]:
    """Return the numbers of the sources of these shards."""
    return sorted({segment.source for spec in todo for segment in spec.segments})
