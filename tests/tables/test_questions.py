"""The queries of the page on analytics run and find something."""

import re
import shlex
from pathlib import Path

import pytest

from ctxbatch import RunConfig
from tests.helpers.models import make_model
from tests.helpers.stores import make_store

PAGE = Path(__file__).parents[2] / "ctxbatch" / "guide" / "analytics.md"
QUERIES = [
    shlex.split(block)
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    if block.startswith("ctxbatch sql ")
]
SENTENCES = [
    "the/the/DET bank/bank/NOUN by/by/ADP the/the/DET river/river/NOUN",
    "we/we/PRON sat/sit/VERB by/by/ADP the/the/DET bank/bank/NOUN of/of/ADP the/the/DET river/river/NOUN",
    "the/the/DET banks/bank/NOUN want/want/VERB an/a/DET apple/apple/NOUN 漢字/漢字/X",
]


def conllu(sentences):
    """Sentences of form/lemma/upos, each with a year."""
    for number, sentence in enumerate(sentences):
        yield f"# year = {1895 + 4 * number}\n"
        for place, word in enumerate(sentence.split(), 1):
            form, lemma, upos = word.split("/")
            yield f"{place}\t{form}\t{lemma}\t{upos}" + "\t_" * 6 + "\n"
        yield "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the stores ``out`` and ``other``, as the page expects them."""
    folder = tmp_path_factory.mktemp("questions")
    model = make_model(folder / "model", "bert", num_hidden_layers=6)
    for name, sentences in {"letters": SENTENCES * 4, "novels": SENTENCES[:2] * 3}.items():
        (folder / f"{name}.conllu").write_text("".join(conllu(sentences)), encoding="utf-8")
    sources = [folder / "letters.conllu", folder / "novels.conllu"]
    config = RunConfig(model=str(model), keep_field=("year",))
    make_store(folder / "out", sources, config)
    make_store(folder / "other", sources[:1], config)
    return folder


def test_there_are_ten_questions():
    assert len(QUERIES) > 10


@pytest.mark.parametrize("command", QUERIES, ids=lambda command: re.sub(r"\W+", " ", command[-1])[:50])
def test_a_query_of_the_page_runs_and_finds_rows(command, folder, cli, monkeypatch):
    monkeypatch.chdir(folder)
    result = cli(*command[1:])
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) > 2
    as_json = cli(*command[1:], "--json")
    assert as_json.returncode == 0
    assert "null" not in as_json.stdout.replace('"doc_id": null', "")
