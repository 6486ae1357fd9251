"""Judge what came of a case: signals, tracebacks, memory, what was changed, said and answered."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.checks import forked, mutate_arrow, targets
from scripts.checks.forked import Ended, Limits
from scripts.checks.plans import READS, REMOTE, WRITES, Plan, forked_call
from scripts.checks.targets import Mutation, Target
from scripts.checks.victims import Base, World, arrow_digests

# What no command may write to a terminal or a log: controls, and marks that turn the direction of text.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_INCOMPLETE = re.compile(r"unfinished|not finished|missing|interrupted|is damaged")
_SHARDS = re.compile(r'shards"?:? +(\d+),?\s+"?shards[ _]planned"?:? +(\d+)')
_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Judge:
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
        """Return the first thing that is wrong: its kind, and a line about it."""
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
            return "status", f"exit {ended.status}: {first_line(ended)}"
        return None

    def _memory(self) -> tuple[str, str] | None:
        usual = self.base.answers[self.plan.key]["peak"]
        if self.ended.peak > usual + _MEMORY:
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
        """Return what has been added to the log, if the log is not what was attacked."""
        path = self.world.out / "run.log"
        if self.plan.kind == targets.LOG or not path.is_file() or path.is_symlink():
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
            and command in READS
            and self.target.kind != targets.FOLDERS
        ):
            if command != "verify" and not same:
                return "refused", f"a link to the same content: exit {status}: {first_line(self.ended)}"
            return None
        if command == "pull" and status == 0:
            return _difference(expected["digests"], arrow_digests(self.world.pulled))
        if command == "verify --repair" and status == 0 and self.plan.kind != REMOTE:
            if self.mutation.name == "foreign":
                return None  # what somebody else has put into a shard's folder stays there
            return _difference(expected["digests"], arrow_digests(self.world.out))
        if command in WRITES:
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
        if "reads all rows" not in self.ended.errors:
            return False
        shutil.rmtree(self.world.out / "index")
        again = forked_call(self.base, self.plan.variant, self.plan.command, self.world, self.out)
        exact = forked.run(*again, self.limits)
        return exact.status == 0 and normalised(exact.out, self.world, self.out) == said

    def _verified(self, intact: bytes | None, same: bool) -> tuple[str, str] | None:
        unchecked = (targets.LOCK, targets.LOG)
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
        if self.target.kind != targets.WORDS or intact is None or not self._is_in_vectors(intact):
            return "answer", f"another answer, exit 0: {difference}"
        verify = forked_call(self.base, self.plan.variant, "verify", self.world, self.out)
        ended = forked.run(*verify, self.limits)
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
            for begin, length in mutate_arrow.buffers(original, column):
                covered[begin : begin + length] = True
        return bool(covered[was != is_].all())

    def _columns(self, path: Path) -> list[str]:
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
        return [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]


def normalised(text: str, world: World, out: str) -> str:
    """Return a text without the names of the case's own places."""
    return text.replace(out, "OUT").replace(str(world.root), "ROOT")


def last_lines(text: str) -> str:
    """Return the end of a traceback: where it was raised, and what."""
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
    """Return what a terminal or a log must not get."""
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


def first_line(ended: Ended) -> str:
    """Return the first line of what a command has said, errors before answers."""
    text = (ended.errors or ended.out).strip()
    return text.splitlines()[0][:200] if text else ""
