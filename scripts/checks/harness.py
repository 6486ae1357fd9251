"""Functions in forked children, so many at a time; and the file and the table of their results."""

import json
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.checks import forked
from scripts.command_line import say

# Outcomes that are no failures.
FINE = ("ok", "passed", "unreached")
_SHOWN_EVERY = 200


def all_of(jobs: int, work: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run functions in forked children; returns their results.

    Raises:
        SystemExit: One of them has failed.
    """
    done = dict(_in_children(jobs, list(enumerate(work))))
    if failed := [number for number in range(len(work)) if number not in done]:
        raise SystemExit(f"{len(failed)} of {len(work)} steps failed while the intact stores were made")
    return [done[number] for number in range(len(work))]


def _in_children(jobs: int, work: Sequence[tuple[Any, Callable[[], Any]]]) -> Iterator[tuple[Any, Any]]:
    """Yield the numbers and results of functions as they end; none of one that fails."""
    waiting = iter(work)
    running: dict[int, tuple[Any, int, bytearray]] = {}
    while True:
        while len(running) < jobs and (following := next(waiting, None)) is not None:
            pid, descriptor = forked.in_child(following[1])
            running[descriptor] = (following[0], pid, bytearray())
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


class Results:
    """The results of cases by their numbers, kept in a file of JSON lines; of a case run twice the last.

    Args:
        path: The file.
        describe: A failed case in one line.
    """

    def __init__(self, path: Path, describe: Callable[[dict[str, Any]], str]) -> None:
        self._path = path
        self._describe = describe
        lines = path.read_text().splitlines() if path.exists() else []
        self._done: dict[Any, dict[str, Any]] = {
            (found := json.loads(line))["number"]: found for line in lines
        }

    def todo(self, numbers: Iterable[Any], *, failed: bool) -> list[Any]:
        """Those of some cases that have no result; or those that have failed."""
        if failed:
            return [n for n in numbers if n in self._done and self._done[n]["outcome"] not in FINE]
        return [number for number in numbers if number not in self._done]

    def run(self, jobs: int, work: Sequence[tuple[Any, Callable[[], dict[str, Any]]]]) -> None:
        """Run cases; say which fail."""
        began = time.monotonic()
        with self._path.open("a") as stream:
            for count, (number, result) in enumerate(_in_children(jobs, work), 1):
                self._done[number] = result
                stream.write(json.dumps(result) + "\n")
                stream.flush()
                if result["outcome"] not in FINE:
                    print(self._describe(result), flush=True)
                if not count % _SHOWN_EVERY or count == len(work):
                    rate = count / (time.monotonic() - began)
                    say(f"{count} of {len(work)} cases, {rate:.1f} a second")

    def show(self, numbers: Iterable[Any]) -> int:
        """Print a table of some cases, kinds by outcomes; returns the exit status."""
        wanted = list(numbers)
        shown = [self._done[number] for number in wanted if number in self._done]
        counts = Counter((result["kind"], result["outcome"]) for result in shown)
        outcomes = sorted({outcome for _, outcome in counts}, key=lambda each: (each not in FINE, each))
        print(f"{'':<18}{'cases':>7}" + "".join(f"{outcome:>11}" for outcome in outcomes))
        for kind in [*sorted({kind for kind, _ in counts}), "all"]:
            mine = [
                sum(n for (k, o), n in counts.items() if o == each and kind in (k, "all"))
                for each in outcomes
            ]
            print(f"{kind:<18}{sum(mine):>7}" + "".join(f"{n:>11}" for n in mine))
        if lost := len(wanted) - len(shown):
            print(f"{lost} cases have no result")
        return int(bool(lost) or any(result["outcome"] not in FINE for result in shown))
