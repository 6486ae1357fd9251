"""One run from inputs to a finished store: resolve, plan or resume, work, index.

Owns the order of these steps and the rule what may be resumed. Everything under OUT is written by others.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from ctxbatch import index
from ctxbatch.config import ResolvedConfig, RunConfig
from ctxbatch.corpus import Reading, Source, find_sources, plan, resolve_reading
from ctxbatch.errors import StoreError
from ctxbatch.layout import LOG, MANIFEST, Manifest, as_resource_error, check_folder, locked
from ctxbatch.pool import Pool
from ctxbatch.progress import ProgressBar
from ctxbatch.readers import check_segment
from ctxbatch.store import Store, committed_shards, totals
from ctxbatch.writer import remove_leftovers

log = logging.getLogger("ctxbatch")


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run ends with: the store's totals, the shards given up, and the index, if one was wanted."""

    out: Path
    totals: Mapping[str, Any]
    given_up: tuple[int, ...]
    index: index.IndexReport | None

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
    config = config or RunConfig()
    out = Path(out)
    check_folder(out)
    sources, left_out = find_sources([inputs] if isinstance(inputs, str | Path) else inputs, out)
    reading = resolve_reading(config, sources)
    from ctxbatch import encoder  # torch comes last: mistakes above are told at once

    devices = encoder.available_devices()
    resolved = encoder.resolve(config, devices[0])
    try:
        with locked(out) as lock, _logging_to(out) as log_file:
            for name in left_out:
                log.warning("left out %s: no text that can be read", name)
            manifest = _open_manifest(out, resolved, reading, sources)
            remove_leftovers(out)
            given_up = _work(out, manifest, _workers(config, devices), lock, log_file, quiet)
            report = index.ensure(Store(out), resolved.column()) if config.index and not given_up else None
            result = RunReport(out, totals(Store(out)), tuple(given_up), report)
            _warn_of_mixture(result.totals)
            log.debug("finished: %s", dict(result.totals))
    except OSError as error:
        raise as_resource_error(error, out) from error
    return result


def _warn_of_mixture(found: Mapping[str, Any]) -> None:
    """Say that shards differ in what their bits can depend on."""
    kinds = {"device": found["devices"], **found["versions"]}
    for name, values in kinds.items():
        if len(values) > 1:
            log.warning("the shards are of mixed origin: %s %s", name, " and ".join(values))


def _workers(config: RunConfig, devices: Sequence[str]) -> list[str]:
    """The device of each worker: one a GPU, or one a core that this process may use."""
    n_workers = config.workers or (len(os.sched_getaffinity(0)) if devices == ["cpu"] else len(devices))
    return [devices[number % len(devices)] for number in range(n_workers)]


def _work(
    out: Path, manifest: Manifest, devices: Sequence[str], lock: int, log_file: IO[str], quiet: bool
) -> list[int]:
    done = committed_shards(out, manifest)
    todo = [spec for spec in manifest.shards if spec.shard not in done]
    if done and todo:
        log.info("resuming: %d of %d shards are done", len(done), len(manifest.shards))
    if not todo:
        return []
    bar = ProgressBar(sum(spec.size for spec in todo), quiet)
    try:
        with Pool(out, devices, lock, log_file) as pool:
            return pool.run([spec.shard for spec in todo], bar.on_message)
    finally:
        bar.close()


# --- resuming -------------------------------------------------------------------------------------


def _open_manifest(
    out: Path, resolved: ResolvedConfig, reading: Reading, sources: Sequence[Source]
) -> Manifest:
    """The store's manifest, made now or checked against what is asked for now."""
    if not (out / MANIFEST).exists():
        shards = plan(sources, reading)
        manifest = Manifest(resolved, reading, tuple(sources), tuple(shards))
        manifest.write(out)
        log.debug("planned %d shards from %d sources", len(shards), len(sources))
        return manifest
    manifest = Manifest.read(out)
    _check_options(out, manifest, resolved, reading)
    _check_sources(out, manifest, sources)
    return manifest


def _check_options(out: Path, manifest: Manifest, resolved: ResolvedConfig, reading: Reading) -> None:
    """Refuse another configuration than the store's, naming what differs."""
    options = {field.name for field in fields(RunConfig)}
    stored = _flat({**manifest.config.as_dict(), **asdict(manifest.reading)})
    asked = _flat({**resolved.as_dict(), **asdict(reading)})
    different = [name for name in stored.keys() | asked.keys() if stored.get(name) != asked.get(name)]
    if not different:
        return
    # What was typed rather than what follows from it, such as another default or a digest.
    name = min(different, key=lambda n: (n not in options, None in (stored.get(n), asked.get(n)), n))
    shown = f"--{name.replace('_', '-')}" if name in options else name.replace("_", " ")
    raise StoreError(
        f"{out} was made with {shown} {_shown(stored.get(name))}, "
        f"this command says {_shown(asked.get(name))}: use the same options to resume, or another -o"
    )


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} of {key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def _shown(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _check_sources(out: Path, manifest: Manifest, sources: Sequence[Source]) -> None:
    """Refuse other sources than those of the plan; a new time alone is no other source."""
    another = "use the same inputs to resume, or another -o"
    stored, asked = [s.path for s in manifest.sources], [s.path for s in sources]
    for path in asked:
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
    for spec in manifest.shards:
        for segment in spec.segments:
            if segment.source == number and not check_segment(segment, source):
                raise StoreError(
                    f"{source.path} has changed between bytes {segment.start} and {segment.end} since {out} "
                    "was planned: restore it, or use another -o"
                )


# --- the log --------------------------------------------------------------------------------------


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
