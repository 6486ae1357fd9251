"""A condition in SQL selects the rows that a slow filter does, and can be nothing else than a condition."""

import json

import numpy as np
import pytest

import ctxbatch
from ctxbatch import Filters, InputError
from ctxbatch.tables.where import matching_rows
from tests.helpers.stores import rows_of

CONDITIONS = {
    "year >= 1900 AND word = 'bank'": lambda r: (r["sentence"]["year"] or 0) >= 1900 and r["word"] == "bank",
    "year IS NULL": lambda r: r["sentence"]["year"] is None,
    "NOT year < 1900": lambda r: r["sentence"]["year"] is not None and not r["sentence"]["year"] < 1900,
    "left_context LIKE '%the ' OR doc_id = 'd1' -- so": lambda r: (
        r["sentence"]["text"][: r["char_start"]].endswith("the ") or r["sentence"]["doc_id"] == "d1"
    ),
    "source LIKE '%new.jsonl' AND word ILIKE 'THE'": lambda r: (
        r["sentence"]["source"].endswith("new.jsonl") and r["word"].lower() == "the"
    ),
    "false": lambda _: False,
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_matching_rows_are_those_of_a_slow_filter(where, dated):
    marked = matching_rows(dated, where)
    assert marked.tolist() == [bool(CONDITIONS[where](row)) for row in rows_of(dated)]


@pytest.mark.parametrize("where", [*CONDITIONS][:4])
def test_a_search_finds_only_matching_rows_and_the_nearest_of_them(where, dated):
    searcher = ctxbatch.searcher(dated)
    every = searcher.search("The [bank] of the river.", dated.n_rows)
    marked = matching_rows(dated, where)
    right = [hit for hit in every if marked[dated.positions(np.array([hit.row_id]))[0]]]
    assert searcher.search("The [bank] of the river.", 9, Filters(where=where)) == right[:9]
    both = Filters(where=where, words=("bank",))
    assert searcher.search("The [bank] of the river.", 9, both) == [h for h in right if h.word == "bank"][:9]


def test_senses_are_of_matching_occurrences(dated, cli):
    found = cli("senses", dated.path, "bank", "--where", "year >= 1900", "--groups", "1", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["occurrences"] == 30
    none = cli("senses", dated.path, "bank", "--where", "year > 3000")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no occurrence of 'bank' matches --where 'year > 3000'" in none.stderr


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nothing > 3", 'Referenced column "nothing" not found'),
        ("year >", "syntax error"),
        ("true; SELECT 1", "syntax error"),
        ("true) UNION ALL SELECT 1 FROM (SELECT 1 AS row_id", "it is not one condition"),
        ("true) ORDER BY (row_id", "it is not one condition"),
        ("true) GROUP BY (row_id", "it is not one condition"),
        ("word IN (SELECT content FROM read_text('/etc/passwd'))", "file system operations are disabled"),
        ("word::INT = 3", "Could not convert string"),
        (" ", "--where is empty"),
    ],
)
def test_what_is_no_condition_is_told_in_one_line(where, said, dated, cli):
    found = cli("search", dated.path, "The [bank].", "--where", where)
    assert (found.returncode, found.stdout) == (2, "")
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1
    with pytest.raises(InputError, match="--where"):
        matching_rows(dated, where)
