"""The guide command lists every page, shows each, and answers a wrong topic with the topics."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from ctxbatch import InputError, terminal
from ctxbatch.cli.guide import TOPICS, first_sentence, read_page
from tests.helpers.terminals import on_a_terminal

FOLDER = Path(__file__).parents[2] / "ctxbatch" / "guide"


def test_every_page_is_a_topic_and_is_listed(cli):
    assert sorted(TOPICS) == sorted(path.stem for path in FOLDER.iterdir())
    listed = cli("guide")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(TOPICS)
    for line, topic in zip(listed.stdout.splitlines(), TOPICS, strict=True):
        assert line.endswith(first_sentence(read_page(topic)))


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_a_title_and_a_sentence_that_fits_a_line(topic):
    title, first, *rest = read_page(topic).split("\n\n")
    assert re.fullmatch(r"# [A-Z]\S*( \S+)*", title)
    assert first.endswith(".")
    assert len(first_sentence(read_page(topic))) < 90
    assert rest


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_holds_nothing_that_controls_a_terminal(topic):
    lines = read_page(topic).splitlines()
    assert [terminal.printable(line) for line in lines] == lines


def test_without_a_terminal_a_page_is_printed_as_it_is(cli):
    shown = cli("guide", "vectors")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == (FOLDER / "vectors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("topic", "close"), [("vectrs", "vectors"), ("Object_Storage", "object-storage"), ("qqq", None)]
)
def test_a_wrong_topic_is_answered_with_the_topics(cli, topic, close):
    wrong = cli("guide", topic)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    (line,) = wrong.stderr.splitlines()
    assert ", ".join(TOPICS) in line
    assert (f"did you mean {close}?" in line) if close else ("did you mean" not in line)


def test_a_topic_is_no_path():
    for topic in ("../guide/vectors", "vectors.md", ""):
        with pytest.raises(InputError):
            read_page(topic)


def test_pages_are_in_the_package():
    pages = resources.files("ctxbatch") / "guide"
    assert {page.name for page in pages.iterdir()} == {f"{topic}.md" for topic in TOPICS}


def test_the_guide_is_shown_without_loading_what_it_does_not_need():
    code = (
        "import sys; sys.argv = ['ctxbatch', 'guide', 'vectors']\n"
        "from ctxbatch.cli.main import main\n"
        "try: main()\n"
        "finally: print({'torch', 'pyarrow', 'numpy', 'transformers'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_on_a_terminal_a_page_is_rendered_and_a_long_one_is_paged():
    pager = "sed 's/^/PAGED /'"
    paged, status = on_a_terminal("guide", "vectors", rows=20, PAGER=pager)
    assert status == 0
    assert all(line.startswith("PAGED ") for line in paged.splitlines())
    whole, status = on_a_terminal("guide", "vectors", rows=1000, PAGER=pager)
    assert status == 0
    assert "PAGED" not in whole
    assert paged.replace("PAGED ", "") == whole
    assert "\x1b[" in whole
    assert "**" not in whole
    assert "ctxbatch guide speed" in re.sub(r"\x1b\[[\d;]*m|\s+", " ", whole).replace("  ", " ")


def test_a_terminal_without_colours_gets_none():
    plain, _ = on_a_terminal("guide", "python", rows=1000, NO_COLOR="1", PAGER="cat")
    assert not re.search(r"\x1b\[[\d;]*3\d", plain)
