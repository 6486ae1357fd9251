"""One run from inputs to a finished store: resolve, plan or resume, work, index; and its repair.

Owns the order of these steps and the rule what may be resumed. Everything under OUT is written by others.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

from ctxbatch import index, indexing
from ctxbatch.compiling import CompilingError, make_program
from ctxbatch.config import ResolvedConfig, RunConfig
from ctxbatch.corpus import ShardSpec, corpus_bytes, examine, plan, resolve_reading
from ctxbatch.errors import InputError, StoreError
from ctxbatch.forecast import Estimate, check_room, estimate, remember_rate
from ctxbatch.layout import LOG, MANIFEST, Manifest, as_resource_error, check_folder, locked
from ctxbatch.pool import Pool
from ctxbatch.progress import ProgressBar
from ctxbatch.readers import Reader, place
from ctxbatch.rejecting import RejectWatch
from ctxbatch.sources import Source, find_sources, real_place
from ctxbatch.store import Store, committed_shards
from ctxbatch.totals import totals
from ctxbatch.units import Reading
from ctxbatch.verify import find_damage
from ctxbatch.writer import remove_leftovers

log = logging.getLogger("ctxbatch")
_SHOWN_LEFT_OUT = 3
_SHOWN_OF_LIST = 12


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run ends with: the store's totals, the shards given up, and the index, if one was wanted.

    ``n_run`` is the number of shards that this run made; none if the store was finished before.
    """

    out: Path
    totals: Mapping[str, Any]
    n_run: int
    given_up: tuple[int, ...]
    index: indexing.IndexReport | None

    @property
    def clean(self) -> bool:
        """Whether everything that was read is stored."""
        return not (self.given_up or self.totals["rejected"] or self.totals["rejected_words"])


def run(
    inputs: Sequence[str | Path] | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    quiet: bool = True,
) -> RunReport:
    """What `ctxbatch.run` does; arguments and errors are described there."""
    config, out = config or RunConfig(), Path(out)
    sources, left_out, reading = _look_at(inputs, out, config)
    if not (out / MANIFEST).exists():
        sources = examine(sources, reading, config)
    # torch comes last: mistakes above are told at once
    from ctxbatch.devices import choose_devices, choose_workers
    from ctxbatch.resolving import resolve

    devices = choose_devices(config.devices)
    resolved = resolve(config, devices[0], corpus_bytes(sources, reading.limit))
    with _writing_to(out) as (lock, log_file):
        _tell_left_out(left_out)
        if not (out / MANIFEST).exists():
            _check_words(resolved)
            resolved = _begin(out, config, resolved, reading, sources, devices)
        manifest = _open_manifest(out, config, resolved, reading, sources)
        remove_leftovers(out)
        workers = choose_workers(config.workers, devices)
        before = committed_shards(out, manifest)
        if not config.force:
            _check_room_for_rest(out, manifest, before)
        todo = [spec for spec in manifest.shards if spec.shard not in before]
        if before and todo:
            log.info("resuming: %d of %d shards are done", len(before), len(manifest.shards))
        watch = RejectWatch(out, config.max_rejects, before)
        given_up = _work(out, manifest, todo, workers, lock, log_file, quiet, watch.on_message)
        watch.check(finished=True)
        wanted = config.index and not given_up
        report = _index(Store(out), quiet=quiet) if wanted else None
        store = Store(out)
        result = RunReport(out, totals(store), len(store.commits) - len(before), tuple(given_up), report)
        _warn_of_mixture(result.totals)
        if not before:
            remember_rate(result.totals, resolved)
        log.debug("finished: %s", dict(result.totals))
    return result


def make_estimate(
    inputs: Sequence[str | Path] | str | Path, out: str | Path, config: RunConfig | None = None
) -> Estimate:
    """What `ctxbatch.estimate` does; arguments and errors are described there."""
    config, out = config or RunConfig(), Path(out)
    sources, left_out, reading = _look_at(inputs, out, config)
    sources = examine(sources, reading, config)
    from ctxbatch.devices import choose_devices, describe_device
    from ctxbatch.resolving import resolve

    _tell_left_out(left_out)
    devices = choose_devices(config.devices)
    resolved = resolve(config, devices[0], corpus_bytes(sources, reading.limit))
    _check_words(resolved)
    found = estimate(sources, reading, resolved, out, [describe_device(device) for device in devices])
    if found.rejected == found.records and found.first_reject is not None:
        raise InputError(f"nothing can be read: {found.first_reject}")
    return found


def _check_words(config: ResolvedConfig) -> None:
    """Name the words of --words that no text can hold as this model's tokenizer sees words."""
    if config.words is None:
        return
    from ctxbatch.batching import BatchMaker
    from ctxbatch.resolving import read_tokenizer

    maker = BatchMaker(read_tokenizer(config), replace(config, sample=None, top_salient=None))
    possible = maker.single_words(config.words)
    never = [word for word, is_word in zip(config.words, possible, strict=True) if not is_word]
    if not never:
        return
    shown = ", ".join(map(repr, never[:_SHOWN_LEFT_OUT])) + (", …" if len(never) > _SHOWN_LEFT_OUT else "")
    what = f"{len(never)} of {len(config.words)} --words are no single words to {config.model}: {shown}"
    if len(never) == len(config.words):
        raise InputError(f"{what}; give surface words, without spaces or punctuation")
    log.warning("%s; they will not be found", what)


def _index(store: Store, *, quiet: bool) -> indexing.IndexReport | None:
    """The index of a finished run; the run counts also where none fits the memory that is the default."""
    try:
        return indexing.ensure(store, store.config.column(), quiet=quiet)
    except InputError as error:
        log.warning("%s has no index: %s, with `ctxbatch index %s`", store.path, error, store.path)
        return None


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair has made anew: shards by number, indexes by column."""

    shards: tuple[int, ...]
    indexes: tuple[str, ...]


def repair(out: str | Path, *, quiet: bool = True) -> RepairReport:
    """Make damaged and missing shards anew from the sources, and damaged indexes from the shards.

    Args:
        out: The store's folder.
        quiet: Show no progress on standard error.

    Raises:
        InputError: A source or the model is not there any more, or has changed.
        StoreError: The folder is no store, or its manifest is damaged.
        ResourceError: The disk, a permission or another run stands in the way.
    """
    out = Path(out)
    manifest = Manifest.read(out)
    from ctxbatch.devices import choose_devices, choose_workers

    with _writing_to(out) as (lock, log_file):
        found = list(find_damage(out))
        for damage in found:
            log.debug("to repair: %s", damage.text)
        remove_leftovers(out)
        intact = committed_shards(out, manifest).keys() - {damage.shard for damage in found}
        todo = [spec for spec in manifest.shards if spec.shard not in intact]
        workers = choose_workers(None, choose_devices(None))
        if given_up := _work(out, manifest, todo, workers, lock, log_file, quiet, lambda _: None):
            raise StoreError(f"shards {given_up} of {out} cannot be made: see {out / LOG}")
        store = Store(out)
        damaged = [path.stem for path in index.index_files(out) if list(index.check_index(path, manifest))]
        indexes = indexing.rebuild(store, damaged, quiet=quiet)
        _warn_of_mixture(totals(store))
    return RepairReport(tuple(spec.shard for spec in todo), indexes)


def _look_at(
    inputs: Sequence[str | Path] | str | Path, out: Path, config: RunConfig
) -> tuple[list[Source], list[str], Reading]:
    """The sources, what was left out of folders, and how the sources are read."""
    check_folder(out)
    listed = [inputs] if isinstance(inputs, str | Path) else inputs
    sources, left_out = find_sources(listed, out, config.format)
    return sources, left_out, resolve_reading(config, sources)


def _tell_left_out(left_out: Sequence[str]) -> None:
    if left_out:
        rest = ", …" if len(left_out) > _SHOWN_LEFT_OUT else ""
        log.warning("left out %d: %s%s", len(left_out), ", ".join(left_out[:_SHOWN_LEFT_OUT]), rest)
        for each in left_out[_SHOWN_LEFT_OUT:]:
            log.debug("left out %s", each)


def _warn_of_mixture(found: Mapping[str, Any]) -> None:
    """Say that shards differ in what their bits can depend on."""
    kinds = {"device": found["devices"], **found["versions"]}
    for name, values in kinds.items():
        if len(values) > 1:
            log.warning("the shards are of mixed origin: %s %s", name, " and ".join(values))


def _check_room_for_rest(out: Path, manifest: Manifest, done: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse to go on where the disk cannot hold what is missing, to judge by what is there."""
    size_done = sum(spec.size for spec in manifest.shards if spec.shard in done)
    if size_done:
        size = sum(spec.size for spec in manifest.shards)
        written = sum(file["bytes"] for commit in done.values() for file in commit["files"].values())
        check_room(out, round(written * (size - size_done) / size_done))


def _work(
    out: Path,
    manifest: Manifest,
    todo: Sequence[ShardSpec],
    devices: Sequence[str],
    lock: int,
    log_file: IO[str],
    quiet: bool,
    listen: Callable[[dict[str, Any]], None],
) -> list[int]:
    """Run shards, telling ``listen`` what workers say; returns those given up."""
    if not todo:
        return []
    if manifest.config.compiled and devices[0] == "cpu":
        make_program(manifest.config)
    bar = ProgressBar(sum(spec.size for spec in todo), quiet)

    def on_message(message: dict[str, Any]) -> None:
        bar.on_message(message)
        listen(message)

    try:
        with Pool(out, devices, lock, log_file) as pool:
            return pool.run([spec.shard for spec in todo], on_message)
    finally:
        bar.close()


# --- resuming -------------------------------------------------------------------------------------


def _begin(
    out: Path,
    config: RunConfig,
    resolved: ResolvedConfig,
    reading: Reading,
    sources: Sequence[Source],
    devices: Sequence[str],
) -> ResolvedConfig:
    """Make sure that a new run can go through: room on the disk, and a model that compiles or need not."""
    from ctxbatch.devices import describe_device

    if not config.force:
        names = [describe_device(device) for device in devices]
        expected = estimate(sources, reading, resolved, out, names)
        check_room(out, expected.bytes_on_disk + expected.bytes_of_index)
    if not resolved.compiled:
        return resolved
    try:
        make_program(resolved)
    except CompilingError as error:
        if config.compile == "on":
            raise CompilingError(f"{error}; mend the compiler or take --compile off") from error
        log.warning("%s; going on without", error)
        return replace(resolved, compiled=False)
    return resolved


def _open_manifest(
    out: Path,
    config: RunConfig,
    resolved: ResolvedConfig,
    reading: Reading,
    sources: Sequence[Source],
) -> Manifest:
    """The store's manifest, made now or checked against what is asked for now."""
    if not (out / MANIFEST).exists():
        shards = plan(sources, reading)
        manifest = Manifest(resolved, reading, tuple(sources), tuple(shards))
        manifest.write(out)
        log.debug("planned %d shards from %d sources", len(shards), len(sources))
        return manifest
    manifest = Manifest.read(out)
    if config.compile == "auto":  # settled when the store was begun, perhaps by a compiler that is gone
        resolved = replace(resolved, compiled=manifest.config.compiled)
    _check_sources(out, manifest, sources)
    _check_options(out, manifest, resolved, reading)
    return manifest


def _check_options(out: Path, manifest: Manifest, resolved: ResolvedConfig, reading: Reading) -> None:
    """Refuse another configuration than the store's, naming what differs."""
    options = {field.name for field in fields(RunConfig)}
    stored = _flat({**manifest.config.as_dict(), **asdict(manifest.reading)})
    asked = _flat({**resolved.as_dict(), **asdict(reading)})
    for found in (stored, asked):
        found["compile"] = "on" if found.pop("compiled") else "off"
    different = [name for name in stored.keys() | asked.keys() if stored.get(name) != asked.get(name)]
    if not different:
        return
    # What was typed rather than what follows from it, such as another default or a digest.
    name = min(different, key=lambda n: (n not in options, None in (stored.get(n), asked.get(n)), n))
    shown = f"--{name.replace('_', '-')}" if name in options else name.replace("_", " ")
    made, said = _shown(stored.get(name)), _shown(asked.get(name))
    raise StoreError(
        f"{out} was made {f'with {shown} {made}' if made else f'without {shown}'}, this command "
        f"{f'says {said}' if said else 'does not give it'}: use the same options to resume, or another -o"
    )


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} of {key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def _shown(value: object) -> str:
    if isinstance(value, list):
        rest = f",… ({len(value)})" if len(value) > _SHOWN_OF_LIST else ""
        return ",".join(map(str, value[:_SHOWN_OF_LIST])) + rest
    return "" if value is None else str(value)


def _check_sources(out: Path, manifest: Manifest, sources: Sequence[Source]) -> None:
    """Refuse other sources than those of the plan; a new time alone is no other source."""
    another = "use the same inputs to resume, or another -o"
    stored, asked = [s.path for s in manifest.sources], [s.path for s in sources]
    places = {real_place(path): path for path in stored}
    for path in asked:
        if path not in stored and (as_before := places.get(real_place(path))):
            raise StoreError(f"{path} was named {as_before} when {out} was made: name it so to resume")
        if path not in stored:
            raise StoreError(f"{path} is no source of {out}, which has {len(stored)}: {another}")
    if stored != asked:
        missing = [path for path in stored if path not in asked]
        what = f"{missing[0]} is missing from" if missing else "the order differs of"
        raise StoreError(f"{what} the sources that {out} was made from: {another}")
    for number, (old, new) in enumerate(zip(manifest.sources, sources, strict=True)):
        if old.size != new.size:
            raise StoreError(
                f"{new.path} has {new.size} bytes, {out} was planned when it had {old.size}: {another}"
            )
        if old.mtime_ns != new.mtime_ns:
            _check_bytes(out, manifest, number)


def _check_bytes(out: Path, manifest: Manifest, number: int) -> None:
    source = manifest.sources[number]
    reader = Reader(manifest.sources, manifest.reading)
    for spec in manifest.shards:
        for segment in spec.segments:
            if segment.source == number and not reader.is_unchanged(segment):
                raise StoreError(
                    f"{source.path} has changed in {place(source, segment)} since {out} was planned: "
                    "restore it, or use another -o"
                )
    reader.close()


# --- the log --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing_to(out: Path) -> Iterator[tuple[int, IO[str]]]:
    """Hold the store's lock and log to it; yields the lock's descriptor and the log file for workers."""
    try:
        with locked(out) as lock, _logging_to(out) as log_file:
            yield lock, log_file
    except OSError as error:
        raise as_resource_error(error, out) from error


@contextlib.contextmanager
def _logging_to(out: Path) -> Iterator[IO[str]]:
    """Append everything that is logged to OUT/run.log; yields the file, for the workers' messages."""
    stream = (out / LOG).open("a", encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    level = log.level
    log.setLevel(logging.DEBUG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield stream
    except BaseException as error:
        log.debug("ended: %s: %s", type(error).__name__, error)
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        with contextlib.suppress(OSError):  # a full disk: what stopped the run says so
            stream.close()
