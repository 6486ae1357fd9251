"""Every combination of filters finds what brute force with the same conditions finds."""

import itertools
import json
import shutil

import numpy as np
import pytest

import ctxbatch
from ctxbatch import Filters, InputError, RunConfig
from ctxbatch.search import index, index_build
from ctxbatch.search.searcher import Searcher
from ctxbatch.store.reader import Store
from tests.helpers.brute import cosines, query_vectors
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store

pytestmark = pytest.mark.usefixtures("quick_indexes")

# The model does not know the last one.
QUERIES = {"The [bank] by the river": "bank", "[The] old door": "the", "and [漢字] in one line": "漢字"}
CONDITIONS = (
    ({}, {"words": ("DOOR", "the", "bank")}),
    ({}, {"exclude_words": ("Bank", "of")}),
    ({}, {"sources": ("*.txt",)}, {"sources": ("*b.jsonl", "nothing*/a.txt")}),
    ({}, {"docs": ("d1", "d3")}),
    ({}, {"unknown": True}),
    ({}, {"min_score": 0.2}),
    ({}, {"distinct": "sentence"}, {"distinct": "text"}, {"distinct": "document"}, {"distinct": "word"}),
    ({}, {"same_word": True}, {"other_words": True}),
)
COMBINATIONS = [
    dict(itertools.chain.from_iterable(each.items() for each in some))
    for some in itertools.product(*CONDITIONS)
]


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = [line for line in TEXT.splitlines() if line.strip()]
    texts = [f"{lines[n % len(lines)]} {n}" for n in range(90)]
    (folder / "nothing").mkdir()
    (folder / "nothing" / "a.txt").write_text("\n".join(texts[:45]))
    rows = [json.dumps({"id": f"d{n % 5}", "text": text}) for n, text in enumerate(texts[45:])]
    (folder / "b.jsonl").write_text("\n".join(rows))
    out = tmp_path_factory.mktemp("store") / "out"
    return make_store(out, [folder], RunConfig(model=str(tiny()), shard_size=1500))


@pytest.fixture(scope="module")
def rows(store):
    table = store.rows(np.arange(store.n_rows))
    return [{**row, "folded": row["word"].casefold()} for row in table]


def brute(rows, every, word, k, same_word=False, other_words=False, words=(), exclude_words=(), sources=(),
          docs=(), unknown=False, min_score=-1.0, distinct=None):  # fmt: skip
    """Scores of the best rows that fulfil the conditions, one condition after another."""
    folded = [word.casefold() for word in words]
    excluded = [word.casefold() for word in exclude_words]
    ends = {("*.txt",): (".txt",), ("*b.jsonl", "nothing*/a.txt"): ("b.jsonl", "nothing/a.txt")}
    scores, seen = [], set()
    for number in np.lexsort((np.arange(len(every)), -every.round(6))):
        row = rows[number]
        key = {
            None: number,
            "sentence": row["sentence_id"],
            "text": row["text"],
            "document": (row["source"], row["doc_id"]),
            "word": row["folded"],
        }[distinct]
        if (
            (not same_word or row["folded"] == word)
            and (not other_words or row["folded"] != word)
            and (not words or row["folded"] in folded)
            and row["folded"] not in excluded
            and (not sources or row["source"].endswith(ends[sources]))
            and (not docs or row["doc_id"] in docs)
            and (unknown or row["known"])
            and every[number] >= min_score
            and key not in seen
        ):
            seen.add(key)
            scores.append(every[number])
    return scores[:k]


def check(searcher, store, rows, tolerance=0.0):
    found = wanted = 0
    by_row = dict(zip(store.row_ids().tolist(), range(store.n_rows), strict=True))
    assert 0 < sum(not row["known"] for row in rows) < len(rows) / 10
    for number, (query, word) in enumerate(QUERIES.items()):
        every = cosines(store, searcher.column, query_vectors(searcher, query)[0])
        for combination in COMBINATIONS[number % 2 :: 7]:  # every condition meets every query
            hits = searcher.search(query, 12, Filters(**combination))
            expected = brute(rows, every, word, 12, **combination)
            for hit in hits:
                assert abs(every[by_row[hit.row_id]] - hit.score) < 1e-3
            if not tolerance:
                np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)
            assert len(hits) == len(expected) or (tolerance and "min_score" in combination), combination
            found += sum(hit.score >= expected[-1] - 1e-5 for hit in hits)
            wanted += len(expected)
    assert found >= (1 - tolerance) * wanted


def check_batch(searcher):
    """Known and unknown queries, answered together, find what each finds alone."""
    for combination in ({}, {"unknown": True}, {"distinct": "word"}, {"min_score": 0.5, "docs": ("d1",)}):
        filters = Filters(**combination)
        for answer, query in zip(searcher.ask([*QUERIES], 7, filters), QUERIES, strict=True):
            assert answer.known == ("漢字" not in query)
            assert [hit.row_id for hit in answer.hits] == [
                hit.row_id for hit in searcher.search(query, 7, filters)
            ]


def test_filters_agree_with_brute_force_where_rows_are_compared_one_by_one(store, rows):
    check(ctxbatch.searcher(store, "shift"), store, rows)
    check_batch(ctxbatch.searcher(store))


def test_filters_agree_with_brute_force_where_an_index_proposes(store, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    monkeypatch.setattr(index, "_SCANNED_ROWS", 0)
    monkeypatch.setattr(index, "_SCANNED_SHARE", 0)
    out = tmp_path / "out"
    shutil.copytree(store.path, out)
    index_build.build(Store(out), "shift_2")
    check(Searcher([Store(out)], "shift"), Store(out), rows, tolerance=0.05)
    check_batch(Searcher([Store(out)]))


def test_hits_of_several_stores_are_distinct_together(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "copy")
    both = Searcher([store, Store(tmp_path / "copy")])
    query, *_ = QUERIES
    hits = both.search(query, 20, Filters(distinct="word"))
    assert len({hit.word.casefold() for hit in hits}) == len(hits) == 20
    alone = [hit.score for hit in ctxbatch.searcher(store).search(query, 20, Filters(distinct="word"))]
    np.testing.assert_allclose([hit.score for hit in hits], alone, atol=1e-6)


@pytest.mark.parametrize("others", [{}, {"same_word": True}, {"sources": ("*.txt",), "distinct": "word"}])
def test_only_hits_of_at_least_the_score_are_found_in_several_stores(store, rows, tmp_path, others):
    shutil.copytree(store.path, tmp_path / "copy")
    both = Searcher([store, Store(tmp_path / "copy")])
    for query, word in QUERIES.items():
        every = cosines(store, both.column, query_vectors(both, query)[0])
        expected = brute(rows, every, word, store.n_rows, **others)
        copies = 1 if "distinct" in others else 2
        expected = [score for score in expected for _ in range(copies)]
        for score in {0.0, *(round(score, 6) for score in expected[:: len(expected) // 4 + 1])}:
            (answer,) = both.ask([query], 10**5, Filters(min_score=score, **others))
            assert all(hit.score >= score for hit in answer.hits)
            # A float64 score this near to the limit may round to either side.
            assert len(answer.hits) >= sum(each >= score + 1e-5 for each in expected)
            assert len(answer.hits) <= sum(each >= score - 1e-5 for each in expected)


def test_an_answer_knows_the_best_score_that_was_too_low(store, rows):
    searcher = ctxbatch.searcher(store, "shift")
    (query, word), *_ = QUERIES.items()
    every = cosines(store, searcher.column, query_vectors(searcher, query)[0])
    for others in ({"other_words": True}, {"docs": ("d1",), "distinct": "word"}):
        best, *_ = brute(rows, every, word, 1, **others)
        (answer,) = searcher.ask([query], 10, Filters(min_score=1.0, **others))
        assert not answer.hits
        assert abs(answer.best_score - best) < 1e-5
        (same,) = searcher.ask([query], 10, Filters(min_score=answer.best_score, **others))
        assert same.hits[0].score == same.best_score == answer.best_score
    (none,) = searcher.ask([query], 10, Filters(min_score=1.0, docs=("no such document",)))
    assert (none.hits, none.best_score) == ([], None)


def test_the_command_names_the_best_score_that_was_too_low(store, cli):
    query, *_ = QUERIES
    asked = ("search", store.path, query, "--other-words", "--json")
    best = json.loads(cli(*asked, "-k", 1).stdout)["score"]
    none = cli(*asked, "--min-score", 1)
    assert (none.returncode, none.stdout) == (0, "")
    assert f"no hit: the best score is {best}, below --min-score 1.0" in none.stderr
    assert json.loads(cli(*asked, "--min-score", best).stdout.splitlines()[0])["score"] == best


def test_the_command_names_the_word_that_the_store_lacks(store, cli):
    none = cli("search", store.path, "A [zebra] wants an apple.", "--same-word")
    assert none.returncode == 0, none.stderr
    assert "no hit: no occurrence of 'zebra' passes the filters: leave out --same-word" in none.stderr


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"same_word": True, "other_words": True}, "exclude each other"),
        ({"min_score": 1.5}, "--min-score 1.5 must be a cosine"),
        ({"distinct": "line"}, "--distinct 'line' must be one of sentence, text, document, word"),
    ],
)
def test_impossible_filters_are_refused(filters, message):
    with pytest.raises(InputError, match=message):
        Filters(**filters)
