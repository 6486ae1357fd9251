"""One run from inputs to a finished store: resolve, plan or resume, work, index; and its repair.

Owns the order of these steps. Everything under OUT is written by others.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.inputs import find_sources
from ctxbatch.corpus.plan import ShardSpec, corpus_bytes, examine, plan, resolve_reading
from ctxbatch.corpus.raw_records import Reading
from ctxbatch.corpus.sources import Source
from ctxbatch.errors import InputError, shortened
from ctxbatch.execution.engines import Engine, open_engine
from ctxbatch.execution.estimate import Estimate, estimate, remember_rate
from ctxbatch.execution.messages import Left, Message
from ctxbatch.execution.partition import PATIENCE_SECONDS, PartReport, part_of
from ctxbatch.execution.reject_limit import RejectWatch
from ctxbatch.execution.resume import check_options, check_sources
from ctxbatch.execution.session import Session, plan_again, warn_of_mixture, writing_to
from ctxbatch.files import check_room
from ctxbatch.model.compiling import CompilingError
from ctxbatch.run_config import RunConfig
from ctxbatch.search import index_build
from ctxbatch.store.commits import Commit, shard_folder
from ctxbatch.store.location import StoreLocation, location_of, manifest_of
from ctxbatch.store.manifest import Manifest, log_path
from ctxbatch.store.reader import Store
from ctxbatch.store.rejects import misread
from ctxbatch.store.stats import RunTotals, totals

log = logging.getLogger("ctxbatch")
_SHOWN_LEFT_OUT = 3
_MAKE_ROOM = "make room, name another -o or fewer --vectors, or try all the same with --force"


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run ends with: the store's totals, the shards given up, the index, if one was built, the log.

    ``n_run`` is the number of shards that this run made; none if the store was finished before. Of a part of
    a run, ``totals`` are those of its own shards, and ``part`` says how the store stands. ``missing`` are
    shards that were committed, and are gone.
    """

    out: Path | str
    totals: RunTotals
    n_run: int
    given_up: tuple[int, ...]
    index: index_build.IndexReport | None
    log: Path
    missing: tuple[int, ...] = ()
    part: PartReport | None = None

    @property
    def clean(self) -> bool:
        """Whether everything that was read is stored."""
        lost = self.given_up or self.missing
        return not (lost or self.totals.rejected or self.totals.rejected_words)


def run(
    inputs: Sequence[str | Path] | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    quiet: bool = True,
) -> RunReport:
    """What `ctxbatch.run` does; arguments and errors are described there."""
    config, location = config or RunConfig(), location_of(out)
    sources, left_out, reading = _look_at(inputs, location, config)
    if location.manifest() is None:
        sources = examine(sources, reading, config)
    # torch comes last: mistakes above are told at once
    with open_engine(config) as engine:
        resolved = engine.resolve(config, corpus_bytes(sources, reading.limit))
        with writing_to(location, config.shard_range) as (lock, log_file):
            _tell_left_out(left_out)
            manifest = _open_manifest(location, config, resolved, reading, sources, engine)
            return _finish(Session(location, manifest, engine, lock, log_file, quiet), config)


def _finish(site: "Session", config: RunConfig) -> RunReport:
    """Run the shards that are missing, and build the index; of a part only its shards, and no index."""
    location, manifest, part = site.location, site.manifest, config.shard_range
    before = location.commits(manifest)
    if part is None:
        location.make_ready(manifest, before)
    mine = [spec.shard for spec in part_of(manifest.shards, part)]
    todo = [manifest.shards[shard] for shard in mine if shard not in before]
    if location.is_here and not config.force:
        _check_room_for_rest(location.folder, manifest, before, todo)
    if todo and len(todo) < len(mine):
        log.info("resuming: %d of %d shards are done", len(mine) - len(todo), len(mine))
    watch = RejectWatch(location.out, config.max_rejects, {s: before[s] for s in mine if s in before})
    left: set[int] = set()

    def listen(message: Message) -> None:
        watch.on_message(message)
        if isinstance(message, Left):
            left.add(message.shard)

    patience = math.inf if part is None else PATIENCE_SECONDS
    given_up = site.work(todo, listen, patience=patience)
    watch.check(finished=True)
    wanted = config.index and not given_up and part is None and location.is_here
    report = _index(Store(location.out), quiet=site.quiet) if wanted else None
    store = Store(location.out)
    lost = set(mine).difference(store.commits, given_up, left)
    warn_of_mixture(store.commits.values())
    if store.complete and not store.n_rows:
        kept = manifest.config.kept or "words"
        n_sentences = totals(store).sentences
        log.warning("%s holds no rows: of %d sentences none has %s", location.out, n_sentences, kept)
    result = RunReport(
        location.out,
        totals(store, mine),
        len(set(store.commits).intersection(mine).difference(before)),
        tuple(given_up),
        report,
        log_path(location.folder, part),
        tuple(sorted(lost)),
        _part_report(store, config, mine, left),
    )
    if not before and part is None and site.engine.devices:
        remember_rate(result.totals, manifest.config)
    log.debug("finished: %s", result.totals.as_dict())
    return result


def _part_report(store: Store, config: RunConfig, mine: Sequence[int], left: set[int]) -> PartReport | None:
    if config.shard_range is None:
        return None
    planned = len(store.manifest.shards)
    missing = tuple(shard for shard in range(planned) if shard not in store.commits)
    wants_index = config.index and store.complete and store.n_rows >= index_build.SCAN_ROWS
    to_index = store.config.column() if wants_index else None
    return PartReport(
        *config.shard_range,
        tuple(mine),
        tuple(sorted(left.intersection(missing))),
        missing,
        planned,
        to_index,
    )


def make_estimate(
    inputs: Sequence[str | Path] | str | Path, out: str | Path, config: RunConfig | None = None
) -> Estimate:
    """What `ctxbatch.estimate` does; arguments and errors are described there."""
    config, location = config or RunConfig(), location_of(out)
    sources, left_out, reading = _look_at(inputs, location, config)
    sources = examine(sources, reading, config)
    _tell_left_out(left_out)
    if config.shard_range is not None:
        log.info("--shard-range %d/%d runs a part: this is what all of them come to", *config.shard_range)
    with open_engine(config) as engine:
        resolved = engine.resolve(config, corpus_bytes(sources, reading.limit))
        _check_words(resolved)
        room = location.folder if location.is_here else None
        found = estimate(sources, reading, resolved, room, engine.devices)
    if found.sampled == 1 and found.rejected == found.records and found.first_reject is not None:
        raise InputError(f"nothing can be read: {found.first_reject}")
    return found


def _check_words(config: ResolvedConfig) -> None:
    """Name the words of --words that no text can hold as this model's tokenizer sees words."""
    if config.words is None:
        return
    from ctxbatch.model.resolve import read_tokenizer
    from ctxbatch.text.batching import BatchMaker

    maker = BatchMaker(read_tokenizer(config), replace(config, sample=None, top_salient=None))
    possible = maker.single_words(config.words)
    never = [word for word, is_word in zip(config.words, possible, strict=True) if not is_word]
    if not never:
        return
    shown = shortened(map(repr, never), _SHOWN_LEFT_OUT)
    what = f"{len(never)} of {len(config.words)} --words are not single words for {config.model}: {shown}"
    if len(never) == len(config.words):
        raise InputError(f"{what}; give surface words, without spaces or punctuation")
    log.warning("%s; they will not be found", what)


def _index(store: Store, *, quiet: bool) -> index_build.IndexReport | None:
    """The index of a finished run; the run counts also where none fits the memory that is the default."""
    try:
        return index_build.ensure(store, store.config.column(), quiet=quiet)
    except InputError as error:
        log.warning("%s has no index: %s, with `ctxbatch index %s`", store.path, error, store.path)
        return None


def _look_at(
    inputs: Sequence[str | Path] | str | Path, location: StoreLocation, config: RunConfig
) -> tuple[list[Source], list[str], Reading]:
    """The sources, what was left out of folders, and how the sources are read."""
    if not location.is_here:
        _check_for_object_storage(location.out, config)
    location.check()
    listed = [inputs] if isinstance(inputs, str | Path) else inputs
    sources, left_out = find_sources(listed, location.folder, config.format)
    return sources, left_out, resolve_reading(config, sources)


def _check_for_object_storage(out: Path | str, config: RunConfig) -> None:
    """Refuse options that need a folder."""
    if config.shard_range is not None:
        raise InputError(
            f"--shard-range needs a folder that all machines share, and {out} is on object storage: take "
            "--engine ray, or another -o"
        )
    if config.force:
        raise InputError(f"--force cannot be used with {out}: nobody knows how much room is there")


def _tell_left_out(left_out: Sequence[str]) -> None:
    if left_out:
        log.warning("left out %d: %s", len(left_out), shortened(left_out, _SHOWN_LEFT_OUT))
        for each in left_out[_SHOWN_LEFT_OUT:]:
            log.debug("left out %s", each)


def _check_room_for_rest(
    out: Path, manifest: Manifest, done: Mapping[int, Commit], todo: Sequence[ShardSpec]
) -> None:
    """Refuse to go on where the disk cannot hold what is still to be made, to judge by what is there."""
    size_done = sum(manifest.shards[shard].size for shard in done)
    if size_done:
        written = sum(commit.size for commit in done.values())
        check_room(out, round(written * sum(spec.size for spec in todo) / size_done), _MAKE_ROOM)


# --- the manifest -------------------------------------------------------------------------------------


def _open_manifest(
    location: StoreLocation,
    config: RunConfig,
    resolved: ResolvedConfig,
    reading: Reading,
    sources: Sequence[Source],
    engine: Engine,
) -> Manifest:
    """The store's manifest, made now or checked against what is asked for now."""
    manifest = location.manifest()
    if manifest is None:
        resolved = _begin(location, config, resolved, reading, sources, engine)
        manifest = Manifest(resolved, reading, tuple(sources), tuple(plan(sources, reading)))
        log.debug("planned %d shards from %d sources", len(manifest.shards), len(sources))
        if location.begin(manifest, first=config.shard_range is not None):
            return manifest
        log.debug("another part was the first: its manifest holds")
        manifest = manifest_of(location)
    if config.compile == "auto":  # settled when the store was begun, perhaps by a compiler that is gone
        resolved = replace(resolved, compiled=manifest.config.compiled)
    check_sources(location.out, manifest, sources)
    check_options(location.out, manifest, resolved, reading)
    if location.is_here and config.shard_range is None:
        for shard, commit in location.commits(manifest).items():
            if found := misread(shard_folder(location.folder, shard), commit):
                return plan_again(location, manifest, f"shard {shard:06d} {found}")
    return manifest


def _begin(
    location: StoreLocation,
    config: RunConfig,
    resolved: ResolvedConfig,
    reading: Reading,
    sources: Sequence[Source],
    engine: Engine,
) -> ResolvedConfig:
    """Make sure that a new run can go through: room on the disk, and a model that compiles or need not."""
    _check_words(resolved)
    if location.is_here and not config.force:
        expected = estimate(sources, reading, resolved, location.folder, engine.devices)
        check_room(location.folder, expected.bytes_on_disk + expected.bytes_of_index, _MAKE_ROOM)
    try:
        engine.make_program(resolved)
    except CompilingError as error:
        if config.compile == "on":
            raise CompilingError(f"{error}; fix the compiler or take --compile off") from error
        log.warning("%s; going on without", error)
        return replace(resolved, compiled=False)
    return resolved


# --- the log --------------------------------------------------------------------------------------
