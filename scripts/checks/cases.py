"""A case: one mutation of one file, one command that reads it, and the judgement on what came of it."""

import contextlib
import hashlib
import random
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scripts.checks import forked, mutations
from scripts.checks.forked import Ended, Limits
from scripts.checks.mutations import MUTATIONS, InapplicableError, Mutation, Target
from scripts.checks.victims import (
    FACTORY,
    VARIANTS,
    Base,
    World,
    arrow_digests,
    as_on_object_storage,
    run_arguments,
    upload,
)

REMOTE = "object storage"
WEIGHTS = {
    mutations.MANIFEST: 14, mutations.COMMIT: 18, mutations.WORDS: 14, mutations.SENTENCES: 12,
    mutations.REJECTS: 6, mutations.INDEX_FACTS: 10, mutations.INDEX: 7, mutations.POSTINGS: 8,
    mutations.LOCK: 3, mutations.LOG: 3, mutations.FOLDERS: 8, REMOTE: 14,
}  # fmt: skip
_REMOTE_KINDS = (mutations.MANIFEST, mutations.COMMIT, mutations.COMMIT, mutations.WORDS, mutations.REJECTS)
_NOT_REMOTE = ("linked_to_itself_elsewhere", "linked", "special", "foreign")
QUERY = "I want an [apple]."
_READS = {
    "verify": 4, "verify --sources": 1, "search": 4, "search --json": 3, "search --row": 3,
    "search --word": 2,
    "search --same-word": 2, "search --queries": 1, "stats": 1, "stats --json": 1, "status": 2, "layers": 1,
    "senses": 2, "read": 4,
}  # fmt: skip
_WRITES = {"run": 3, "verify --repair": 4, "index": 2}
_OF_INDEX = {
    "search": 4, "search --row": 4, "search --word": 4, "search --same-word": 3, "verify": 3, "senses": 2,
    **_WRITES,
}  # fmt: skip
_COMMANDS = {
    mutations.INDEX_FACTS: _OF_INDEX,
    mutations.INDEX: _OF_INDEX,
    mutations.POSTINGS: _OF_INDEX,
    mutations.REJECTS: {"verify": 3, "read": 4, "stats": 1, **_WRITES},
    mutations.LOCK: {"status": 1, "verify": 1, **_WRITES},
    mutations.LOG: {"verify": 1, **_WRITES},
    REMOTE: {"pull": 8, "verify": 5, "stats": 1, "status": 2, "verify --repair": 1, "run": 1},
}
# What no command may write to a terminal or a log: controls, and marks that turn the direction of text.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_INCOMPLETE = re.compile(r"unfinished|not finished|missing|interrupted|is damaged")
_SHARDS = re.compile(r'shards"?:? +(\d+),?\s+"?shards[ _]planned"?:? +(\d+)')
MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Plan:
    """A case before it is run; all of it follows from the seed and the case's number."""

    seed: int
    number: int
    kind: str
    variant: str
    command: str

    @property
    def key(self) -> str:
        """Where `Base.answers` has what the command says of the intact store."""
        return f"{self.variant} {self.command}{' remote' if self.kind == REMOTE else ''}"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case: ``outcome`` is "ok", or the kind of failure."""

    number: int
    kind: str
    variant: str
    command: str
    file: str
    mutation: str
    what: str
    outcome: str
    note: str
    status: int
    seconds: float
    peak_mb: int


def plan(seed: int, number: int, *, remote: bool) -> Plan:
    """Choose the kind of file, the variant of the store, and the command."""
    chance = random.Random(f"{seed} {number}")
    weights = {kind: weight for kind, weight in WEIGHTS.items() if remote or kind != REMOTE}
    kind = _weighted(chance, weights)
    variant = chance.choice(list(VARIANTS))
    return Plan(seed, number, kind, variant, _weighted(chance, _COMMANDS.get(kind, {**_READS, **_WRITES})))


def _weighted(chance: random.Random, weights: dict[str, Any]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


# --- commands -------------------------------------------------------------------------------------


def action(base: Base, world: World, variant: str, name: str, out: str) -> Callable[[], int]:
    """What a case does in its child."""
    arguments: dict[str, list[Any]] = {
        "verify": ["verify", out],
        "verify --sources": ["verify", out, "--sources"],
        "verify --repair": ["verify", out, "--repair", "-q"],
        "search": ["search", out, QUERY, "-k", "5", "--context", "1", "--explain"],
        "search --json": ["search", out, QUERY, "--json", "--distinct", "document", "--source", "*.jsonl"],
        "search --row": ["search", out, "--row", str((1 << 32) + 5), "--json"],
        "search --word": ["search", out, QUERY, "--word", "orange", "--exclude-word", "want"],
        "search --same-word": ["search", out, QUERY, "--same-word", "--doc", "doc 3", "--doc", "doc 4"],
        "search --queries": ["search", out, "--queries", base.queries, "--json"],
        "stats": ["stats", out],
        "stats --json": ["stats", out, "--json"],
        "status": ["status", out],
        "layers": ["layers", out, "apple", "want"],
        "senses": ["senses", out, "apple"],
        "pull": ["pull", out, world.pulled, "-q"],
        "index": ["index", out, "--factory", FACTORY, "--recall", "0.5", "-q"],
        "run": [*run_arguments(base, variant, out), "-q"],
    }
    return partial(read, out) if name == "read" else forked.command(arguments[name])


def read(out: str) -> int:
    """Print digests of what a Python program reads of a store, those of vectors on lines of their own."""
    import pyarrow as pa

    import ctxbatch
    from ctxbatch.errors import CtxbatchError
    from ctxbatch.store.rejects import rejects

    try:
        store = ctxbatch.open(out)
        print(store.n_rows, len(store.commits))
        datasets = (store.words, store.sentences)
        print("rejects", _digest(list(rejects(store))))
        if store.n_rows:
            print("rows", _digest(store.rows(np.array([0, store.n_rows // 2, store.n_rows - 1]))))
        for block in store.vectors():
            print("vectors", _digest(block.tobytes()))
        for dataset in datasets:
            try:
                table = dataset.to_table()
            except (pa.ArrowException, OSError) as error:  # pyarrow's own reader, which the user calls
                sys.stderr.write(f"pyarrow: {str(error)!a}\n")
                return 3
            plain = [name for name in table.column_names if name not in store.config.columns]
            print("table", _digest(table.select(plain).to_pylist()))
    except CtxbatchError as error:
        sys.stderr.write(f"ctxbatch: {error}\n")
        return error.exit_status
    return 0 if store.complete else 3


def _digest(value: object) -> str:
    raw = value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")
    return hashlib.sha256(raw).hexdigest()


def use_small_indexes() -> None:
    """Have searches go through an index also where so few rows are compared one by one; tune it quickly."""
    from ctxbatch.search import index, index_tuning

    smaller = {"_SCANNED_ROWS": 0, "_SCANNED_SHARE": 0, "_QUERIES": 32, "_FILTERED_QUERIES": 8}
    for name, value in smaller.items():
        for module in (index, index_tuning):
            if hasattr(module, name):
                setattr(module, name, value)


# --- running --------------------------------------------------------------------------------------


def run_case(base: Base, plan: Plan, root: Path, limits: Limits, *, show: bool = False) -> dict[str, Any]:
    """Run a case in a world of its own, which is removed; returns the fields of its `Result`."""
    world = World(root)
    try:
        return asdict(_run(base, plan, world, limits, show))
    except Exception as error:
        traceback.print_exc()
        note = f"{type(error).__name__}: {error}"
        return asdict(
            Result(plan.number, plan.kind, plan.variant, plan.command, "", "", "", "harness", note, 0, 0.0, 0)
        )
    finally:
        if not show:
            shutil.rmtree(root, ignore_errors=True)


def _run(base: Base, plan: Plan, world: World, limits: Limits, show: bool) -> Result:
    chance = random.Random(f"{plan.seed} {plan.number} mutation")
    world.make(base.store(plan.variant))
    remote = plan.kind == REMOTE
    if remote:
        as_on_object_storage(world.out)
    target, mutation, what, intact = _mutate(chance, plan, world)
    out = str(world.out)
    if remote:
        out = upload_to(base, f"case-{plan.seed}-{plan.number}", world)
    before, stamp = world.snapshot(), base.stamp()
    ended = forked.run(*_call(base, plan.variant, plan.command, world, out), limits)
    failure = _Judge(base, plan, world, target, mutation, ended, out, limits).failure(intact, before, stamp)
    if show:
        print(f"case {plan.number} of seed {plan.seed}: {plan.variant}, {plan.kind}")
        print(f"{target.path}: {mutation.name}: {what}\n{plan.command}: status {ended.status}")
        print(f"--- stdout\n{ended.out}\n--- stderr\n{ended.errors}\n---\n{failure or 'ok'}")
    outcome, note = failure or ("ok", _first_line(ended))
    file = str(target.path.relative_to(world.out))
    peak = ended.peak >> 20
    return Result(
        plan.number, plan.kind, plan.variant, plan.command, file, mutation.name, what, outcome, note,
        ended.status, round(ended.seconds, 2), peak,
    )  # fmt: skip


def _call(base: Base, variant: str, command: str, world: World, out: str) -> tuple[Any, ...]:
    """What `forked.run` takes."""
    act = action(base, world, variant, command, out)
    return act, world.said, world.home / "here", world.environment(base.url)


def upload_to(base: Base, bucket: str, world: World) -> str:
    """Copy a world's store to object storage; returns its URL."""
    assert base.url is not None
    upload(base.url, bucket, world.out)
    return f"s3://{bucket}/out"


def _mutate(chance: random.Random, plan: Plan, world: World) -> tuple[Target, Mutation, str, bytes | None]:
    """Change a file as the case says; returns also the bytes that it had."""
    kind = chance.choice(_REMOTE_KINDS) if plan.kind == REMOTE else plan.kind
    known = [each for each in MUTATIONS if kind in each.kinds]
    if plan.kind == REMOTE:
        known = [each for each in known if each.name not in _NOT_REMOTE]
        if kind not in (mutations.MANIFEST, mutations.COMMIT):
            known = [each for each in known if not each.sealed]  # names of objects are not those of files
    while True:
        paths = mutations.targets(world, kind)
        mutation = chance.choices(known, [each.weight for each in known])[0]
        target = Target(kind, chance.choice(paths), world)
        intact = target.path.read_bytes() if target.path.is_file() else None
        with contextlib.suppress(InapplicableError):
            return target, mutation, mutation.act(chance, target), intact


def _first_line(ended: Ended) -> str:
    text = (ended.errors or ended.out).strip()
    return text.splitlines()[0][:200] if text else ""


# --- judging --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judge:
    """What is to be said of a case whose command has ended."""

    base: Base
    plan: Plan
    world: World
    target: Target
    mutation: Mutation
    ended: Ended
    out: str
    limits: Limits

    def failure(
        self, intact: bytes | None, before: dict[str, Any], stamp: dict[str, Any]
    ) -> tuple[str, str] | None:
        """The first thing that is wrong: its kind, and a line about it."""
        checks = [
            self._ending(),
            self._memory(),
            self._outside(before, stamp),
            self._log(),
            self._said(),
            None if self.mutation.sealed else self._answer(intact),
        ]
        return next((found for found in checks if found is not None), None)

    def _ending(self) -> tuple[str, str] | None:
        ended = self.ended
        both = ended.errors + ended.out
        if ended.timed_out:
            return "hang", f"more than {self.limits.seconds:g} s"
        if ended.status < 0:
            return "signal", f"signal {-ended.status}; {both.strip()[-200:]}"
        for mark in ("Traceback (most recent call last)", "Exception ignored", "--- Logging error"):
            if mark in both:
                return "traceback", last_lines(both)
        if ended.status not in (0, 2, 3, 4):
            return "status", f"exit {ended.status}: {_first_line(ended)}"
        return None

    def _memory(self) -> tuple[str, str] | None:
        usual = self.base.answers[self.plan.key]["peak"]
        if self.ended.peak > usual + MEMORY:
            return "memory", f"{(self.ended.peak - usual) >> 20} MB more than on the intact store"
        if self.ended.status == 4 and re.search(r"memory|allocat", self.ended.errors):
            return (
                "memory",
                f"tries to take more than {self.limits.address_space >> 20} MB: {self.ended.errors[:200]}",
            )
        return None

    def _outside(self, before: dict[str, Any], stamp: dict[str, Any]) -> tuple[str, str] | None:
        after = self.world.snapshot()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed:
            return "outside", f"changed: {', '.join(changed[:5])}"
        if self.base.stamp() != stamp:
            return "outside", "the inputs, the model or the intact store have changed"
        return None

    def _log(self) -> tuple[str, str] | None:
        """What has been added to the log, if the log is not what was attacked."""
        path = self.world.out / "run.log"
        if self.plan.kind == mutations.LOG or not path.is_file() or path.is_symlink():
            return None
        text = path.read_bytes()[: 1 << 20].decode(errors="backslashreplace")
        if "Traceback" in text:
            return "traceback", f"in run.log: {last_lines(text)}"
        return control_in(text, "run.log")

    def _said(self) -> tuple[str, str] | None:
        ended = self.ended
        usual = self.base.answers[self.plan.key]["status"]  # as a quiet run says nothing of its rejects
        if ended.status not in (0, usual) and not (ended.out + ended.errors).strip():
            return "silent", f"exit {ended.status} without a word"
        return control_in(ended.out, "stdout") or control_in(ended.errors, "stderr")

    def _answer(self, intact: bytes | None) -> tuple[str, str] | None:
        """Checksums are those of before: no other answer may pass for the right one."""
        expected = self.base.answers[self.plan.key]
        status, command = self.ended.status, self.plan.command
        said = normalised(self.ended.out, self.world, self.out)
        same = said == expected["out"] and status == expected["status"]
        if (
            self.mutation.name == "linked_to_itself_elsewhere"
            and command in _READS
            and self.target.kind != mutations.FOLDERS
        ):
            if command != "verify" and not same:
                return "refused", f"a link to the same content: exit {status}: {_first_line(self.ended)}"
            return None
        if command == "pull" and status == 0:
            return _difference(expected["digests"], arrow_digests(self.world.pulled))
        if command == "verify --repair" and status == 0 and self.plan.kind != REMOTE:
            if self.mutation.name == "foreign":
                return None  # what somebody else has put into a shard's folder stays there
            return _difference(expected["digests"], arrow_digests(self.world.out))
        if command in _WRITES:
            return None
        if command.startswith("verify"):
            return self._verified(intact, same)
        if same or status != 0 or self._says_incomplete() or self._is_exact(said):
            return None
        return self._other_answer(intact, said, expected["out"])

    def _says_incomplete(self) -> bool:
        """Whether what is printed says that shards are missing."""
        counts = _SHARDS.search(self.ended.out)
        return bool(
            _INCOMPLETE.search(self.ended.out + self.ended.errors) or (counts and counts[1] < counts[2])
        )

    def _is_exact(self, said: str) -> bool:
        """Whether it is announced that no index is used, and the answer is that of a store without one."""
        if "all rows are read" not in self.ended.errors:
            return False
        shutil.rmtree(self.world.out / "index")
        call = _call(self.base, self.plan.variant, self.plan.command, self.world, self.out)
        exact = forked.run(*call, self.limits)
        return exact.status == 0 and normalised(exact.out, self.world, self.out) == said

    def _verified(self, intact: bytes | None, same: bool) -> tuple[str, str] | None:
        unchecked = (mutations.LOCK, mutations.LOG)
        if (
            not same
            or self.target.kind in unchecked
            or self.mutation.name in ("foreign", "linked_to_itself_elsewhere")
        ):
            return None
        if (
            self.target.path.name == "index"
            and self.target.path.is_dir()
            and not self.target.path.is_symlink()
        ):
            return None  # a store need not have one
        if intact is not None and self.target.path.is_file() and self.target.path.read_bytes() == intact:
            return None
        return "missed", f"{self.plan.command} says all intact"

    def _other_answer(self, intact: bytes | None, said: str, expected: str) -> tuple[str, str] | None:
        difference = _different_line(expected, said)
        if self.target.kind != mutations.WORDS or intact is None or not self._is_in_vectors(intact):
            return "answer", f"another answer, exit 0: {difference}"
        ended = forked.run(*_call(self.base, self.plan.variant, "verify", self.world, self.out), self.limits)
        if ended.status != 3:
            return "missed", f"vectors differ, and verify ends with {ended.status}: {difference}"
        return None

    def _is_in_vectors(self, intact: bytes) -> bool:
        """Whether all bytes that differ are in the buffers of vectors."""
        now = self.target.path.read_bytes()
        if len(now) != len(intact):
            return False
        was, is_ = (np.frombuffer(each, np.uint8) for each in (intact, now))
        covered = np.zeros(len(intact), np.bool_)
        original = self.base.store(self.plan.variant) / self.target.path.relative_to(self.world.out)
        for column in self._columns(original):
            for begin, length in mutations.buffers(original, column):
                covered[begin : begin + length] = True
        return bool(covered[was != is_].all())

    def _columns(self, path: Path) -> list[str]:
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
        return [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]


def normalised(text: str, world: World, out: str) -> str:
    """A text without the names of the case's own places."""
    return text.replace(out, "OUT").replace(str(world.root), "ROOT")


def last_lines(text: str) -> str:
    """The end of a traceback: where it was raised, and what."""
    lines = text.rstrip().splitlines()
    places = [line.strip() for line in lines if line.lstrip().startswith("File ") and "/ctxbatch/" in line]
    place = (
        re.sub(r'File ".*/(ctxbatch/[^"]*)", line (\d+), in (\S+)', r"\1:\2 \3", places[-1])
        if places
        else "?"
    )
    errors = [
        line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Exit|Invalid|Interrupt)\b", line)
    ]
    return f"{(errors or lines)[-1][:160]} at {place}"


def control_in(text: str, where: str = "the output") -> tuple[str, str] | None:
    """What a terminal or a log must not get."""
    if found := _CONTROL.search(text):
        around = text[max(0, found.start() - 40) : found.end() + 20]
        return "control", f"{found[0]!a} in {where}: {around!a}"
    if re.search(r"^FORGED", text, re.MULTILINE):
        return "forged", f"a line of the attacker's in {where}"
    return None


def _difference(expected: dict[str, str], found: dict[str, str]) -> tuple[str, str] | None:
    if expected == found:
        return None
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return "answer", f"exit 0, and other Arrow files: {', '.join(names[:4])}"


def _different_line(expected: str, said: str) -> str:
    pairs = zip([*expected.splitlines(), ""], [*said.splitlines(), ""], strict=False)
    return next((f"{a[:80]!a} is {b[:80]!a}" for a, b in pairs if a != b), "more or fewer lines")


# --- the intact store -----------------------------------------------------------------------------


def ask(base: Base, plan: Plan, root: Path, limits: Limits) -> dict[str, Any]:
    """What the command of a case says of an intact store."""
    world = World(root)
    world.make(base.store(plan.variant))
    digests, out = arrow_digests(world.out), str(world.out)
    if plan.kind == REMOTE:
        as_on_object_storage(world.out)
        out = upload_to(base, re.sub(r"[^a-z0-9]+", "-", f"intact-{plan.key}"), world)
    ended = forked.run(*_call(base, plan.variant, plan.command, world, out), limits)
    if ended.status != (3 if plan.command == "run" else 0):
        raise RuntimeError(
            f"{plan.key}: status {ended.status} on the intact store\n{ended.out}\n{ended.errors}"
        )
    said = normalised(ended.out, world, out)
    shutil.rmtree(root)
    return {"out": said, "status": ended.status, "digests": digests, "peak": ended.peak}
