"""What the program prints and logs controls no terminal, and its ends are seen as what they are."""

import json
import logging
import re

import pytest

from ctxbatch import RunConfig
from ctxbatch.terminal import file_handler, json_line, printable
from tests.helpers.stores import make_store

HOSTILE = "a\x1b[2J\x07\x9b\x7f\u202e\u2066\u200f\u061c\u2028\u2029\nb"
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def hostile(tiny, tmp_path_factory):
    """A folder of inputs with a name that controls a terminal, its store, and the options of its run."""
    folder = tmp_path_factory.mktemp("hostile") / HOSTILE
    folder.mkdir()
    (folder / f"{HOSTILE}.xyz").write_bytes(b"\0")
    rows = [
        {"id": f"{HOSTILE}{n}", "text": f"The \x1b[1m apple \0\x9b {n} and \u202e an apple."}
        for n in range(9)
    ]
    (folder / f"{HOSTILE}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"no": 1}]))
    make_store(folder / "out", [folder], RunConfig(model=str(tiny()), layers=(1, 3), max_rejects=5))
    return folder, folder / "out", ["--model", tiny(), "--layers", "1,3"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["plan", "INPUT", "-o", "NEW"], 0),
        (["run", "INPUT", "-o", "OUT"], 3),
        (["status", "OUT"], 0),
        (["stats", "OUT"], 0),
        (["verify", "OUT"], 0),
        (["verify", "OUT", "--sources"], 0),
        (["search", "OUT", "The [apple] and an apple.", "--explain", "--context", "1"], 0),
        (["senses", "OUT", "apple", "--groups", "1"], 0),
        (["layers", "OUT", "apple"], 0),
        (["search", "OUT", f"The {HOSTILE} and."], 2),
        (["search", "OUT", f"The [apple] and {HOSTILE.replace('[', '')}."], 0),
        (["stats", f"OUT{HOSTILE}"], 2),
        (["senses", "OUT", HOSTILE], 2),
        ([HOSTILE], 2),
        (["search", f"--{HOSTILE}"], 2),
        (["run", "INPUT", "-o", "NEW", "--model", HOSTILE], 2),
    ],
    ids=lambda value: value[0][:9] if isinstance(value, list) else "",
)
def test_no_name_and_no_text_controls_the_terminal(hostile, cli, command, status):
    folder, out, options = hostile
    names = {"INPUT": folder, "OUT": out, "NEW": folder.parent / "new"}
    given = options if command[0] in ("run", "plan") and "--model" not in command else []
    done = cli(*(names.get(argument, argument) for argument in command), *given)
    assert done.returncode == status, done.stderr
    assert not OBEYED.search(done.stdout + done.stderr), done.stdout + done.stderr
    n_errors = len(done.stderr.splitlines())
    assert n_errors <= 1 or command[0] == "run", done.stderr


def test_a_log_has_a_line_for_each_record_whatever_names_hold(hostile, cli):
    folder, out, options = hostile
    cli("run", folder, "-o", out, *options)
    text = (out / "run.log").read_text(encoding="utf-8")
    assert not OBEYED.search(text)
    assert "skipped 1 files or folders" in text
    assert all(
        re.match(r"\d{4}-\d\d-\d\d .* (DEBUG|INFO|WARNING|ERROR) ", line) for line in text.splitlines()
    )


@pytest.mark.parametrize("command", ["search", "stats", "senses", "layers"])
def test_json_is_harmless_and_means_the_same(hostile, cli, command):
    _, out, _ = hostile
    queries = {
        "search": ["The [apple] and an apple."],
        "senses": ["apple", "--groups", "1"],
        "layers": ["apple"],
    }
    done = cli(command, out, *queries.get(command, []), "--json")
    assert done.returncode == 0, done.stderr
    assert not OBEYED.search(done.stdout)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if command == "search":
        assert found[0]["source"] == str(out.parent / f"{HOSTILE}.jsonl")
        assert HOSTILE in found[0]["doc_id"]
        assert "\x9b" in found[0]["text"]


def test_what_a_terminal_obeys_is_escaped_and_nothing_else():
    assert printable("é 漢字 😀 \u200d \\ ' é") == "é 漢字 😀 \u200d \\ ' é"
    assert printable("\x1b\x9b\n\0\u202e\udc80") == r"\x1b\x9b\n\x00\u202e\udc80"
    value = {"é": ["😀", *map(chr, range(0x3000))], "half": "\ud800"}
    assert json.loads(json_line(value)) == value
    assert not OBEYED.search(json_line(value))


def test_tracebacks_alone_have_lines_of_their_own_in_a_log(tmp_path):
    log = logging.Logger("of this test")
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        log.addHandler(file_handler(stream))
        try:
            raise ValueError("a\x1b\x9bb")
        except ValueError:
            log.exception("one\ntwo")
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith(r"ERROR one\ntwo")
    assert lines[1:3][0] == "Traceback (most recent call last):"
    assert lines[-1] == r"ValueError: a\x1b\x9bb"
