"""Prove that nothing crashes or lies when any file of a store is changed, or any call fails.

    python -m scripts.checks.attack [files] [--cases 2000] [--seed 1]
    python -m scripts.checks.attack io [--every K] [--scenario run] [--calls read,write]
    python -m scripts.checks.attack all                   both
    python -m scripts.checks.attack --case 17             a case again, with all that it prints
    python -m scripts.checks.attack io --case 'run: read 7 EIO'
    python -m scripts.checks.attack [files|io] --failed   the cases again that failed the last time

with --jobs N (at once), --seconds N (what a command may take), --work FOLDER (for stores and results: what
has a result there is not run again). Needs what the tests need, `pip install -e .[test]`; without moto
nothing on object storage is attacked, without a C compiler no call is failed.

**Files.** A case is one mutation of one file of a store (flips, cuts, pages of zeros, swaps, links, FIFOs,
devices, folders, and hostile content under checksums that are computed again) and one command that reads the
file. It runs in a forked child of a process that has imported everything, with bounded memory and time. Cases
follow from the seed and their number. A failure is

    signal     the command ends by a signal, such as SIGSEGV
    traceback  it prints one, or "Exception ignored", or a worker leaves one in run.log
    hang       it takes longer than --seconds
    memory     it takes 1 GB more than on the intact store, or tries to
    outside    something changes that is not under OUT, the target of a pull or the cache
    status     its exit status is none of 0, 2, 3 and 4
    control    a control character or a mark that turns the direction of text is printed or logged raw
    forged     a line of the attacker's choice is printed or logged
    silent     it fails without a word
    answer     checksums were not computed again, and it gives another answer with exit 0; that of a store
               without an index counts as the same where it says that it uses none
    missed     checksums were not computed again, and verify says that all is intact
    refused    a file that is a link to the same content elsewhere is not read
    harness    this script itself has failed

Where bytes of vectors were changed, another answer of a search is no failure if `verify` finds the damage.

**Calls.** A case fails the N-th open, read, write, fsync, rename, link, unlink, mkdir, truncate, close, stat,
listing or mapping of a file under OUT, the inputs or the cache with EIO (a write also with ENOSPC, a mapping
with ENOMEM), for every N (or every K-th): in a run of three shards, in one that resumes such a run, in an
index, a pull, a verify and a search. N counts over the coordinator and its worker. Then the same command runs
again without a failure. Fine are "ok" (exit 4 and one clear line), "passed" (exit 0 and the right bytes, as
where the cache fails) and "unreached"; besides signal, traceback, hang and control a failure is

    status     the exit status is neither 0 nor 4
    lines      exit 4 comes with no line, or with several
    blamed     what is intact is called damaged, missing or changed
    answer     exit 0, and other bytes
    again      the same command, without a failure, does not end with 0
    bytes      it makes other bytes than an undisturbed run
    leftovers  it leaves a temporary file

strace could fail calls, too, but only on paths that are named one by one, which the temporary files of a run
are not; so there is no second way where no compiler is.

Prints a table of kinds by outcomes; exit status 1 where a case has failed.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.checks import forked, harness, io_failures, victims
from scripts.checks.io_failures import KINDS, SCENARIOS
from scripts.command_line import Parser, positive, run, say, some_of

if TYPE_CHECKING:
    from scripts.checks.plans import Plan

_NO_COMPILER = "no C compiler is here: no call is failed"


def main() -> int:
    """Run the cases; returns the exit status."""
    options = parse()
    work = Path(options.work or os.environ.get("ATTACK_WORK") or tempfile.mkdtemp(prefix="ctxbatch-attack-"))
    work.mkdir(parents=True, exist_ok=True)
    work = work.resolve()
    if any(os.environ.get(name) != value for name, value in forked.ENVIRONMENT.items()):
        _start_again(options, work)
    try:
        return attack(options, work)
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)


def _start_again(options: argparse.Namespace, work: Path) -> None:
    """Replace this process by one with the right environment, and with what fails calls preloaded."""
    shim = io_failures.compile_shim(work) if options.what != "files" else None
    preloaded = {} if shim is None else {"LD_PRELOAD": str(shim)}
    os.environ.update({**forked.ENVIRONMENT, **preloaded, "ATTACK_WORK": str(work)})
    os.execv(sys.executable, [sys.executable, "-m", "scripts.checks.attack", *sys.argv[1:]])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("what", nargs="?", choices=("files", "io", "all"), default="files")
    parser.add_argument("--cases", type=positive, default=2_000, help="how many cases of files")
    parser.add_argument("--seed", type=int, default=1, help="of the cases of files")
    parser.add_argument("--every", type=positive, default=1, help="fail every K-th call alone")
    parser.add_argument("--scenario", type=some_of(SCENARIOS), default=SCENARIOS, help="in which calls fail")
    parser.add_argument("--calls", type=some_of(KINDS), default=KINDS, help="kinds of calls that fail")
    parser.add_argument("--jobs", type=positive, default=len(os.sched_getaffinity(0)), help="at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="what a command may take")
    parser.add_argument("--work", help="folder for stores and results; a temporary one by default")
    parser.add_argument("--case", help="run this one alone, and show what it prints")
    parser.add_argument("--failed", action="store_true", help="run again those that failed")
    options = parser.parse_args()
    if options.case is not None and not is_case(options.what, options.case):
        parser.error(f"--case {options.case!r} is no case of {options.what}")
    return options


def is_case(what: str, case: str) -> bool:
    """Whether a text names a case of files or of calls."""
    if what == "files":
        return case.isdecimal()
    return what == "io" and io_failures.Failure.parse(case) is not None


def attack(options: argparse.Namespace, work: Path) -> int:
    """Build the stores, run the cases, print the tables."""
    server = victims.start_object_store()
    try:
        forked.import_everything()
        from scripts.checks.plans import use_small_indexes

        use_small_indexes()
        url = None if server is None or server.stdout is None else server.stdout.readline().strip()
        if url is None:
            say("moto is not installed: nothing on object storage is attacked")
        for name in ("base", "worlds"):
            shutil.rmtree(work / name, ignore_errors=True)
            (work / name).mkdir()
        base = victims.Base(work / "base", url)
        harness.all_of(1, [partial(victims.write_inputs, base)])
        statuses = [
            attack_kind(options, base, work)
            for kind, attack_kind in (("files", attack_files), ("io", attack_calls))
            if options.what in (kind, "all")
        ]
        return max(statuses)
    finally:
        if server is not None:
            server.kill()
            server.wait()


# --- files ----------------------------------------------------------------------------------------


def attack_files(options: argparse.Namespace, base: victims.Base, work: Path) -> int:
    """Run the cases of files that have no result yet; returns the exit status."""
    from scripts.checks import cases, plans

    remote, limits = base.url is not None, forked.Limits(options.seconds)
    if options.case is not None:
        case = plans.plan(options.seed, int(options.case), remote=remote)
        base = _ask_the_intact(base, [case], work, options.jobs)
        found = cases.run_case(base, case, work / "worlds" / "shown", limits, show=True)
        return int(found["outcome"] not in harness.FINE)
    results = harness.Results(work / f"results-{options.seed}.jsonl", describe)
    todo = [
        plans.plan(options.seed, number, remote=remote)
        for number in results.todo(range(options.cases), failed=options.failed)
    ]
    if todo:
        base = _ask_the_intact(base, todo, work, options.jobs)
    worlds = work / "worlds"
    results.run(
        options.jobs,
        [
            (plan.number, partial(cases.run_case, base, plan, worlds / f"{plan.number:06d}", limits))
            for plan in todo
        ],
    )
    return results.show(range(options.cases))


def _ask_the_intact(base: victims.Base, plans: "Sequence[Plan]", work: Path, jobs: int) -> victims.Base:
    """Make the intact stores that cases need, and learn what they say; in children: no thread starts here."""
    from scripts.checks import cases

    variants = sorted({plan.variant for plan in plans})
    harness.all_of(jobs, [partial(victims.make_victim, base, variant) for variant in variants])
    first = {plan.key: plan for plan in plans}
    asked = [
        partial(cases.ask, base, plan, work / "worlds" / f"intact{number:04d}", forked.Limits(120.0))
        for number, plan in enumerate(first.values())
    ]
    return replace(base, answers=dict(zip(first, harness.all_of(jobs, asked), strict=True)))


def describe(result: dict[str, Any]) -> str:
    """Return a failed case of files in one line."""
    return (
        f"case {result['number']}: {result['outcome']}: {result['command']} ({result['variant']}) after "
        f"{result['file']}: {result['mutation']}: {result['what']!a}: {result['note']!a}"
    )


# --- calls ----------------------------------------------------------------------------------------


def attack_calls(options: argparse.Namespace, base: victims.Base, work: Path) -> int:
    """Run the cases of calls that have no result yet; returns the exit status."""
    if "LD_PRELOAD" not in os.environ:
        say(_NO_COMPILER)
        return 0
    io_failures.remember_rates()
    known = [name for name in SCENARIOS if name != "pull" or base.url is not None]
    scenarios = [name for name in known if name in options.scenario]
    if not base.store("plain").exists():
        harness.all_of(1, [partial(victims.make_victim, base, "plain")])
    worlds, limits = work / "worlds", forked.Limits(options.seconds)
    bench = io_failures.make_bench(base, worlds, partial(harness.all_of, options.jobs), scenarios)
    failures = {
        str(failure): failure
        for name in scenarios
        for failure in bench.failures(name, options.every, options.calls)
    }
    if options.case is not None:
        failure = io_failures.Failure.parse(options.case)
        assert failure is not None  # `parse` has seen to that
        found = bench.run(failure, worlds / "shown", limits, show=True)
        return int(found["outcome"] not in harness.FINE)
    results = harness.Results(work / "results-io.jsonl", io_failures.describe)
    todo = results.todo(failures, failed=options.failed)
    results.run(
        options.jobs,
        [
            (name, partial(bench.run, failures[name], worlds / f"io-{number:05d}", limits))
            for number, name in enumerate(todo)
        ],
    )
    return results.show(failures)


if __name__ == "__main__":
    sys.exit(run(main))
