"""A search under a condition in SQL finds what brute force finds among the rows that meet it."""

import json

import numpy as np
import pytest

import ctxbatch
from ctxbatch import Filters, InputError, RunConfig
from ctxbatch.analysis.senses import find_senses
from ctxbatch.search import index, index_build
from ctxbatch.search.searcher import Searcher
from ctxbatch.store.reader import Store
from tests.helpers.brute import cosines, query_vectors
from tests.helpers.models import PLAIN_TEXT
from tests.helpers.stores import make_store, rows_of

pytestmark = pytest.mark.usefixtures("quick_indexes")

QUERY = "The [bank] by the river"
CONDITIONS = [
    ("year >= 1900", lambda row: (row["sentence"]["year"] or 0) >= 1900),
    ("year IS NULL AND n_pieces = 1", lambda row: row["sentence"]["year"] is None and row["n_pieces"] == 1),
    ("word IN ('the', 'want')", lambda row: row["word"] in ("the", "want")),
    ("NOT year < 1900 -- NULL is no match", lambda row: (row["sentence"]["year"] or 0) >= 1900),
    ("false", lambda _: False),
]


def make(folder, tiny, n, name="out"):
    lines = [line for line in PLAIN_TEXT.splitlines() if line.strip()]
    rows = [
        {"id": f"d{k % 5}", "text": f"{lines[k % len(lines)]} {k}", "year": 1890 + k % 20 if k % 6 else None}
        for k in range(n)
    ]
    (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = RunConfig(model=str(tiny()), shard_size=2000, keep_field=("year",))
    return make_store(folder / name, [folder / f"{name}.jsonl"], config)


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    return make(tmp_path_factory.mktemp("store"), tiny, 90)


def expected(searcher, store, holds):
    """The scores of the rows that meet a condition, best first."""
    every = cosines(store, searcher.column, query_vectors(searcher, QUERY)[0])
    return np.sort(
        [score for score, row in zip(every, rows_of(store), strict=True) if row["known"] and holds(row)]
    )[::-1]


@pytest.mark.parametrize(
    ("where", "holds"), CONDITIONS, ids=lambda each: each if isinstance(each, str) else ""
)
def test_an_exact_search_equals_brute_force(store, where, holds):
    searcher = Searcher([store])
    scores = [hit.score for hit in searcher.search(QUERY, 15, Filters(where=where))]
    np.testing.assert_allclose(scores, expected(searcher, store, holds)[:15], atol=1e-5)


def test_a_search_by_an_index_finds_only_rows_that_meet_the_condition(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    monkeypatch.setattr(index, "_SCANNED_ROWS", 0)
    monkeypatch.setattr(index, "_SCANNED_SHARE", 0)
    indexed = make(tmp_path, tiny, 90)
    searcher = Searcher([indexed])
    index_build.build(indexed, searcher.column)
    searcher = Searcher([Store(indexed.path)])
    assert not searcher.unindexed()
    every = {row["row_id"]: row for row in rows_of(indexed)}
    for where, holds in CONDITIONS[:4]:
        hits = searcher.search(QUERY, 12, Filters(where=where))
        assert all(holds(every[hit.row_id]) for hit in hits)
        best = expected(searcher, indexed, holds)[:12]
        assert len(hits) == len(best)
        assert sum(hit.score >= best[-1] - 1e-5 for hit in hits) >= 0.9 * len(best)


def test_a_condition_combines_with_all_other_filters(store):
    rows = {row["row_id"]: row for row in rows_of(store)}
    searcher = Searcher([store])
    others = {"docs": ("d1", "d2"), "exclude_words": ("the",), "min_score": 0.0, "distinct": "sentence"}
    hits = searcher.search(QUERY, 500, Filters(where="year >= 1900", **others))
    without = searcher.search(QUERY, 500, Filters(**{**others, "distinct": None}))
    allowed = [hit for hit in without if (rows[hit.row_id]["sentence"]["year"] or 0) >= 1900]
    assert {hit.sentence_id for hit in hits} == {hit.sentence_id for hit in allowed}
    assert 0 < len(hits) < len(without)
    same = searcher.search(QUERY, 500, Filters(where="year >= 1900", same_word=True))
    assert {hit.word for hit in same} == {"bank"}


def test_every_store_is_filtered_by_its_own_rows(store, tiny, tmp_path):
    other = make(tmp_path, tiny, 40, "other")
    searcher = Searcher([store, other])
    hits = searcher.search(QUERY, 400, Filters(where="year = 1901 AND store IN ('out', 'other')"))
    for each in (store, other):
        matching = {r["row_id"] for r in rows_of(each) if r["known"] and r["sentence"]["year"] == 1901}
        assert {hit.row_id for hit in hits if hit.store == str(each.path)} == matching != set()


def test_a_condition_is_evaluated_once_for_all_queries_of_a_run(store, monkeypatch):
    from ctxbatch.search import row_filter

    asked = []
    real = row_filter.matching_rows
    monkeypatch.setattr(row_filter, "matching_rows", lambda *given: asked.append(given) or real(*given))
    answers = Searcher([store]).ask([QUERY, "[The] old door", 5], 3, Filters(where="year >= 1900"))
    assert len(answers) == 3
    assert asked == [(store, "year >= 1900")]


def test_a_wrong_condition_is_told_before_a_model_is_loaded(store, cli, monkeypatch):
    monkeypatch.setattr("ctxbatch.search.searcher.QueryEncoder", None)
    with pytest.raises(InputError, match="--where 'yaer > 1': Binder Error"):
        ctxbatch.searcher(store).search(QUERY, 3, Filters(where="yaer > 1"))
    result = cli("search", store.path, QUERY, "--where", "yaer > 1")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_the_command_line_filters_searches_and_senses(store, cli):
    found = cli("search", store.path, QUERY, "--where", "year >= 1900", "--json", "-k", "5")
    sentences = {row["sentence_id"]: row["sentence"]["year"] for row in rows_of(store)}
    years = [sentences[json.loads(line)["sentence_id"]] for line in found.stdout.splitlines()]
    assert len(years) == 5
    assert min(years) >= 1900
    grouped = json.loads(cli("senses", store.path, "the", "--where", "year >= 1900", "--json").stdout)
    matching = [
        row["row_id"] for row in rows_of(store) if row["word"].lower() == "the" and CONDITIONS[0][1](row)
    ]
    assert sorted(row for group in grouped["groups"] for row in group["row_ids"]) == matching
    none = cli("senses", store.path, "the", "--where", "year > 3000")
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "is true for no occurrence of 'the'" in none.stderr


def test_senses_without_a_condition_are_as_before(store):
    assert find_senses(store, "the") == find_senses(store, "the", where="true")
