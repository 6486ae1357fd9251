"""Stores answer in SQL what a slow loop finds, are only read, and mistakes are told in one line."""

import csv
import io
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig
from ctxbatch.tables import database
from ctxbatch.tables.database import names_of, open_database
from ctxbatch.tables.export import export
from tests.helpers.running import start
from tests.helpers.stores import make_store, rows_of


@pytest.fixture(scope="session")
def twin(dated, tmp_path_factory):
    """A second store of the same name, whose ids are the same."""
    path = tmp_path_factory.mktemp("twin") / "out"
    shutil.copytree(dated.path, path)
    return ctxbatch.open(path)


def ask(stores, query, **options):
    with open_database(stores, **options) as opened:
        reader = opened.query(query)
        return [row for batch in opened.batches(reader) for row in batch.to_pylist()]


def test_counts_and_contexts_are_those_of_a_slow_loop(dated):
    rows = rows_of(dated)
    counted = ask([dated], "SELECT word, count(*) AS n FROM words GROUP BY word")
    assert {row["word"]: row["n"] for row in counted} == Counter(row["word"] for row in rows)
    found = ask([dated], "SELECT * EXCLUDE (static) FROM occurrences ORDER BY row_id")
    assert len(found) == len(rows)
    for one, right in zip(found, rows, strict=True):
        text = right["sentence"]["text"]
        assert one["left_context"] == text[: right["char_start"]]
        assert one["right_context"] == text[right["char_end"] :]
        assert one["left_context"] + one["word"] + one["right_context"] == one["text"] == text
        assert (one["year"], one["source"]) == (right["sentence"]["year"], right["sentence"]["source"])


def test_vectors_are_those_of_the_store_and_a_query_by_them_is_brute_force(dated):
    rows = rows_of(dated)
    column = dated.config.columns[1]
    found = ask([dated], f"SELECT {column} AS v FROM words ORDER BY row_id")
    assert np.array_equal(np.array([row["v"] for row in found], np.float32), [row[column] for row in rows])
    vectors = np.stack([row[column] for row in rows]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = ask(
        [dated],
        f"SELECT b.row_id, list_cosine_similarity(a.{column}, b.{column}) AS score FROM words a, words b "
        "WHERE a.row_id = 5 ORDER BY score DESC, b.row_id LIMIT 12",
    )
    assert [row["score"] for row in nearest] == pytest.approx(
        np.sort(vectors @ vectors[5])[::-1][:12], abs=1e-5
    )


def test_only_the_columns_that_a_query_names_are_read(dated, monkeypatch):
    asked, plain = [], database._Widened.scanner

    def scanner(self, columns=None, **options):
        asked.extend(columns)
        return plain(self, columns, **options)

    monkeypatch.setattr(database._Widened, "scanner", scanner)
    ask([dated], "SELECT word, year, count(*) FROM occurrences GROUP BY ALL")
    assert {*asked} == {"sentence_id", "word", "year"}


def test_stores_of_one_name_are_told_apart_and_joined_by_store(dated, twin):
    names = names_of([dated, twin])
    assert len({*names}) == 2
    both = ask([dated, twin], "SELECT store, count(*) AS n FROM occurrences GROUP BY store ORDER BY store")
    assert {row["store"]: row["n"] for row in both} == dict.fromkeys(names, dated.n_rows)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("COPY (SELECT 1) TO 'x.csv'", "the query is COPY, but stores are only read"),
        ("ATTACH 'x.db'", "the query is ATTACH"),
        ("INSTALL httpfs", "the query is LOAD"),
        ("CREATE TABLE x AS SELECT 1", "the query is CREATE"),
        ("SET memory_limit = '9GB'", "the query is SET"),
        ("PRAGMA database_list", "the query is PRAGMA"),
        ("EXPORT DATABASE 'x'", "the query is EXPORT"),
        ("SELECT 1; SELECT 2", "the query has 2 statements"),
        ("", "the query has 0 statements"),
        ("SELECT * FROM read_csv('/etc/passwd')", "file system operations are disabled"),
        ("SELECT * FROM read_text('/etc/passwd')", "file system operations are disabled"),
        ("SELECT * FROM read_parquet('x.parquet')", "file system operations are disabled"),
        ("SELECT * FROM glob('*')", "file system operations are disabled"),
        ("SELECT * FROM sniff_csv('/etc/passwd')", "file system operations are disabled"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM sys", "does not exist"),
        (
            "SELECT nothing\nFROM words",
            'Referenced column "nothing" not found in FROM clause! (LINE 1: SELECT nothing)',
        ),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT CAST(word AS INT) FROM words", "Could not convert string"),
        ("SELECT error('one\ntwo')", "one"),
    ],
)
def test_what_does_not_only_read_and_mistakes_are_refused_in_one_line(
    query, said, dated, cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = cli("sql", dated.path, query)
    assert (found.returncode, found.stdout) == (2, "")
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "query",
    [
        "DESCRIBE words",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "FROM words LIMIT 1",
        "SUMMARIZE SELECT 1",
        "VALUES (1)",
    ],
)
def test_whatever_only_reads_is_allowed(query, dated):
    assert ask([dated], query)


def test_a_query_that_needs_more_memory_spills_and_leaves_nothing_behind(dated, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    query = "SELECT count(*) AS n FROM (SELECT md5(range::VARCHAR) AS m FROM range(3000000) ORDER BY m)"
    assert ask([dated], query, memory=60_000_000) == [{"n": 3_000_000}]
    with pytest.raises(InputError, match="Out of Memory"):
        ask([dated], "SELECT list(range) AS n FROM range(30000000)", memory=60_000_000)
    assert [*tmp_path.iterdir()] == []


def test_a_signal_ends_a_query_at_once(dated, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start(
        "sql", dated.path, "SELECT sum(a.range * b.range % 7) FROM range(9000000) a, range(900000) b"
    )
    while not [*tmp_path.glob("ctxbatch-sql-*")]:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert errors.splitlines() == ["ctxbatch: stopped by SIGINT"]
    assert [*tmp_path.iterdir()] == []


# --- what is printed ------------------------------------------------------------------------------

QUERY = "SELECT word, count(*) AS n, any_value(text) AS text, any_value(static) AS v FROM occurrences GROUP BY ALL ORDER BY n DESC, word"  # noqa: E501


def test_a_table_fits_the_terminal_and_tells_what_it_leaves_out(dated, cli):
    found = cli("sql", dated.path, QUERY, "-n", "3")
    assert found.returncode == 0
    lines = found.stdout.splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 100
    assert "more rows: --csv, --json or --parquet gives all" in found.stderr
    wide = cli("sql", dated.path, "SELECT *, * FROM occurrences LIMIT 2")
    assert max(map(len, wide.stdout.splitlines())) <= 100
    assert "more columns do not fit the terminal" in wide.stderr
    odd = cli("sql", dated.path, "SELECT chr(27) || '[31mred' AS a, chr(8238) AS b")
    assert "\x1b" not in odd.stdout
    assert "\u202e" not in odd.stdout


def test_csv_json_and_parquet_hold_all_rows(dated, cli, tmp_path):
    rows = [json.loads(line) for line in cli("sql", dated.path, QUERY, "--json").stdout.splitlines()]
    assert [(row["word"], row["n"]) for row in rows[:2]] == [("the", 80), ("The", 40)] or rows[0][
        "n"
    ] >= rows[1]["n"]
    table = [*csv.reader(io.StringIO(cli("sql", dated.path, QUERY, "--csv").stdout, newline=""))]
    assert table[0] == ["word", "n", "text", "v"]
    assert [row[:2] for row in table[1:]] == [[row["word"], str(row["n"])] for row in rows]
    found = cli("sql", dated.path, QUERY, "--parquet", tmp_path / "x.parquet")
    assert f"wrote {len(rows)} rows to {tmp_path / 'x.parquet'}" in found.stderr
    assert pq.read_table(tmp_path / "x.parquet").column("word").to_pylist() == [row["word"] for row in rows]
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/x.parquet'").fetchall() == [(len(rows),)]


def test_a_query_can_come_from_a_file(dated, cli, tmp_path):
    path = tmp_path / "q.sql"
    path.write_text("-- how many\nSELECT count(*) AS n\nFROM words;\n")
    found = cli("sql", dated.path, "--file", path, "--json")
    assert json.loads(found.stdout) == {"n": dated.n_rows}
    for arguments, said in (
        ([dated.path], "a query is missing"),
        ([dated.path, "--file", tmp_path / "none"], "cannot be read: No such file"),
        ([dated.path, "SELECT 1", "--csv", "--json"], "--csv and --json exclude each other"),
        ([dated.path, "SELECT 1", "--memory", "much"], "--memory 'much' must be a size"),
        ([dated.path, "SELECT 1", "-n", "-1"], "--rows -1 must be 0 or more"),
        ([tmp_path, "SELECT 1"], "is not a ctxbatch store"),
    ):
        found = cli("sql", *arguments)
        assert (found.returncode, found.stdout) == (2, "")
        assert said in found.stderr
        assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT TIMESTAMP 'infinity' AS t", "the column t cannot be shown"),
        ("SELECT '-infinity'::DATE AS t", "the column t cannot be shown"),
    ],
)
@pytest.mark.parametrize("option", [None, "--csv", "--json"])
def test_values_that_python_cannot_hold_are_told(query, said, option, dated, cli):
    found = cli("sql", dated.path, query, *([option] if option else []))
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert said in found.stderr


def test_what_parquet_cannot_hold_is_told_and_leaves_no_file(dated, cli, tmp_path):
    found = cli("sql", dated.path, "SELECT INTERVAL '1 month' AS i", "--parquet", tmp_path / "x.parquet")
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert "cast the column to VARCHAR" in found.stderr
    assert [*tmp_path.iterdir()] == []


def test_columns_of_one_name_are_all_in_json_and_a_store_is_given_once(dated, cli):
    found = cli("sql", dated.path, "SELECT 1 AS a, 2 AS a", "--json")
    assert json.loads(found.stdout) == {"a": 1, "a_1": 2}
    found = cli("sql", dated.path, dated.path, "SELECT 1")
    assert (found.returncode, found.stdout) == (2, "")
    assert "is given twice" in found.stderr


def test_without_duckdb_one_line_names_the_extra(dated, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(
        InputError, match=r"duckdb, which is not installed: pip install 'ctxbatch\[analytics\]'"
    ):
        ask([dated], "SELECT 1")


def test_int8_vectors_are_read_with_their_scales(dated, tiny, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The bank of the river wants a card.\n" * 3)
    config = RunConfig(model=str(tiny()), precision="fp32", dtype="int8", index=False)
    store = make_store(tmp_path / "small", [path], config)
    found = ask([store], "SELECT static, shift_2 FROM words ORDER BY row_id")
    for name in ("static", "shift_2"):
        right = np.concatenate([np.asarray(batch) for batch in store.vectors(name)])
        assert np.allclose([row[name] for row in found], right, rtol=1e-6)
    (columns,) = ask([dated, store], "SELECT list(column_name) AS names FROM (DESCRIBE words)")
    assert not [name for name in columns["names"] if name.endswith("_scale")]
    both = ask([dated, store], "SELECT store, count(static) AS n FROM words GROUP BY ALL")
    assert sum(row["n"] for row in both) == dated.n_rows + store.n_rows
    export(store, tmp_path / "tables")
    table = pq.read_table(tmp_path / "tables" / "words")
    assert not [name for name in table.column_names if name.endswith("_scale")]
    assert np.allclose(table.column("static").to_pylist(), [row["static"] for row in found], rtol=1e-6)


def test_kept_fields_with_the_names_of_columns_get_an_underscore(tiny, tmp_path):
    path = tmp_path / "text.jsonl"
    record = {"text": "The bank.", "store": "Aldi", "word": "w", "left_context": "l", "year": 1}
    path.write_text(json.dumps(record) + "\n")
    config = RunConfig(model=str(tiny()), index=False, keep_field=("store", "word", "left_context", "year"))
    store = make_store(tmp_path / "out", [path], config)
    for table in ("occurrences", "sentences"):
        rows = ask([store], f"SELECT store, store_, word_, left_context_, year FROM {table}")
        assert {tuple(row.values()) for row in rows} == {("out", "Aldi", "w", "l", 1)}
    assert [row["word"] for row in ask([store], "SELECT word FROM occurrences ORDER BY row_id")] == [
        "The",
        "bank",
    ]
