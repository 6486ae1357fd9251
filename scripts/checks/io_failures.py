"""Fails the N-th call of each kind that touches OUT, the inputs or the cache, for every N.

Owns the scenarios, how a failure is brought about, and the judgement: one clear line and exit 4, and then the
same command again makes the same bytes. `failing.c` is what fails the calls.
"""

import ctypes
import errno
import gzip
import hashlib
import json
import mmap
import os
import re
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.checks import forked
from scripts.checks.forked import Ended, Limits
from scripts.checks.judging import control_in, last_lines
from scripts.checks.plans import QUERY, upload_to
from scripts.checks.victims import FACTORY, Base, World, as_on_object_storage

SHIM = Path(__file__).with_name("failing.c")
# As in failing.c.
KINDS = (
    "open", "read", "write", "fsync", "rename", "link", "unlink", "mkdir", "truncate", "close", "stat",
    "list",
    "mmap",
)  # fmt: skip
_ERRORS = {"mmap": (errno.ENOMEM,), "write": (errno.EIO, errno.ENOSPC)}
SCENARIOS = ("run", "resume", "index", "pull", "verify", "search")
# What intact data must not be called; and lines that are no complaint.
_BLAMES = re.compile(
    r"\b(damaged|missing|unfinished|not a ctxbatch store|changed after|has changed|corrupt\w*)\b"
)
_INFORMS = re.compile(r"^ctxbatch: (resuming: |index on |skipped |converting |precision: |.*no index on )")


class _Shared(ctypes.Structure):
    """``struct shared`` of failing.c."""

    _fields_ = (
        ("counts", ctypes.c_long * len(KINDS)),
        ("kind", ctypes.c_long),
        ("nth", ctypes.c_long),
        ("error", ctypes.c_long),
        ("hits", ctypes.c_long),
        ("folders", (ctypes.c_char * 512) * 8),
        ("path", ctypes.c_char * 1024),
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """The call that fails: the N-th of a kind, with an error number."""

    scenario: str
    kind: str
    nth: int
    error: int

    def __str__(self) -> str:
        return f"{self.scenario}: {self.kind} {self.nth} {errno.errorcode[self.error]}"

    @classmethod
    def parse(cls, text: str) -> "Failure | None":
        """Return the inverse of ``str``; ``None`` where a text names no failure."""
        found = re.fullmatch(rf"({'|'.join(SCENARIOS)}): ({'|'.join(KINDS)}) (\d+) (E\w+)", text)
        error = getattr(errno, found[4], None) if found else None
        return cls(found[1], found[2], int(found[3]), error) if found and error else None


Jobs = Callable[[list[Callable[[], Any]]], list[Any]]


def compile_shim(folder: Path) -> Path | None:
    """Compile what fails the calls; ``None`` where no compiler is."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    path = folder / "failing.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", path, SHIM, "-ldl"], check=True)
    return path


def write_inputs(base: Base) -> None:
    """Write three small sources, each of another kind, of which nothing is rejected; and a begun store."""
    import pyarrow as pa
    import pyarrow.parquet

    from tests.helpers.models import numbered_lines

    folder = base.folder / "io"
    folder.mkdir()
    texts = numbered_lines(54).splitlines()
    (folder / "a.txt").write_text("".join(f"{text}\n" for text in texts[:18]), encoding="utf-8")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[18:36])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    pyarrow.parquet.write_table(pa.table({"text": texts[36:]}), folder / "c.parquet")


def remember_rates() -> None:
    """Have a short run remember its rate, too, so that the cache is written."""
    from ctxbatch.execution import rates

    rates._MIN_SECONDS_FOR_RATE = 0


# --- scenarios ------------------------------------------------------------------------------------


def _prepare(base: Base, world: World, scenario: str, intact: Path) -> list[Any]:
    """Make a scenario's world; returns the command."""
    world.make(base.store("plain"), base.cache)
    if scenario in ("run", "resume"):
        shutil.rmtree(world.out)
        if scenario == "resume":
            shutil.copytree(intact, world.out)
            shutil.rmtree(world.out / "shards" / "000001")
            os.truncate(world.out / "shards" / "000002" / "words.arrow", 100)
            (world.out / "shards" / ".000001.nobody.1.tmp").mkdir()
        inputs = [base.folder / "io" / name for name in ("a.txt", "b.jsonl.gz", "c.parquet")]
        # Else the choice of a precision would depend on a timing.
        options = ["--model", base.model, "--precision", "fp32", "--shard-size", "2000", "--workers", "1"]
        return ["run", *inputs, "-o", world.out, *options, "-q"]
    if scenario == "index":
        shutil.rmtree(world.out / "index")
        return ["index", world.out, "--factory", FACTORY, "--recall", "0.5", "-q"]
    if scenario == "pull":
        as_on_object_storage(world.out)
        url = upload_to(base, f"io-{world.root.name}", world)
        return ["pull", url, world.pulled, "-q"]
    return {"verify": ["verify", world.out], "search": ["search", world.out, QUERY, "--word", "want"]}[
        scenario
    ]


def _digests(world: World, scenario: str) -> dict[str, str]:
    """Checksums of what a scenario makes."""
    out = world.pulled if scenario == "pull" else world.out
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix in (".arrow", ".faiss", ".tmp")
    }


def _disturbed(
    base: Base, world: World, command: Sequence[Any], failure: Failure | None, limits: Limits
) -> tuple[Ended, _Shared]:
    """Run a command with a failure, or counting calls alone."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    memory = mmap.mmap(-1, ctypes.sizeof(_Shared))
    shared = _Shared.from_buffer(memory)
    folders = [world.out, world.pulled, world.cache, base.folder / "io"]
    for number, folder in enumerate(folders):
        shared.folders[number].value = str(folder).encode()
    if failure is not None:
        shared.kind, shared.nth, shared.error = KINDS.index(failure.kind), failure.nth, failure.error
    shim.failing_use(ctypes.byref(shared))
    act = forked.command(command)

    def start() -> int:
        shim.failing_start(1)
        try:
            return act()
        finally:
            shim.failing_start(0)

    return forked.run(start, world.said, world.home / "here", world.environment(base.url), limits), shared


@dataclass(frozen=True, slots=True)
class Stage:
    """An undisturbed scenario: the checksums of what it makes, and how many calls of each kind it makes."""

    expected: dict[str, str]
    counts: dict[str, int]


@dataclass(frozen=True)
class Bench:
    """Scenarios that have run undisturbed; ``intact`` is the store that such a run has made."""

    base: Base
    intact: Path
    stages: dict[str, Stage]

    def failures(self, scenario: str, every: int, kinds: Sequence[str]) -> Iterator[Failure]:
        """Yield what is to fail: of each kind every K-th call."""
        for kind in kinds:
            for nth in range(1, self.stages[scenario].counts[kind] + 1, every):
                for error in _ERRORS.get(kind, (errno.EIO,)):
                    yield Failure(scenario, kind, nth, error)

    def run(self, failure: Failure, root: Path, limits: Limits, *, show: bool = False) -> dict[str, Any]:
        """Run a scenario with a failure, and then again without; returns a result like a case's."""
        result = {
            "number": str(failure),
            "kind": failure.scenario,
            "call": failure.kind,
            "path": "",
            "status": 0,
        }
        try:
            return {**result, **self._run(failure, World(root), limits, show)}
        except Exception as error:
            traceback.print_exc()
            return {**result, "outcome": "harness", "note": f"{type(error).__name__}: {error}"}
        finally:
            if not show:
                shutil.rmtree(root, ignore_errors=True)

    def _run(self, failure: Failure, world: World, limits: Limits, show: bool) -> dict[str, Any]:
        base, stage = self.base, self.stages[failure.scenario]
        command = _prepare(base, world, failure.scenario, self.intact)
        ended, shared = _disturbed(base, world, command, failure, limits)
        hit = shared.hits > 0
        found = _judged(world, failure, ended, hit=hit, stage=stage)
        path = shared.path.decode(errors="replace").replace(str(world.home), "").replace(str(base.folder), "")
        if show:
            print(
                f"{failure} on {path}: status {ended.status}\n--- stdout\n{ended.out}\n"
                f"--- stderr\n{ended.errors}"
            )
            log = world.out / "run.log"
            print(f"--- run.log\n{log.read_text() if log.is_file() else ''}")
        act = forked.command(command)
        again = forked.run(act, world.said, world.home / "here", world.environment(base.url), limits)
        found = found or _judged_again(world, failure, again, stage)
        if show:
            print(f"--- again: status {again.status}\n{again.out}\n{again.errors}\n---\n{found or 'ok'}")
        usual = "ok" if ended.status == 4 else "passed" if hit else "unreached"
        outcome, note = found or (usual, ended.errors.strip()[-200:])
        return {"outcome": outcome, "note": note, "path": path, "status": ended.status}


def make_bench(base: Base, worlds: Path, all_of: Jobs, scenarios: Sequence[str]) -> Bench:
    """Run all scenarios undisturbed; first a run, so that others have its store and its cache."""
    intact = base.folder / "io-out"
    all_of([partial(write_inputs, base)])
    run = all_of([partial(_stage, base, "run", worlds / "first", intact, kept=intact)])
    others = [name for name in scenarios if name != "run"]
    found = all_of([partial(_stage, base, name, worlds / f"stage-{name}", intact) for name in others])
    stages = zip(["run", *others], [*run, *found], strict=True)
    return Bench(base, intact, {name: Stage(**stage) for name, stage in stages})


def _stage(base: Base, scenario: str, root: Path, intact: Path, kept: Path | None = None) -> dict[str, Any]:
    """Run a scenario undisturbed; returns the fields of its `Stage`. ``kept`` is where its store goes."""
    world = World(root)
    command = _prepare(base, world, scenario, intact)
    ended, shared = _disturbed(base, world, command, None, Limits(120.0))
    if ended.status:
        raise RuntimeError(f"{scenario} ends with {ended.status} undisturbed\n{ended.out}\n{ended.errors}")
    expected = _digests(world, scenario)
    if kept is not None:
        world.out.rename(kept)
    shutil.rmtree(root)
    return {"expected": expected, "counts": dict(zip(KINDS, shared.counts, strict=True))}


def describe(result: dict[str, Any]) -> str:
    """Return a failed case in one line."""
    return f"{result['number']} on {result['path']}: {result['outcome']}: {result['note']!a}"


# --- judging --------------------------------------------------------------------------------------


def _judged(
    world: World, failure: Failure, ended: Ended, *, hit: bool, stage: Stage
) -> tuple[str, str] | None:
    said = ended.out + ended.errors
    lines = [line for line in ended.errors.splitlines() if line.strip() and not _INFORMS.match(line)]
    log = world.out / "run.log"
    logged = log.read_text(errors="replace") if log.is_file() else ""
    if ended.timed_out:
        return "hang", "more than the time it has"
    if ended.status < 0:
        return "signal", f"signal {-ended.status}; {said.strip()[-200:]}"
    for text, where in ((said, ""), (logged, "run.log: ")):
        for mark in ("Traceback (most recent call last)", "Exception ignored", "--- Logging error"):
            if mark in text:
                return "traceback", f"{where}{mark.split(' ')[0]} {last_lines(text)}"
    if ended.status not in (0, 4) or (not hit and ended.status):
        return "status", f"exit {ended.status}: {said.strip()[-300:]}"
    if ended.status == 0 and _digests(world, failure.scenario) != stage.expected:
        return "answer", "exit 0, and other bytes"
    if (found := control_in(said)) is not None:
        return found
    if ended.status == 4 and len(lines) != 1:
        return "lines", f"{len(lines)} lines: {ended.errors[-400:]}"
    if _BLAMES.search(said):
        return "blamed", f"exit {ended.status}: {said.strip()[-300:]}"
    return None


def _judged_again(world: World, failure: Failure, again: Ended, stage: Stage) -> tuple[str, str] | None:
    if again.status or again.timed_out:
        return "again", f"the rerun ends with {again.status}: {(again.out + again.errors).strip()[-300:]}"
    found = _digests(world, failure.scenario)
    if found != stage.expected:
        names = sorted(
            n for n in found.keys() | stage.expected.keys() if found.get(n) != stage.expected.get(n)
        )
        return "bytes", f"after the rerun differ: {', '.join(names[:4])}"
    hidden = [path.name for path in world.out.rglob(".*tmp")]
    return ("leftovers", ", ".join(hidden[:3])) if hidden else None
