"""Searches compare words by one identity, know those that the model does not, and say what a query asks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ctxbatch
from ctxbatch import Filters, InputError, RunConfig, StoreError
from ctxbatch.analysis import layers
from ctxbatch.analysis.senses import find_senses
from ctxbatch.search import index, index_build
from ctxbatch.search.hits import hits_table
from tests.helpers.stores import make_store

pytestmark = pytest.mark.usefixtures("quick_indexes")

BEFORE = Path(__file__).parents[1] / "data" / "store_of_0.1"
SPELLINGS = [
    ("caf\u00e9", "Cafe\u0301"),
    ("don\u2019t", "don't"),
    ("so\u00adft", "Soft"),
    ("river", "RIVER"),
]


@pytest.fixture(scope="module")
def spelled(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spelled")
    lines = [f"The old {word} was here." for pair in SPELLINGS for word in pair]
    (folder / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    return make_store(folder / "out", [folder / "a.txt"], RunConfig(model=str(tiny())))


@pytest.mark.parametrize("pair", SPELLINGS)
def test_spellings_of_a_word_are_one_word_everywhere(spelled, pair):
    """Also where the model knows only one of them."""
    searcher = ctxbatch.searcher(spelled)
    for word in pair:
        query = f"The [{word}] was old."
        for only in ({"same_word": True}, {"words": (word,)}):
            hits = searcher.search(query, 99, Filters(**only, unknown=True))
            assert {hit.word for hit in hits} == {*pair}
        for without in ({"other_words": True}, {"exclude_words": (word,)}):
            hits = searcher.search(query, 99, Filters(**without, unknown=True))
            assert len(hits) == spelled.n_rows - 2
        (one,) = searcher.search(query, 99, Filters(words=pair, distinct="word", unknown=True))
        assert one.word in pair
        assert find_senses(spelled, word, n_groups=1).occurrences == 2
    (trend,) = layers.measure(spelled, pair).trends
    assert trend.occurrences + trend.unknown_occurrences == 2


def test_a_word_is_found_with_the_punctuation_that_people_write(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("I want the U.S. card.\nI want the well-known card.\n")
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny())))
    searcher = ctxbatch.searcher(store)
    for written, word in (("U.S.", "U.S"), ("u.s", "U.S"), ('"card"', "card"), ("known,", "known")):
        hits = searcher.search("I want the [card].", 99, Filters(words=(written,), unknown=True))
        assert {hit.word for hit in hits} == {word}, written
    with pytest.raises(InputError, match="--word 'well-known' does not occur in "):
        searcher.search("I want the [card].", 99, Filters(words=("well-known",), unknown=True))
    (tmp_path / "b.txt").write_text("I want the pear.\n")
    other = make_store(tmp_path / "other", [tmp_path / "b.txt"], RunConfig(model=str(tiny())))
    both = ctxbatch.searcher([store, other])
    hits = both.search("I want the [card].", 99, Filters(words=("U.S.", "pear"), unknown=True))
    assert {hit.word for hit in hits} == {"U.S", "pear"}


# --- words that the model does not know -----------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tiny, tmp_path_factory):
    """A store of which the model knows less than half of the rows; the words are \u5b57 and others."""
    folder = tmp_path_factory.mktemp("mixed")
    lines = [f"old \u5b57 bank \u5b57 river \u5b57 {n} \u5b57" for n in range(40)]
    (folder / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    return make_store(folder / "out", [folder / "a.txt"], RunConfig(model=str(tiny())))


@pytest.mark.parametrize("indexed", [False, True])
def test_unknown_words_are_found_only_where_they_are_asked_for(mixed, indexed, monkeypatch, tmp_path):
    import shutil

    from ctxbatch.store.reader import Store

    shutil.copytree(mixed.path, tmp_path / "out")
    store = Store(tmp_path / "out")
    if indexed:
        monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
        monkeypatch.setattr(index, "_SCANNED_ROWS", 0)
        monkeypatch.setattr(index, "_SCANNED_SHARE", 0)
        assert index_build.build(store, "shift_2").path is not None
    searcher = ctxbatch.searcher(store)
    n_known = int(np.count_nonzero(store.words.to_table(columns=["known"])["known"].to_numpy()))
    for query in ("the old [bank]", "an old [\u5b57]"):
        for k in (5, n_known, 10**4):
            hits = searcher.search(query, k)
            assert len({hit.row_id for hit in hits}) == min(k, n_known)
            assert "\u5b57" not in {hit.word for hit in hits}
        assert len(searcher.search(query, 10**4, Filters(unknown=True))) == store.n_rows
    assert searcher.search("an old [\u5b57]", 5, Filters(same_word=True)) == []
    hits = searcher.search("an old [\u5b57]", 5, Filters(same_word=True, unknown=True))
    assert {hit.word for hit in hits} == {"\u5b57"}


def test_of_wordpieces_only_the_unknown_are_left_out(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("unbelievable\u5b57 things\n", encoding="utf-8")
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny()), pool="none"))
    known = store.words.to_table(columns=["known"])["known"].to_numpy()
    hits = ctxbatch.searcher(store).search("[things] happen", 99)
    assert {hit.row_id for hit in hits} == {*store.row_ids()[known].tolist()}
    assert 0 < known.sum() < store.n_rows


def test_the_command_finds_unknown_words_and_says_what_a_vector_is_of(mixed, cli):
    told = "ctxbatch: the model does not know '\u5b57': its vector is that of any unknown text\n"
    for options, unknown in (((), set()), (("--unknown",), {"\u5b57"})):
        found = cli("search", mixed.path, "an old [\u5b57]", "-k", 5, "--json", *options)
        assert found.stderr == told
        rows = [json.loads(line) for line in found.stdout.splitlines()]
        assert {row["word"] for row in rows} & {"\u5b57"} == unknown
        assert {(row["query_known"], row["query_widened"]) for row in rows} == {(False, False)}
    row = int(mixed.row_ids()[1])
    assert cli("search", mixed.path, "--row", row, "-k", 1).stderr == told
    assert cli("search", mixed.path, "an old [bank]", "-k", 1).stderr == ""


@pytest.mark.parametrize(
    ("query", "word", "widened"),
    [
        ("[un]believable things", "unbelievable", True),
        ("unbelievable thing[s]", "things", True),
        ("[unbelievable] things", "unbelievable", False),
        ("the [old ]bank", "old", False),
        ("  the [New] York", "New", False),
    ],
)
def test_a_mark_of_a_part_is_widened_to_the_whole_word_and_said(spelled, cli, query, word, widened):
    (answer,) = ctxbatch.searcher(spelled).ask([query], 2)
    assert (answer.word, answer.widened, answer.known) == (word, widened, True)
    assert hits_table([answer])["query_widened"].to_pylist() == [widened] * 2
    found = cli("search", spelled.path, query, "-k", 1)
    told = f"ctxbatch: the mark is a part of {word!r}: searching for the whole word\n"
    assert found.stderr == (told if widened else "")


# --- words that span several ----------------------------------------------------------------------


def test_a_query_for_a_phrase_of_the_store_is_one_word(tiny, tmp_path, cli):
    lines = ["I love New York a lot.", "I love New\nYork a lot.", "The old bank stood there.", "New is York."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    config = RunConfig(model=str(tiny()), words=("New York", "bank"), split="none")
    store = make_store(tmp_path / "out", [tmp_path / "a.jsonl"], config)
    searcher = ctxbatch.searcher(store)
    for query in ("I love [New York] a lot.", "I love [New] York a lot."):
        (answer,) = searcher.ask([query], 9, Filters(same_word=True))
        assert (answer.word, answer.widened) == ("New York", "[New]" in query)
        assert [hit.word for hit in answer.hits] == ["New York", "New\nYork"]
        np.testing.assert_allclose([hit.score for hit in answer.hits], 1, atol=1e-3)
    found = cli("search", store.path, "an old [bank]", "--word", "new  york", "--json")
    assert [json.loads(line)["word"] for line in found.stdout.splitlines()] == ["New York", "New\nYork"]
    assert find_senses(store, "new york", n_groups=1).occurrences == 2


# --- stores of several versions -------------------------------------------------------------------


def test_stores_whose_words_are_found_by_other_rules_are_not_searched_together(tmp_path, cli):
    config = RunConfig(model=str(BEFORE / "model"), layers=(3, 1), shift="log_ratio")
    store = make_store(tmp_path / "out", [BEFORE / "text.txt"], config)
    for stores in ([BEFORE / "out", store.path], [store.path, BEFORE / "out"]):
        with pytest.raises(StoreError, match="cannot be searched together: their words were found by"):
            ctxbatch.searcher(stores)
    refused = cli("search", BEFORE / "out", store.path, "an [apple]")
    assert refused.stderr == (
        f"ctxbatch: {BEFORE / 'out'} and {store.path} cannot be searched together: their words were found by "
        "the tokenizer and by rule 1 of Unicode's word boundaries\n"
    )


def test_versions_of_libraries_do_not_keep_stores_apart(spelled):
    newer = replace(spelled.config, versions={**spelled.config.versions, "tokenizers": "99.0"})
    assert newer.fingerprint != spelled.config.fingerprint
    assert newer.meaning() == spelled.config.meaning()
