"""A few queries read as much of an index as finds nearly all; an answer says when nothing is near it."""

import json
import re
import shutil

import numpy as np
import pytest

import ctxbatch
from ctxbatch import Filters, RunConfig
from ctxbatch.files import write_json
from ctxbatch.sealed import read_json
from ctxbatch.search import index, index_build, index_tuning, new_queries
from ctxbatch.search.best_scores import BestScores, best_scores
from ctxbatch.search.exact import exact, normalised, scan
from ctxbatch.search.index import Effort, IndexOptions
from ctxbatch.search.index_files import open_index
from ctxbatch.search.index_tuning import Choices
from ctxbatch.store.reader import Store
from tests.helpers.brute import QUERIES, cosines, known, query_vectors
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store

COLUMN = "shift_3"


@pytest.fixture(scope="module")
def built(tiny, tmp_path_factory):
    """A store of some thousand rows with an index of many lists, of which many queries at once probe few."""
    folder = tmp_path_factory.mktemp("efforts")
    lines = [line for line in TEXT.splitlines() if line.strip()]
    text = "".join(f"{lines[n % len(lines)]} {n}\n" for n in range(400))
    (folder / "many.txt").write_text(text, encoding="utf-8")
    config = RunConfig(model=str(tiny()), shard_size=4000, layers=(3, 1))
    store = make_store(folder / "out", [folder / "many.txt"], config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_build, "SCAN_ROWS", 100)
        patch.setattr(index, "_SCANNED_ROWS", 0)
        patch.setattr(index, "_SCANNED_SHARE", 0)
        patch.setattr(index_tuning, "_THOROUGH_DEPTHS", (400, 3200))
        patch.setattr(index_tuning, "_PLAIN", Choices((0.001,), (20,)))
        index_build.build(store, COLUMN, IndexOptions(factory="IVF64,PQ8x4fs"))
    return Store(store.path)


@pytest.fixture
def store(built, monkeypatch):
    """The store, whose searches go through the index."""
    monkeypatch.setattr(index, "_SCANNED_ROWS", 0)
    monkeypatch.setattr(index, "_SCANNED_SHARE", 0)
    return built


def facts_of(store):
    return json.loads((store.path / "index" / f"{COLUMN}.json").read_text())


def recall(store, mode):
    """The share of the ten nearest rows of 300 rows that is found, the row itself among them."""
    vectors = normalised(store.column(COLUMN).take(np.arange(0, store.n_rows, store.n_rows // 300)))
    _, best = scan(store.column(COLUMN), vectors, 10)
    _, found = open_index(store, COLUMN).nearest(vectors, 10, None, mode)
    return np.mean(found >= best[:, 9:] - 2e-6)


def test_a_few_queries_find_what_many_at_once_miss(store):
    many, few = recall(store, "many"), recall(store, "few")
    assert many < 0.9
    assert few >= 0.99
    assert recall(store, "exact") == 1
    facts = facts_of(store)
    assert facts["thorough_recall_at_10"] >= 0.98
    assert facts["recall_at_10"] < facts["thorough_recall_at_10"]


def test_the_number_of_queries_decides_and_nothing_else(store, monkeypatch):
    searcher = ctxbatch.searcher(store)
    modes = []
    nearest = index.Index.nearest
    monkeypatch.setattr(
        index.Index, "nearest", lambda self, q, k, s, mode: modes.append(mode) or nearest(self, q, k, s, mode)
    )
    few = searcher.ask(QUERIES, 3)
    searcher.ask([5] * 32, 3)
    searcher.nearest(np.ones((32, 32), np.float32))
    assert {*modes} == {"few"}
    modes.clear()
    searcher.ask([5] * 33, 3)
    searcher.nearest(np.ones((33, 32), np.float32))
    assert {*modes} == {"many"}
    for query, answer in zip(QUERIES, few, strict=True):
        assert [hit.row_id for hit in searcher.search(query, 3)] == [hit.row_id for hit in answer.hits]


@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(unknown=True),
        Filters(same_word=True),
        Filters(other_words=True),
        Filters(words=("the", "bank")),
        Filters(exclude_words=("the", "bank")),
        Filters(sources=("many.txt",), min_score=0.2),
        Filters(where="length(word) > 4"),
        Filters(distinct="sentence"),
        Filters(distinct="word"),
        Filters(distinct="text"),
    ],
)
def test_exact_is_brute_force_with_every_filter(store, filters):
    searcher = ctxbatch.searcher(store, COLUMN)  # other words would be sought by contextual vectors
    words = np.array([word.casefold() for word in store.words.to_table()["word"].to_pylist()])
    sentences = store.words.to_table()["sentence_id"].to_numpy()
    texts = {row["sentence_id"]: row["text"].casefold() for row in store.sentences.to_table().to_pylist()}
    kinds = {"word": words, "sentence": sentences, "text": np.array([texts[each] for each in sentences])}
    for query in QUERIES[:4]:
        scores = cosines(store, COLUMN, query_vectors(searcher, query)[0]).round(6)
        marked = re.search(r"\[(.*)\]", query)[1].casefold()
        allowed = np.ones(len(scores), bool) if filters.unknown else known(store)
        if filters.same_word:
            allowed &= words == marked
        if filters.other_words:
            allowed &= words != marked
        if filters.words:
            allowed &= np.isin(words, filters.words)
        if filters.where:
            allowed &= np.char.str_len(words) > 4
        allowed &= ~np.isin(words, filters.exclude_words)
        allowed &= scores >= (-2 if filters.min_score is None else filters.min_score)
        order = np.flatnonzero(allowed)[np.argsort(-scores[allowed], kind="stable")]
        if filters.distinct is not None:
            keys = kinds[filters.distinct][order]
            order = order[np.sort(np.unique(keys, return_index=True)[1])]
        hits = searcher.search(query, 10, filters, exact=True)
        np.testing.assert_allclose([hit.score for hit in hits], scores[order[:10]], atol=2e-6)
    assert hits


def test_the_command_has_exact(store, cli):
    found = cli("search", store.path, QUERIES[0], "--exact", "--json", "-k", 5)
    hits = ctxbatch.searcher(store).search(QUERIES[0], 5, exact=True)
    assert [json.loads(line)["row_id"] for line in found.stdout.splitlines()] == [hit.row_id for hit in hits]


def test_an_index_of_before_is_searched_in_all_lists_for_a_few_queries(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "out")
    path = tmp_path / "out" / "index" / f"{COLUMN}.json"
    new = ("thorough", "thorough_filtered", "best_scores", "new_recall_at_10")
    new += ("thorough_recall_at_10", "thorough_new_recall_at_10")
    content = {name: value for name, value in read_json(path).items() if name not in (*new, "checksum")}
    write_json(path, content)
    older = Store(tmp_path / "out")
    assert open_index(older, COLUMN).efforts.thorough == Effort(2.0, 3200, 2.0)
    assert recall(older, "few") >= 0.99
    assert ctxbatch.searcher(older).ask([QUERIES[0]])[0].share_below is None


def test_beyond_a_number_of_rows_only_the_nearest_lists_are_probed():
    assert Choices.thorough(4096, 4_000_000).most_lists is None
    assert Choices.thorough(8192, 8_000_000).most_lists == 4096
    coarse = np.random.default_rng(0).random((5, 64), np.float32)
    lists, cosines_of = index._probed(coarse, Effort(2.0, 10, 2.0, most_lists=7))
    np.testing.assert_array_equal(np.sort(lists, axis=1), np.sort(np.argsort(-coarse, axis=1)[:, :7], axis=1))
    np.testing.assert_array_equal(np.take_along_axis(coarse, lists, 1), cosines_of)


# --- queries that are not in the store ------------------------------------------------------------


def test_an_index_is_tuned_for_sentences_that_the_store_does_not_hold(store):
    random = np.random.default_rng(3)
    queries = new_queries.new_queries(store, COLUMN, None, None, random)
    assert len(queries) > 100
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    _, best = scan(store.column(COLUMN), queries, 1)
    assert np.mean(best < 0.999) > 0.9
    again = new_queries.new_queries(store, COLUMN, None, None, np.random.default_rng(3))
    np.testing.assert_array_equal(again, queries)
    assert 0 < facts_of(store)["new_recall_at_10"] <= facts_of(store)["thorough_new_recall_at_10"] <= 1


def test_without_the_model_an_index_is_tuned_for_stored_rows_and_says_so(store, tmp_path, caplog):
    shutil.copytree(store.path, tmp_path / "out")
    copy = Store(tmp_path / "out")
    options = IndexOptions(factory="IVF64,PQ8x4fs")
    report = index_build.build(copy, COLUMN, options, str(tmp_path / "no such model"))
    assert report.recalls.new is None
    assert f"index on {COLUMN}: it is tuned for stored rows, not for new sentences" in caplog.text
    assert "new sentences" not in str(report)
    assert Store(copy.path).n_rows == len(open_index(Store(copy.path), COLUMN)._column)


# --- nothing like this ----------------------------------------------------------------------------


def test_best_scores_are_those_of_rows_whose_sentences_are_left_out(store):
    vectors = normalised(store.column(COLUMN).take(np.arange(store.n_rows)))
    scores = (vectors @ vectors.T).round(6)
    sentences = store.words.to_table()["sentence_id"].to_numpy()
    scores[sentences[:, None] == sentences] = -1
    best = scores.max(axis=1)[known(store)]
    column = store.column(COLUMN)
    kept = best_scores(lambda q, k: exact(column, q, k, None), store, column, np.random.default_rng(0))
    np.testing.assert_allclose(kept.every, np.percentile(best, range(101)), atol=1e-3)
    words = np.array([word.casefold() for word in store.words.to_table()["word"].to_pylist()])[known(store)]
    names, counts = np.unique(words, return_counts=True)
    assert {*kept.by_word} == {*names[counts >= 100]} != set()
    for word, found in kept.by_word.items():
        np.testing.assert_allclose(found, np.percentile(best[words == word], range(101)), atol=1e-3)
    assert {*open_index(store, COLUMN).best_scores.by_word} == {*kept.by_word}


def test_an_answer_says_where_its_best_hit_stands():
    scores = BestScores(tuple(n / 100 for n in range(101)), {"bank": (0.9,) * 100 + (1.0,)})
    assert scores.share_below("apple", 0.25) == pytest.approx(0.25)
    assert scores.share_below("apple", -0.5) == 0
    assert scores.share_below("Bank", 0.89) == 0
    assert scores.share_below("bank", 1.0) == 1


def test_the_command_says_where_the_best_hit_stands(store, tmp_path, cli):
    row = int(store.row_ids()[np.flatnonzero(known(store))[5]])
    share = ctxbatch.searcher(store).ask([row])[0].share_below
    assert share >= 0.05
    found = cli("search", store.path, "--row", row)
    assert f"nearer than those of {100 * share:.0f} % of the corpus's own words" in found.stderr
    shutil.copytree(store.path, tmp_path / "out")
    path = tmp_path / "out" / "index" / f"{COLUMN}.json"
    content = read_json(path)
    content["best_scores"] = {"every": [1.0] * 101, "by_word": {}}
    write_json(path, content)
    found = cli("search", tmp_path / "out", QUERIES[3])
    assert "nothing like this in the corpus: the best hit is farther than those of 100 % of" in found.stderr
    assert len(found.stdout.splitlines()) == 10


def test_only_searches_among_all_rows_say_it(store):
    searcher = ctxbatch.searcher(store)
    (answer,) = searcher.ask([QUERIES[1]])
    expected = open_index(store, COLUMN).best_scores.share_below("bank", answer.hits[0].score)
    assert answer.share_below == pytest.approx(expected)
    assert answer.nothing_like_this == (expected < 0.05)
    assert {row["query_share_below"] for row in answer.rows()} == {round(expected, 4)}
    for filters in (Filters(same_word=True), Filters(words=("bank",)), Filters(sources=("many.txt",))):
        assert searcher.ask([QUERIES[1]], filters=filters)[0].share_below is None
    assert searcher.ask([QUERIES[1]], filters=Filters(distinct="sentence"))[0].share_below is not None
