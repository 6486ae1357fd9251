"""`search OUT -` answers each line of a pipe or a terminal before the next one is sent."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import ctxbatch
from ctxbatch import Filters, RunConfig
from tests.helpers.brute import QUERIES
from tests.helpers.running import command
from tests.helpers.stores import make_store

# Far longer than any answer takes: without it, a test of a program that waits would wait too.
PATIENCE = 120


@contextmanager
def resident(*arguments, **options):
    """The command with pipes, killed if it neither answers nor ends."""
    with subprocess.Popen(
        command("search", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    ) as process:
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


def ask(process, query):
    """Send a query, and return the lines of its answer, all before anything else is sent."""
    process.stdin.write(query.encode() + b"\n")
    process.stdin.flush()
    hits = []
    while "hits" not in (line := json.loads(process.stdout.readline() or '"the process has ended"')):
        hits.append(line)
    assert line["hits"] == len(hits)
    return hits, line


def resident_memory(process):
    """The MB of memory that a process has to itself."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024


def test_each_of_a_thousand_queries_is_answered_before_the_next_is_sent_in_flat_memory(store):
    searcher = ctxbatch.searcher(store)
    with resident(store.path, "-", "--json", "-k", 3) as process:
        for number in range(1000):
            query = QUERIES[number % len(QUERIES)].replace("]", f"] {number % 7}")
            hits, end = ask(process, query)
            assert end == {"query": number, "hits": 3, "errors": []}
            assert [(hit["query"], hit["rank"]) for hit in hits] == [(number, rank) for rank in (1, 2, 3)]
            if number % 50 == 0:
                assert [hit["row_id"] for hit in hits] == [hit.row_id for hit in searcher.search(query, 3)]
            if number == 100:
                before = resident_memory(process)
        after = resident_memory(process)
        out, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, errors) == (0, b"", b"")
        assert after - before < 16


def test_hits_are_the_lines_that_a_file_of_queries_gets_and_every_answer_has_an_end(store, cli, tmp_path):
    lines = ["\ufeffI want an [apple].", "", "no [closing", "the [bank] and the [river] [?]", "  ", "a door"]
    path = tmp_path / "queries.txt"
    path.write_text("\n".join(lines))
    asked = ("-k", 2, "--json", "--min-score", 0.3)
    expected = cli("search", store.path, "--queries", path, *asked)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    with resident(store.path, "-", *asked, env=environment) as process:
        out, errors = process.communicate("\n".join(lines).encode(), timeout=PATIENCE)
        assert process.returncode == expected.returncode == 3
    shown = [json.loads(line) for line in out.splitlines()]
    assert [line for line in shown if "rank" in line] == list(map(json.loads, expected.stdout.splitlines()))
    ends = [line for line in shown if "rank" not in line]
    assert [(end["query"], len(end["errors"])) for end in ends] == [(0, 0), (2, 1), (3, 1), (5, 0)]
    assert "'no [closing' do not pair up" in ends[1]["errors"][0]
    assert "standard input, line 3: the brackets in 'no [closing' do not pair up" in errors.decode()
    assert errors.decode().splitlines()[-1] == "ctxbatch: 2 of 4 queries have errors"


def test_an_answer_without_hits_and_a_line_that_is_not_utf_8_are_told_and_the_next_is_answered(store):
    with resident(store.path, "-", "--json", "-k", 1, "--min-score", 1) as process:
        process.stdin.write(b"a [caf\xe9]\n")
        process.stdin.flush()
        (first,) = [json.loads(process.stdout.readline())]
        assert first == {"query": 0, "hits": 0, "errors": ["byte 7 is not UTF-8: send UTF-8"]}
        assert ask(process, "Nobody knows [the] end.") == ([], {"query": 1, "hits": 0, "errors": []})
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 3
    assert re.search(r"line 2: no hit: the best score is 0\.\d+, below --min-score 1.0", errors.decode())


def test_lines_for_people_repeat_the_query_and_name_rows_of_the_first_store_only(store, tmp_path, tiny):
    (tmp_path / "b.txt").write_text("I want an apple.\nThe bank by the river.\n")
    config = RunConfig(model=str(tiny()), layers=(3, 1))
    other = make_store(tmp_path / "out", [tmp_path / "b.txt"], config)
    with resident(other.path, store.path, "-", "-k", 3, "--distinct", "text") as process:
        query = b"I want an [apple].\nThe [bank] by the [river]\n"
        out, _ = process.communicate(query, timeout=PATIENCE)
    blocks = [block.splitlines() for block in out.decode().split("\n\n")]
    assert [block[0] for block in blocks] == [
        "I want an [apple].",
        "The [bank] by the river",
        "The bank by the [river]",
    ]
    hits = ctxbatch.searcher([other, store]).search("I want an [apple].", 3, Filters(distinct="text"))
    for line, hit in zip(blocks[0][1:], hits, strict=True):
        (ends,) = re.findall(r":\d+(?:  +\+(\d+))?(?:  +(\d+))?$", line)
        assert int(ends[0] or 0) == hit.copies
        assert ends[1] == (str(hit.row_id) if hit.store == str(other.path) else "")
    assert {hit.store for hit in hits} == {str(other.path), str(store.path)}


def test_the_reader_that_stops_ends_it_without_a_word(store):
    with resident(store.path, "-", "--json") as process:
        ask(process, "I want an [apple].")
        process.stdout.close()
        process.stdin.write(b"I want an [apple].\n" * 2)
        process.stdin.close()
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


# --- a terminal -----------------------------------------------------------------------------------


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments):
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.environ["TERM"] = "dumb"
            os.execv(command()[0], command("search", *arguments))

    def expect(self, text):
        """Return what is shown up to a text."""
        shown = b""
        while text not in shown:
            assert select.select([self.terminal], [], [], PATIENCE)[0], shown
            shown += os.read(self.terminal, 1)
        return shown.decode()

    def send(self, keys):
        os.write(self.terminal, keys)

    def end(self):
        """Return what is shown last, and the exit status."""
        shown = b""
        while select.select([self.terminal], [], [], PATIENCE)[0]:
            try:
                shown += os.read(self.terminal, 1000)
            except OSError:  # the process has closed it
                break
        os.close(self.terminal)
        return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_on_a_terminal_a_prompt_asks_and_lines_can_be_edited(store):
    terminal = Terminal(store.path, "-", "-k", 2)
    terminal.expect(b"query> ")
    terminal.send("\nI want an [appleé\x7f].\n".encode())
    shown = terminal.expect(b"].\r\n") + terminal.expect(b"query> ")
    assert len(re.findall(r"many\.txt:", shown)) == 2
    assert "[apple]" not in shown.splitlines()[-2]
    terminal.send(b"[open\n")
    assert "'[open' do not pair up" in terminal.expect(b"do not pair up")
    terminal.expect(b"query> ")
    terminal.send(b"\x1b[A\x01\x0b\x04")  # the last query again, cleared; then the end of input
    shown, status = terminal.end()
    assert "1 of 2 queries have errors" in shown
    assert status == 3


def test_ctrl_c_in_a_query_ends_it_in_one_line(store):
    terminal = Terminal(store.path, "-")
    terminal.expect(b"query> ")
    terminal.send(b"I want an [app")
    terminal.expect(b"[app")
    terminal.send(b"\x03")
    # Python's line editor waits on if the signal comes in the moment in which it has handled a key.
    while not select.select([terminal.terminal], [], [], 1)[0]:
        terminal.send(b"\x03")
    shown, status = terminal.end()
    assert shown.split("\r\n")[-2:] == ["ctxbatch: stopped by SIGINT", ""]
    assert "Traceback" not in shown
    assert status == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--row", 5), "--row and - exclude each other"),
        (("--queries", "-"), "--queries and - exclude each other"),
        (("--csv", "a.csv"), "--csv and - exclude each other"),
        (("--parquet", "a.parquet"), "--parquet and - exclude each other"),
        (("a [word]",), "give either - or the query 'a [word]', not both"),
        (("-k", 0), "-k 0 must be 1 or more"),
        (("--context", -1), "--context -1 must be 0 or more"),
        (("--source", "*.pdf"), "--source '*.pdf' matches no source"),
        (("--model", "no-such-model"), "no-such-model"),
    ],
)
def test_what_cannot_be_is_refused_before_a_query_is_asked_for(store, cli, arguments, message):
    result = cli("search", store.path, "-", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
