"""`ctxbatch sql` shows what a query finds, and a query can do nothing but read the stores."""

import csv
import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from wcwidth import wcswidth

from ctxbatch.tables.csv_cells import csv_row
from tests.helpers.running import command, start
from tests.helpers.stores import rows_of

COUNTS = "SELECT word, count(*) AS n FROM words GROUP BY word ORDER BY n DESC, word"


def counts(store):
    words = [row["word"] for row in rows_of(store)]
    return sorted(((word, words.count(word)) for word in set(words)), key=lambda pair: (-pair[1], pair[0]))


# --- output ---------------------------------------------------------------------------------------


def test_a_table_shows_the_first_rows_and_says_how_to_get_all(store, cli):
    result = cli("sql", store.path, COUNTS)
    assert result.returncode == 0
    heading, line, *rows = result.stdout.splitlines()
    assert heading.split() == ["word", "n"]
    assert set(line) == {"─"}
    assert [row.split() for row in rows] == [[word, str(n)] for word, n in counts(store)[:40]]
    assert "only the first 40 rows: all with --csv, --json or --parquet FILE" in result.stderr
    assert cli("sql", store.path, f"{COUNTS} LIMIT 3").stderr == ""


def test_json_csv_and_parquet_hold_all_rows(store, cli, tmp_path):
    expected = counts(store)
    as_json = cli("sql", store.path, COUNTS, "--json")
    assert [tuple(json.loads(line).values()) for line in as_json.stdout.splitlines()] == expected
    as_csv = list(csv.reader(io.StringIO(cli("sql", store.path, COUNTS, "--csv").stdout)))
    assert as_csv == [["word", "n"], *([word, str(n)] for word, n in expected)]
    path = tmp_path / "counts.parquet"
    path.write_text("of before")
    result = cli("sql", store.path, COUNTS, "--parquet", path)
    assert (result.returncode, result.stdout) == (0, "")
    assert [tuple(row.values()) for row in pq.read_table(path).to_pylist()] == expected
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [*tmp_path.iterdir()] == [path]


def test_a_table_fits_the_terminal_and_names_what_it_leaves_out(store, cli, monkeypatch):
    for columns in ("30", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        result = cli("sql", store.path, "FROM occurrences")
        assert max(map(wcswidth, result.stdout.splitlines())) <= int(columns)
        assert "not shown: " in result.stderr
        assert "contextual_2" in result.stderr
    result = cli("sql", store.path, "SELECT static FROM words LIMIT 1")
    assert result.stdout.count(",") == 3
    assert "… 29 more]" in result.stdout


LONG = "a text that is too long for a line of any terminal " * 5
SHORT = f"SELECT '{LONG}' AS text, 'pear' AS word, 12345678901234 AS n, '' AS nothing, '{LONG}' AS more"


@pytest.mark.parametrize(
    ("columns", "headings", "left_out"),
    [
        (12, ["text"], "word, n, nothing, more"),
        (20, ["text", "word"], "n, nothing, more"),
        (40, ["text", "word", "n"], "nothing, more"),
        (80, ["text", "word", "n", "nothing", "more"], ""),
        (200, ["text", "word", "n", "nothing", "more"], ""),
    ],
)
def test_a_long_text_takes_no_room_from_short_columns(store, cli, monkeypatch, columns, headings, left_out):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = cli("sql", store.path, SHORT)
    heading, line, row = result.stdout.splitlines()
    assert heading.split() == headings
    assert columns - len(headings) < len(line) <= columns
    assert row.startswith("a text that")
    assert row.count("…") == headings.count("text") + headings.count("more")
    assert all(value in row for value in ("pear", "12345678901234")[: len(headings) - 1])
    told = f"ctxbatch: not shown: {left_out}: select fewer columns, or add --json\n"
    assert result.stderr == (told if left_out else "")


def test_values_of_every_type_have_a_form_in_json(store, cli):
    query = """
        SELECT [1.5::FLOAT, 0.1::FLOAT, 'nan'::FLOAT] AS floats, sum(i) AS total, 0.25::DECIMAL(4, 2) AS part,
            DATE '1900-01-02' AS day, TIMESTAMP '1900-01-02 03:04:05' AS at, TIME '03:04:05' AS hour,
            {'a': 1} AS object, MAP {'k': 2} AS map, 'ab'::BLOB AS bytes, INTERVAL 2 DAY AS days,
            NULL AS nothing, 'x'::ENUM ('x') AS enum
        FROM range(4) numbers(i)"""
    result = cli("sql", store.path, query, "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert value.pop("days")
    assert value == {
        "floats": [1.5, 0.1, None],
        "total": 6,
        "part": 0.25,
        "day": "1900-01-02",
        "at": "1900-01-02T03:04:05",
        "hour": "03:04:05",
        "object": {"a": 1},
        "map": {"k": 2},
        "bytes": b"ab".hex(),
        "nothing": None,
        "enum": "x",
    }


def test_control_characters_do_not_reach_a_terminal_but_csv_is_exact(store, cli):
    query = "SELECT 'a' || chr(27) || '[31m' || chr(10) || 'b' AS text"
    assert "a\\x1b[31m\\nb" in cli("sql", store.path, query).stdout
    exact = cli("sql", store.path, query, "--csv").stdout
    assert list(csv.reader(io.StringIO(exact, newline=""))) == [["text"], ["a\x1b[31m\nb"]]
    assert json.loads(cli("sql", store.path, query, "--json").stdout) == {"text": "a\x1b[31m\nb"}


def test_csv_holds_no_formula_that_a_spreadsheet_would_run():
    texts = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "plain", "a=b", ""]
    cells = next(csv.reader(io.StringIO(csv_row(texts), newline="")))
    assert cells == ["'=1+1", "'+1", "'-1", "'@sum", "'\tx", "'\rx", "plain", "a=b", ""]
    assert csv_row([-1, -0.5, None, True, [1.5, -2]]) == '-1,-0.5,,true,"[1.5, -2]"'


def test_a_query_may_come_from_a_file(store, cli, tmp_path):
    (tmp_path / "query.sql").write_text("-- words\nSELECT 1 AS one;\n")
    assert cli("sql", store.path, "--file", tmp_path / "query.sql", "--json").stdout == '{"one": 1}\n'
    missing = cli("sql", store.path, "--file", tmp_path / "none.sql")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "query",
    [
        "DESCRIBE words",
        "SHOW TABLES",
        "EXPLAIN FROM words",
        "SUMMARIZE sentences",
        "WITH a AS (VALUES (1)) FROM a",
    ],
)
def test_statements_that_only_read_are_run(store, cli, query):
    result = cli("sql", store.path, query)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


# --- refusals -------------------------------------------------------------------------------------


def test_an_error_is_of_duckdb_and_shows_its_place(store, cli):
    result = cli("sql", store.path, "SELECT word,\n wrod FROM words")
    assert (result.returncode, result.stdout) == (2, "")
    said, line, caret = result.stderr.splitlines()
    assert said.startswith('ctxbatch: Binder Error: Referenced column "wrod" not found')
    assert (line, caret) == ("LINE 2:  wrod FROM words", "         ^^^^")
    hostile = cli("sql", store.path, "SELECT \x1b[31m")
    assert hostile.returncode == 2
    assert "\x1b" not in hostile.stderr


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "give one SELECT"),
        ("SELECT 1; SELECT 2", "these are 2"),
        ("COPY words TO '{file}'", "not COPY"),
        ("CREATE TABLE t AS FROM words", "not CREATE"),
        ("DROP VIEW words", "not DROP"),
        ("INSERT INTO words VALUES (1)", "not INSERT"),
        ("ATTACH '{file}'", "not ATTACH"),
        ("EXPORT DATABASE '{file}'", "not EXPORT"),
        ("INSTALL httpfs", "not LOAD"),
        ("LOAD httpfs", "not LOAD"),
        ("SET memory_limit = '9GB'", "not SET"),
        ("RESET memory_limit", "not SET"),
        ("PRAGMA enable_profiling", "not PRAGMA"),
        ("CALL enable_logging()", "not CALL"),
        ("USE stores", "not SET"),
        ("VACUUM", "not VACUUM"),
        ("CHECKPOINT", "not CALL"),
        ("EXPLAIN ANALYZE COPY words TO '{file}'", "disabled by configuration"),
        ("FROM enable_profiling(save_location = '{file}')", "has been locked"),
        ("FROM enable_logging(storage_path = '{file}')", "has been locked"),
        ("FROM query('COPY words TO ''{file}''')", "Expected a single SELECT"),
        ("FROM '{there}'", "disabled by configuration"),
        ("FROM read_csv('{there}')", "disabled by configuration"),
        ("FROM read_text('{there}')", "disabled by configuration"),
        ("FROM read_blob('{there}')", "disabled by configuration"),
        ("FROM read_json('{there}')", "disabled by configuration"),
        ("FROM read_parquet('{there}')", "disabled by configuration"),
        ("FROM parquet_metadata('{there}')", "disabled by configuration"),
        ("FROM sniff_csv('{there}')", "disabled by configuration"),
        ("FROM glob('/*')", "disabled by configuration"),
        ("FROM '*.csv'", "disabled by configuration"),
        ("FROM 'https://example.org/a.parquet'", "disabled by configuration"),
        ("FROM read_csv('s3://bucket/a.csv')", "disabled by configuration"),
        ("FROM stores", "Table with name stores does not exist"),
        ("SELECT getenv('HOME')", "getenv does not exist"),
        ("FROM sqlite_scan('{there}', 't')", "sqlite_scan"),
    ],
)
def test_a_query_can_only_read_the_stores(store, cli, tmp_path, query, said):
    (tmp_path / "there.csv").write_text("a,b\nsecret,2\n")
    query = query.format(file=tmp_path / "written", there=tmp_path / "there.csv")
    result = cli("sql", store.path, query)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "secret" not in result.stderr
    assert [*tmp_path.iterdir()] == [tmp_path / "there.csv"]


def test_variables_of_the_program_are_no_tables(store, cli):
    for name in ("stores", "connected", "batch", "found", "query"):
        assert cli("sql", store.path, f"FROM {name}").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a query is missing"),
        (["FROM words", "--csv", "--json"], "exclude each other"),
        (["FROM words", "--memory", "much"], "--memory 'much' must be a size"),
        (["FROM words", "--parquet", "."], "exists and is not a file"),
        (["FROM words", "--parquet", "/nowhere/a.parquet"], "make /nowhere"),
        (["SELECT INTERVAL 1 DAY AS day", "--parquet", "a.parquet"], "CAST it"),
        (["SELECT 1 AS a, 2 AS a", "--json"], "two columns are named 'a'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(store, cli, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("sql", store.path, *arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert said in result.stderr
    assert not [*tmp_path.iterdir()]


def test_an_unfinished_store_is_refused(store, cli, tmp_path):
    shutil.copytree(store.path, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "shards" / "000001")
    result = cli("sql", tmp_path / "out", "FROM words")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "is unfinished" in result.stderr


def test_what_to_install_is_told_where_duckdb_is_not(store, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    for command_line in (
        ["sql", store.path, "FROM words"],
        ["search", store.path, "a [b]", "--where", "true"],
    ):
        result = cli(*command_line)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == "ctxbatch: SQL needs DuckDB: pip install 'ctxbatch[analytics]'\n"


def test_a_file_of_a_store_is_not_replaced(store, cli):
    manifest = (store.path / "manifest.json").read_bytes()
    result = cli("sql", store.path, "FROM words", "--parquet", store.path / "manifest.json")
    assert (result.returncode, "is inside the store" in result.stderr) == (2, True)
    assert (store.path / "manifest.json").read_bytes() == manifest


# --- memory and signals ---------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["20MB", "1"])
def test_more_memory_than_allowed_is_told_and_leaves_nothing(store, cli, tmp_path, monkeypatch, memory):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = cli("sql", store.path, "SELECT list(i) FROM range(100_000_000) t(i)", "--memory", memory)
    assert (result.returncode, result.stderr.count("\n")) == (4, 1)
    assert "the query needs more memory: give --memory more" in result.stderr
    assert not [*tmp_path.iterdir()]


def test_a_large_result_spills_to_a_temporary_folder_that_is_removed(store, cli, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    query = "SELECT i, count(*) FROM range(5_000_000) t(i) GROUP BY i ORDER BY i DESC LIMIT 1"
    result = cli("sql", store.path, query, "--memory", "60MB")
    assert result.returncode == 0, result.stderr
    assert "4999999" in result.stdout
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_query_and_removes_what_it_spilled(store, tmp_path, signum, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    query = "SELECT i, count(*) FROM range(100_000_000_000) t(i) GROUP BY i ORDER BY 2"
    process = start("sql", store.path, query, "--memory", "60MB")
    while not list(tmp_path.glob("ctxbatch-*/duckdb_temp*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signum)
    _, errors = process.communicate()
    assert process.returncode == 128 + signum
    assert errors == f"ctxbatch: stopped by {signum.name}\n"
    assert not [*tmp_path.iterdir()]


def test_a_reader_that_has_gone_ends_the_query(store):
    arguments = shlex.join(map(str, command("sql", store.path, "FROM range(10_000_000_000)", "--csv")))
    result = subprocess.run(f"{arguments} | head -3", shell=True, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("range\n0\n1\n", "")


@pytest.mark.parametrize("output", [[], ["--csv"], ["--json"]])
def test_a_full_disk_is_told_in_one_line(store, output):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command("sql", store.path, "SELECT repeat('x', 1000) FROM words, range(9)", *output),
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 4
    assert result.stderr.splitlines()[-1].startswith("ctxbatch: standard output cannot be written to")


def test_the_help_does_not_load_duckdb():
    code = "import sys, ctxbatch.cli.main; sys.exit(not {'duckdb', 'pyarrow'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
