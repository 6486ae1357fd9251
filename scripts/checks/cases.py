"""Run a case: one mutation of one file of a store, and one command that reads it."""

import contextlib
import random
import re
import shutil
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.checks import forked, targets
from scripts.checks.forked import Limits
from scripts.checks.judging import Judge, first_line, normalised
from scripts.checks.mutations import MUTATIONS
from scripts.checks.plans import REMOTE, Plan, forked_call, upload_to
from scripts.checks.targets import InapplicableError, Mutation, Target
from scripts.checks.victims import Base, World, arrow_digests, as_on_object_storage

_REMOTE_KINDS = (targets.MANIFEST, targets.COMMIT, targets.COMMIT, targets.WORDS, targets.REJECTS)
_NOT_REMOTE = ("linked_to_itself_elsewhere", "linked", "special", "foreign")


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
    world.make(base.store(plan.variant), base.cache)
    remote = plan.kind == REMOTE
    if remote:
        as_on_object_storage(world.out)
    target, mutation, what, intact = _mutate(chance, plan, world)
    out = str(world.out)
    if remote:
        out = upload_to(base, f"case-{plan.seed}-{plan.number}", world)
    before, stamp = world.snapshot(), base.stamp()
    ended = forked.run(*forked_call(base, plan.variant, plan.command, world, out), limits)
    failure = Judge(base, plan, world, target, mutation, ended, out, limits).failure(intact, before, stamp)
    if show:
        print(f"case {plan.number} of seed {plan.seed}: {plan.variant}, {plan.kind}")
        print(f"{target.path}: {mutation.name}: {what}\n{plan.command}: status {ended.status}")
        print(f"--- stdout\n{ended.out}\n--- stderr\n{ended.errors}\n---\n{failure or 'ok'}")
    outcome, note = failure or ("ok", first_line(ended))
    file = str(target.path.relative_to(world.out))
    peak = ended.peak >> 20
    return Result(
        plan.number, plan.kind, plan.variant, plan.command, file, mutation.name, what, outcome, note,
        ended.status, round(ended.seconds, 2), peak,
    )  # fmt: skip


def _mutate(chance: random.Random, plan: Plan, world: World) -> tuple[Target, Mutation, str, bytes | None]:
    """Change a file as the case says; returns also the bytes that it had."""
    kind = chance.choice(_REMOTE_KINDS) if plan.kind == REMOTE else plan.kind
    known = [each for each in MUTATIONS if kind in each.kinds]
    if plan.kind == REMOTE:
        known = [each for each in known if each.name not in _NOT_REMOTE]
        if kind not in (targets.MANIFEST, targets.COMMIT):
            known = [each for each in known if not each.sealed]  # names of objects are not those of files
    while True:
        paths = targets.files_of(world, kind)
        mutation = chance.choices(known, [each.weight for each in known])[0]
        target = Target(kind, chance.choice(paths), world)
        intact = target.path.read_bytes() if target.path.is_file() else None
        with contextlib.suppress(InapplicableError):
            return target, mutation, mutation.act(chance, target), intact


def ask(base: Base, plan: Plan, root: Path, limits: Limits) -> dict[str, Any]:
    """Return what the command of a case says of an intact store."""
    world = World(root)
    world.make(base.store(plan.variant), base.cache)
    digests, out = arrow_digests(world.out), str(world.out)
    if plan.kind == REMOTE:
        as_on_object_storage(world.out)
        out = upload_to(base, re.sub(r"[^a-z0-9]+", "-", f"intact-{plan.key}"), world)
    ended = forked.run(*forked_call(base, plan.variant, plan.command, world, out), limits)
    if ended.status != (3 if plan.command == "run" else 0):
        raise RuntimeError(
            f"{plan.key}: status {ended.status} on the intact store\n{ended.out}\n{ended.errors}"
        )
    said = normalised(ended.out, world, out)
    shutil.rmtree(root)
    return {"out": said, "status": ended.status, "digests": digests, "peak": ended.peak}
