"""A condition in SQL selects the rows for which it is true, and can do nothing else."""

import numpy as np
import pytest

from ctxbatch.errors import InputError
from ctxbatch.tables.where import matching_rows
from tests.helpers.stores import rows_of


def after(row, year):
    return row["sentence"]["year"] is not None and row["sentence"]["year"] >= year


def cosine(one, other):
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("true", lambda _: True),
        ("NULL", lambda _: False),
        ("false", lambda _: False),
        ("word = 'bank'", lambda row: row["word"] == "bank"),
        ("year >= 1900", lambda row: after(row, 1900)),
        ("NOT year < 1900 AND author = 'Author 1'", lambda row: after(row, 1900) and by(row, 1)),
        ("year IS NULL OR word ILIKE 'b%'", lambda row: no_year(row) or row["word"][:1] in "bB"),
        ("doc_id IN ('d1', 'd3') -- a comment", lambda row: row["sentence"]["doc_id"] in ("d1", "d3")),
        ("known AND n_pieces > 1", lambda row: row["known"] and row["n_pieces"] > 1),
        ("right_context = ''", lambda row: row["char_end"] == len(row["sentence"]["text"])),
        ("length(left_context) > 20", lambda row: row["char_start"] > 20),
        (
            "list_cosine_similarity(static, contextual_2) > 0.1",
            lambda row: cosine(row["static"], row["contextual_2"]) > 0.1,
        ),
    ],
)
def test_the_rows_are_those_that_meet_the_condition_one_by_one(store, where, holds):
    expected = [bool(holds(row)) for row in rows_of(store)]
    assert matching_rows(store, where).tolist() == expected


def by(row, number):
    return row["sentence"]["author"] == f"Author {number}"


def no_year(row):
    return row["sentence"]["year"] is None


def test_a_condition_may_look_into_the_tables(store):
    words = [row["word"] for row in rows_of(store)]
    found = matching_rows(store, "word IN (FROM words SELECT word GROUP BY word HAVING count(*) > 20)")
    assert found.tolist() == [words.count(word) > 20 for word in words]


def test_lemmas_and_parts_of_speech_are_columns(treebank):
    found = matching_rows(treebank, "lemma = 'bank' AND upos = 'NOUN' AND year >= 1920")
    places = [(row["word"], row["sentence"]["year"]) for row in rows_of(treebank)]
    assert found.tolist() == [place == ("banks", 1950) for place in places]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "give one condition"),
        ("  -- nothing", "SELECT clause without selection list"),
        ("true; DROP VIEW words", "Only SELECT statements"),
        ("true; SELECT true", "give one condition"),
        ("true) ; DROP VIEW words", 'syntax error at or near ")"'),
        ("true) OR (true", 'syntax error at or near ")"'),
        ("true) --", 'syntax error at or near ")"'),
        ("true /*", "unterminated /* comment"),
        ("true FROM words", "give one condition"),
        ("true AS yes", "give one condition"),
        ("true, true", "give one condition"),
        ("true WHERE true", "give one condition"),
        ("true LIMIT 1", "give one condition"),
        ("true ORDER BY 1", "give one condition"),
        ("true UNION ALL SELECT true", "give one condition"),
        ("DISTINCT true", "give one condition"),
        ("count(*) > 1", "WHERE clause cannot contain aggregates"),
        ("$1", "Values were not provided"),
        ("wrod = 'bank'", 'Referenced column "wrod" not found'),
        ("word::INT = 5", "Could not convert string"),
        ("EXISTS (FROM read_csv('/etc/passwd'))", "file system operations are disabled"),
        ("EXISTS (FROM '/etc/passwd.csv')", "file system operations are disabled"),
        ("EXISTS (COPY words TO '/tmp/x')", "syntax error"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line_that_names_the_option(store, where, said):
    with pytest.raises(InputError) as refused:
        matching_rows(store, where)
    message = str(refused.value)
    assert message.startswith(f"--where {where!r}: ")
    assert said in message
    assert "\n" not in message
