"""Attacks a small store: every kind of file is changed, and no command may crash, hang, write outside or lie.

    python scripts/checks/attack.py [--cases 2000] [--seed 1] [--jobs 2] [--work FOLDER]
    python scripts/checks/attack.py --case 17           one case again, with all that it prints
    python scripts/checks/attack.py --failed            the cases again that failed the last time

Needs what the tests need (`pip install -e .[test]`); with moto, stores on object storage are attacked, too.

A case is one mutation of one file of a store (flips, cuts, pages of zeros, swaps, links, FIFOs, devices,
folders, and hostile content under checksums that are computed again) and one command that reads the file. It
runs in a forked child of a process that has imported everything, with bounded memory and time. A failure is

    signal     the command ends by a signal, such as SIGSEGV
    traceback  it prints one, or "Exception ignored", or a worker leaves one in run.log
    hang       it takes longer than --seconds
    memory     it takes 1 GB more than on the intact store, or tries to
    outside    something changes that is not under OUT, the target of a pull or the cache
    status     its exit status is none of 0, 2, 3 and 4
    control    a control character or a mark that turns the direction of text is printed or logged raw
    forged     a line of the attacker's choice is printed or logged
    silent     it fails without a word
    answer     checksums were not computed again, and it gives another answer with exit 0
    missed     checksums were not computed again, and verify says that all is intact
    refused    a file that is a link to the same content elsewhere is not read
    harness    this script itself has failed

Where bytes of vectors were changed, another answer of a search is no failure if `verify` finds the damage.
Cases follow from the seed and their number. Results are kept in FOLDER, one JSON line a case, and what is
there is not run again. Prints a table of kinds of files by outcomes; exit status 1 where a case has failed.
"""

import argparse
import json
import os
import select
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import forked


def main() -> int:
    """Run the cases; returns the exit status."""
    options = parse()
    if any(os.environ.get(name) != value for name, value in forked.ENVIRONMENT.items()):
        os.environ.update(forked.ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    work = Path(options.work or tempfile.mkdtemp(prefix="ctxbatch-attack-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        return attack(options, work.resolve())
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=20.0, help="what a command may take")
    parser.add_argument("--work", help="folder for stores and results; a temporary one by default")
    parser.add_argument("--case", type=int, help="run this one alone, and show what it prints")
    parser.add_argument("--failed", action="store_true", help="run again those that failed")
    return parser.parse_args()


def attack(options: argparse.Namespace, work: Path) -> int:
    """Build the stores, run the cases, print the table."""
    import victims

    server = victims.start_object_store()
    try:
        forked.import_everything()
        import cases

        cases.use_small_indexes()
        url = None if server is None or server.stdout is None else server.stdout.readline().strip()
        if url is None:
            print("moto is not installed: stores on object storage are not attacked", flush=True)
        limits = forked.Limits(options.seconds)
        remote = url is not None
        if options.case is not None:
            plan = cases.plan(options.seed, options.case, remote=remote)
            base = build(victims.Base(work / "base", url), work, options.jobs, [plan])
            found = cases.run_case(base, plan, work / "worlds" / "shown", limits, show=True)
            return 0 if found["outcome"] == "ok" else 1
        path = work / f"results-{options.seed}.jsonl"
        done = _read(path)
        todo = [number for number in range(options.cases) if number not in done]
        if options.failed:
            todo = [number for number, result in done.items() if result["outcome"] != "ok"]
        plans = [cases.plan(options.seed, number, remote=remote) for number in todo]
        if plans:
            base = build(victims.Base(work / "base", url), work, options.jobs, plans)
            done |= run_cases(base, plans, path, options.jobs, limits)
        shown = [done[number] for number in range(options.cases) if number in done]
        for line in table(shown):
            print(line)
        return 1 if len(shown) < options.cases or any(result["outcome"] != "ok" for result in shown) else 0
    finally:
        if server is not None:
            server.kill()
            server.wait()


def build(base: Any, work: Path, jobs: int, plans: Sequence[Any]) -> Any:
    """Make the intact stores, and ask them what they say; all in children, so that no thread is left here."""
    import cases
    import victims

    for name in ("base", "worlds"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "worlds").mkdir()
    base.folder.mkdir(parents=True)
    _all(jobs, [partial(victims.write_inputs, base)])
    variants = sorted({plan.variant for plan in plans})
    _all(jobs, [partial(victims.make_victim, base, variant) for variant in variants])
    first = {plan.key: plan for plan in plans}
    asked = [
        partial(cases.ask, base, plan, work / "worlds" / f"intact{number:04d}", forked.Limits(120.0))
        for number, plan in enumerate(first.values())
    ]
    return replace(base, answers=dict(zip(first, _all(jobs, asked), strict=True)))


def _all(jobs: int, work: list[Callable[[], Any]]) -> list[Any]:
    done = dict(in_children(jobs, enumerate(work)))
    if failed := [number for number in range(len(work)) if number not in done]:
        raise SystemExit(f"{len(failed)} of {len(work)} steps failed while the intact stores were made")
    return [done[number] for number in range(len(work))]


def in_children(jobs: int, work: Iterable[tuple[int, Callable[[], Any]]]) -> Iterator[tuple[int, Any]]:
    """Run functions in forked children, so many at a time; yields their numbers and results as they end."""
    waiting = iter(work)
    running: dict[int, tuple[int, int, bytearray]] = {}
    exhausted = False
    while True:
        while not exhausted and len(running) < jobs:
            try:
                number, job = next(waiting)
            except StopIteration:
                exhausted = True
                break
            pid, descriptor = forked.in_child(job)
            running[descriptor] = (number, pid, bytearray())
        if not running:
            return
        for descriptor in select.select(list(running), [], [])[0]:
            number, pid, content = running[descriptor]
            part = os.read(descriptor, 1 << 16)
            content += part
            if part:
                continue
            os.close(descriptor)
            os.waitpid(pid, 0)
            del running[descriptor]
            if content:
                yield number, json.loads(content)


def run_cases(
    base: Any, plans: Sequence[Any], path: Path, jobs: int, limits: forked.Limits
) -> dict[int, dict[str, Any]]:
    """Run cases, and append their results to a file; returns them by number."""
    import cases

    worlds = path.parent / "worlds"
    work = (
        (plan.number, partial(cases.run_case, base, plan, worlds / f"{plan.number:06d}", limits))
        for plan in plans
    )
    began = time.monotonic()
    done: dict[int, dict[str, Any]] = {}
    with path.open("a") as stream:
        for number, result in in_children(jobs, work):
            done[number] = result
            stream.write(json.dumps(result) + "\n")
            stream.flush()
            if result["outcome"] != "ok":
                print(describe(result), flush=True)
            if not len(done) % 200 or len(done) == len(plans):
                rate = len(done) / (time.monotonic() - began)
                print(f"{len(done)} of {len(plans)} cases, {rate:.1f} a second", flush=True)
    return done


def _read(path: Path) -> dict[int, dict[str, Any]]:
    """The results in a file; of a case that was run again, the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(result := json.loads(line))["number"]: result for line in lines}


def describe(result: dict[str, Any]) -> str:
    """A failed case in one line."""
    return (
        f"case {result['number']}: {result['outcome']}: {result['command']} ({result['variant']}) after "
        f"{result['file']}: {result['mutation']}: {result['what']!a}: {result['note']!a}"
    )


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of the kinds of files by outcomes."""
    counts = Counter((result["kind"], result["outcome"]) for result in results)
    kinds = sorted({kind for kind, _ in counts})
    outcomes = ["ok", *sorted({outcome for _, outcome in counts} - {"ok"})]
    yield f"{'':<18}{'cases':>7}" + "".join(f"{outcome:>11}" for outcome in outcomes)
    for kind in [*kinds, "all"]:
        mine = [
            sum(n for (k, o), n in counts.items() if o == each and kind in (k, "all")) for each in outcomes
        ]
        yield f"{kind:<18}{sum(mine):>7}" + "".join(f"{n:>11}" for n in mine)


if __name__ == "__main__":
    sys.exit(main())
