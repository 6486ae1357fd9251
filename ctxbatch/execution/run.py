"""Runs the whole way from inputs to a finished store: plan, open the store, run missing shards, index.

Owns the order of these steps. Everything under OUT is written by others.
"""

import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxbatch.corpus.field_types import with_types
from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.plan import plan as plan_shards
from ctxbatch.errors import InputError
from ctxbatch.execution.estimate import estimate_plan
from ctxbatch.execution.index_ahead import IndexAhead
from ctxbatch.execution.int8_model import restore_int8_layers, with_int8_layers
from ctxbatch.execution.known_sources import check_sources
from ctxbatch.execution.messages import Left, Message
from ctxbatch.execution.partition import PATIENCE_SECONDS, PartReport, part_of
from ctxbatch.execution.rates import remember_rate
from ctxbatch.execution.reject_limit import RejectWatch
from ctxbatch.execution.resume import check_options
from ctxbatch.execution.run_plan import (
    RunPlan,
    check_words,
    examined,
    find_corpus,
    find_stored,
    planned,
    tell_left_out,
)
from ctxbatch.execution.session import Session, plan_again, warn_of_mixture, writing_to
from ctxbatch.files import check_room
from ctxbatch.formulas import cost_of_log_ratio
from ctxbatch.run_config import RunConfig
from ctxbatch.search import index_build
from ctxbatch.store.commits import Commit, shard_folder
from ctxbatch.store.location import location_of, manifest_of
from ctxbatch.store.manifest import Manifest, log_path
from ctxbatch.store.reader import Store
from ctxbatch.store.rejects import misread, most_frequent_reason
from ctxbatch.store.stats import RunTotals, totals

log = logging.getLogger("ctxbatch")
_MAKE_ROOM = "make room, choose another -o, store fewer --vectors, or start anyway with --force"


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run ends with: the store's totals, the shards given up, the index, if one was built, the log.

    ``n_run`` is the number of shards that this run made; none if the store was finished before. Of a part of
    a run, ``totals`` are those of its own shards, and ``part`` says how the store stands. ``missing`` are
    shards that were committed, and are gone. ``reject_reason`` is that of most rejects.
    """

    out: Path | str
    totals: RunTotals
    n_run: int
    given_up: tuple[int, ...]
    index: index_build.IndexReport | None
    log: Path
    missing: tuple[int, ...] = ()
    part: PartReport | None = None
    reject_reason: str | None = None

    @property
    def clean(self) -> bool:
        """Return True if every record read was stored."""
        lost = self.given_up or self.missing
        return not (lost or self.totals.rejected or self.totals.rejected_words)


@dataclass(frozen=True, slots=True)
class _Work:
    """What became of the shards that were this run's to make, ``mine``.

    ``before`` were committed when it began, ``given_up`` have failed too often, ``left`` another process is
    making.
    """

    mine: Sequence[int]
    before: Mapping[int, Commit]
    given_up: Sequence[int]
    left: set[int]


def run(
    inputs: Sequence[str | Path] | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    quiet: bool = True,
) -> RunReport:
    """Do what `ctxbatch.run` says, which describes arguments and errors."""
    began = time.time()
    config, location = config or RunConfig(), location_of(out)
    stored = find_stored(location, config)
    corpus = find_corpus(inputs, location, config, stored)
    if stored is None or (config.append and corpus.sources):
        corpus = examined(corpus, config)
    with (
        planned(corpus, location, config, stored) as plan,
        writing_to(location, plan.choices.part, quiet=quiet) as session,
    ):
        tell_left_out(corpus, log_path(location.folder, plan.choices.part))
        manifest = _open_manifest(plan)
        work = _run_missing(plan, manifest, session)
        store = Store(location.out)
        index = None if work.given_up else _index(plan, store, quiet=quiet)
        return _report(plan, store, work, index, began)


# --- the manifest ---------------------------------------------------------------------------------


def _open_manifest(plan: RunPlan) -> Manifest:
    """Return the store's manifest, made now or checked against what is asked for now."""
    location, corpus, config = plan.location, plan.corpus, plan.config
    manifest = location.manifest()  # which another part may have written in the meantime
    if manifest is None:
        _check_start(plan)
        shards = plan_shards(corpus.sources, corpus.reading)
        segments = list(itertools.chain.from_iterable(spec.segments for spec in shards))
        reading = with_types(corpus.reading, corpus.sources, segments)
        manifest = Manifest(config, reading, corpus.sources, tuple(shards))
        log.debug("planned %d shards from %d sources", len(manifest.shards), len(manifest.sources))
        if config.precision == "int8":
            manifest = with_int8_layers(plan, manifest)
        if location.begin(manifest, first=plan.choices.part is not None):
            return manifest
        log.debug("another part was the first: its manifest holds")
        manifest = manifest_of(location)
    if not plan.choices.append:
        check_sources(location.out, manifest, corpus.sources)
    check_options(location.out, manifest, plan.config, corpus.reading, plan.choices.given)
    if location.is_here and plan.choices.part is None and not manifest.appended:
        for shard, commit in location.commits(manifest).items():
            if found := misread(shard_folder(location.folder, shard), commit):
                manifest = plan_again(location, manifest, f"shard {shard:06d} {found}")
                break
    return _append(plan, manifest) if plan.choices.append else manifest


def _append(plan: RunPlan, manifest: Manifest) -> Manifest:
    """Return the manifest with the sources that the store does not have yet, which others may append too."""
    location, reading = plan.location, plan.corpus.reading
    known = {source.path for source in manifest.sources}
    sources = [source for source in plan.corpus.sources if source.path not in known]
    if not sources:
        return manifest
    longer = manifest.append(sources, plan_shards(sources, reading))
    if not location.begin(longer, first=True):
        log.debug("another part was the first: its plan holds")
        return _append(plan, manifest_of(location))
    n_shards = len(longer.shards) - len(manifest.shards)
    log.info("appending %d sources to %s, in %d shards", len(sources), location.out, n_shards)
    return longer


def _check_start(plan: RunPlan) -> None:
    """Make sure that a new run can go through: words that can be found, room on the disk."""
    check_words(plan.config)
    if plan.config.shift == "log_ratio" and (cost := cost_of_log_ratio(plan.config.precision)):
        log.info("%s", cost)
    if plan.location.is_here and not plan.choices.force:
        expected = estimate_plan(plan)
        check_room(plan.location.folder, expected.bytes_on_disk + expected.bytes_of_index, _MAKE_ROOM)
        if expected.sampled < 1 and (warning := expected.fit.warning(plan.config.model)):
            log.warning("%s", warning)  # else the run is short, and says so at its end


# --- the shards -----------------------------------------------------------------------------------


def _run_missing(plan: RunPlan, manifest: Manifest, session: Session) -> _Work:
    """Run the shards that the store lacks; of a part of a run its own."""
    location, choices = plan.location, plan.choices
    before = location.commits(manifest)
    if choices.part is None:
        location.make_ready(manifest, before)
    mine = [spec.shard for spec in part_of(manifest.shards, choices.part)]
    done = {shard: before[shard] for shard in mine if shard in before}
    todo = [manifest.shards[shard] for shard in mine if shard not in before]
    if location.is_here and not choices.force:
        _check_room_for_rest(location.folder, manifest, before, todo)
    if todo and done:
        log.info("resuming: %d of %d shards are done", len(done), len(mine))
    watch = RejectWatch(location.out, choices.max_rejects, done)
    left: set[int] = set()

    if todo:
        restore_int8_layers(plan, manifest)
    patience = math.inf if choices.part is None else PATIENCE_SECONDS
    ahead = IndexAhead(
        location,
        manifest,
        session.log_file,
        session.lock,
        wanted=choices.index and location.is_here,
        is_first_part=choices.is_first_part,
    )

    def listen(message: Message) -> None:
        watch.on_message(message)
        ahead.on_message(message)
        if isinstance(message, Left):
            left.add(message.shard)

    with ahead:
        size_done = sum(manifest.shards[shard].size for shard in done)
        given_up = session.work(
            plan.engine, manifest, ahead.ordered(todo), listen, patience=patience, before=size_done
        )
        watch.check(finished=True)
        if not given_up:
            ahead.wait()
    return _Work(mine, before, given_up, left)


def _check_room_for_rest(
    out: Path, manifest: Manifest, done: Mapping[int, Commit], todo: Sequence[ShardSpec]
) -> None:
    """Refuse to go on where the disk cannot hold what is still to be made, to judge by what is there."""
    size_done = sum(manifest.shards[shard].size for shard in done)
    if size_done:
        written = sum(commit.size for commit in done.values())
        check_room(out, round(written * sum(spec.size for spec in todo) / size_done), _MAKE_ROOM)


# --- the index and the report ---------------------------------------------------------------------


def _index(plan: RunPlan, store: Store, *, quiet: bool) -> index_build.IndexReport | None:
    """Build the index of a finished run, which counts also if none fits the default memory."""
    if not plan.choices.index or plan.choices.part is not None or not plan.location.is_here:
        return None
    try:
        return index_build.ensure(store, store.config.column(), quiet=quiet)
    except InputError as error:
        log.warning("%s has no index (%s): build one with `ctxbatch index %s`", store.path, error, store.path)
        return None


def _report(
    plan: RunPlan, store: Store, work: _Work, index: index_build.IndexReport | None, began: float
) -> RunReport:
    """Return what a run has come to. Warn of what is odd in the store, and keep the rate of a whole run."""
    part = plan.choices.part
    warn_of_mixture(store.commits.values())
    if store.complete and not store.n_rows:
        n_sentences = sum(commit.counts.sentences for commit in store.commits.values())
        kept = store.config.kept or "words"
        log.warning("%s has no rows: none of its %d sentences has %s", plan.location.out, n_sentences, kept)
    found = totals(store, work.mine)
    report = RunReport(
        out=plan.location.out,
        totals=found,
        n_run=len(set(store.commits).intersection(work.mine).difference(work.before)),
        given_up=tuple(work.given_up),
        index=index,
        log=log_path(plan.location.folder, part),
        missing=tuple(sorted(set(work.mine).difference(store.commits, work.given_up, work.left))),
        part=_part_report(plan, store, work),
        reject_reason=most_frequent_reason(store) if plan.location.is_here else None,
    )
    if not work.before and part is None and plan.engine.devices:
        started = min((commit.timing.started for commit in store.commits.values()), default=began)
        remember_rate(report.totals, store.config, max(0.0, started - began))
    log.debug("finished: %s", report.totals.as_dict())
    return report


def _part_report(plan: RunPlan, store: Store, work: _Work) -> PartReport | None:
    if plan.choices.part is None:
        return None
    planned = len(store.manifest.shards)
    missing = tuple(shard for shard in range(planned) if shard not in store.commits)
    wants_index = plan.choices.index and store.complete and store.n_rows >= index_build.SCAN_ROWS
    return PartReport(
        *plan.choices.part,
        shards=tuple(work.mine),
        left=tuple(sorted(work.left.intersection(missing))),
        missing=missing,
        planned=planned,
        to_index=store.config.column() if wants_index else None,
    )
