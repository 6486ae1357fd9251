"""Hits of the same text fold to one where texts are to be distinct, as brute force folds them."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import ctxbatch
from ctxbatch import Filters, RunConfig
from ctxbatch.search import index, index_build
from ctxbatch.search.searcher import Searcher
from ctxbatch.store.reader import Store
from tests.helpers.brute import cosines, known, query_vectors
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store

pytestmark = pytest.mark.usefixtures("quick_indexes")

QUERIES = {"The [bank] by the river": "bank", "[The] old door": "the", "I want an [apple].": "apple"}
LINES = [line.strip() for line in TEXT.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def stores(tiny, tmp_path_factory):
    """Two stores of several sources, in which many lines repeat, and one line more often than all others."""
    made = []
    for number in range(2):
        folder = tmp_path_factory.mktemp("corpus")
        for source in range(3):
            repeated = [*LINES[number : 9 : source + 1], "The bank was closed."] * (source + 1)
            own = [f"{LINES[n % len(LINES)]} {number}{source}{n}" for n in range(12)]
            (folder / f"{source}.txt").write_text("\n".join([*repeated, *own, *repeated[:5]]))
        out = tmp_path_factory.mktemp("store") / "out"
        made.append(make_store(out, [folder], RunConfig(model=str(tiny()), shard_size=900, precision="fp32")))
    return made


@pytest.fixture
def indexed(stores, tmp_path, monkeypatch):
    """The same stores with indexes, which propose rows although the stores are small."""
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    monkeypatch.setattr(index, "_SCANNED_ROWS", 0)
    monkeypatch.setattr(index, "_SCANNED_SHARE", 0)
    copies = []
    for number, store in enumerate(stores):
        shutil.copytree(store.path, tmp_path / str(number))
        index_build.build(Store(tmp_path / str(number)), "shift_2")
        copies.append(Store(tmp_path / str(number)))
    assert not Searcher(copies, "shift").unindexed()
    return copies


def ranked(searcher, stores, query):
    """All rows that the model knows as (score, store, row), best first, ties by place."""
    (vector,) = query_vectors(searcher, query)
    every = []
    for number, store in enumerate(stores):
        scores = cosines(store, searcher.column, vector).round(6).tolist()
        rows = store.rows(np.arange(store.n_rows))
        every += [
            (score, number, row)
            for score, row, is_known in zip(scores, rows, known(store), strict=True)
            if is_known
        ]
    return sorted(every, key=lambda each: -each[0])


def folded(every, k, allowed):
    """The best row of each text as (score, text, copies), one row after another."""
    best, last = {}, None
    for score, store, row in every:
        if not allowed(row):
            continue
        if len(best) == k and score < last:
            break
        if row["text"] not in best and len(best) < k:
            best[row["text"]], last = (score, set()), score
        if row["text"] in best:
            best[row["text"]][1].add((store, row["sentence_id"]))
    return [(score, text, len(places) - 1) for text, (score, places) in best.items() if places]


def check(stores, k, filters, allowed):
    searcher = Searcher(stores, "shift")
    n_copies = 0
    for query, word in QUERIES.items():
        every = ranked(searcher, stores, query)
        expected = folded(every, k, lambda row, word=word: allowed(row, word))
        hits = searcher.search(query, k, Filters(distinct="text", **filters))
        assert len({hit.text for hit in hits}) == len(hits) == len(expected)
        np.testing.assert_allclose([hit.score for hit in hits], [each[0] for each in expected], atol=2e-6)
        # The copies of the last text may score less in the seventh digit only.
        found = {hit.text: hit.copies for hit in hits if hit.score > hits[-1].score + 1e-5}
        wanted = {text: copies for _, text, copies in expected}
        assert found == {text: wanted[text] for text in found}
        n_copies += sum(found.values())
    assert n_copies or k == 1


@pytest.mark.parametrize("k", [1, 5, 40, 10**4])
@pytest.mark.parametrize("numbers", [(0,), (0, 1), (1, 0)])
def test_hits_of_the_same_text_are_one_in_all_sources_and_stores(stores, k, numbers):
    check([stores[number] for number in numbers], k, {}, lambda _row, _word: True)


def test_an_index_proposes_the_same_texts(indexed):
    check(indexed, 6, {}, lambda _row, _word: True)
    check(indexed, 6, {"same_word": True}, lambda row, word: row["word"].casefold() == word)


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        ({"same_word": True}, lambda row, word: row["word"].casefold() == word),
        ({"sources": ("2.txt",)}, lambda row, _word: row["source"].endswith("2.txt")),
        ({"words": ("the", "of")}, lambda row, _word: row["word"].casefold() in ("the", "of")),
    ],
)
def test_texts_are_distinct_among_the_rows_that_filters_allow(stores, filters, allowed):
    check(stores, 8, filters, allowed)


def test_only_texts_that_score_enough_are_found(stores):
    searcher = Searcher(stores, "shift")
    for query in QUERIES:
        every = searcher.search(query, 10**4, Filters(distinct="text"))
        middle = every[len(every) // 2].score
        some = searcher.search(query, 10**4, Filters(distinct="text", min_score=middle))
        assert [hit.row_id for hit in some] == [hit.row_id for hit in every if hit.score >= middle]


def test_a_text_that_stands_more_often_than_rows_are_ranked_at_first_hides_no_other(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("The bank was closed.\n" * 150 + "\n".join(LINES))
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny()), precision="fp32"))
    one, two = ctxbatch.searcher(store).search(
        "The [bank] was closed.", 2, Filters(distinct="text", same_word=True)
    )
    assert (one.text, one.copies) == ("The bank was closed.", 149)
    assert two.text != one.text


def test_the_command_shows_how_many_sentences_have_a_text(stores, cli, tmp_path):
    paths = [store.path for store in stores]
    asked = ("search", *paths, "The [bank] was closed.", "--distinct", "text", "-k", 3)
    result = cli(*asked, "--json", "--parquet", tmp_path / "hits.parquet")
    hits = [json.loads(line) for line in result.stdout.splitlines()]
    assert hits[0]["copies"] == sum("The bank was closed." in each["text"] for each in sentences(stores)) - 1
    assert pq.read_table(tmp_path / "hits.parquet")["copies"].to_pylist() == [hit["copies"] for hit in hits]
    shown = cli(*asked).stdout.splitlines()
    assert f" +{hits[0]['copies']}" in shown[0]
    without = cli("search", *paths, "The [bank] was closed.", "--json").stdout.splitlines()
    assert all("copies" not in json.loads(line) for line in without)


def sentences(stores):
    return [row for store in stores for row in store.sentences.to_table(columns=["text"]).to_pylist()]
