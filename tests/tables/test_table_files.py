"""Results as tables: the files hold what is shown, are whole or not there, and run in no spreadsheet."""

import csv
import io
import json

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ctxbatch
from ctxbatch import RunConfig
from ctxbatch.errors import InputError, ResourceError
from ctxbatch.tables.table_files import TableFiles, csv_of
from tests.helpers.stores import make_store

ODD = '=cmd|"/c calc"!A1 the bank, of "two"\nlines\t; +1 bank of 漢字 and @bank.\n\n- the bank of the river\n'


@pytest.fixture(scope="module")
def odd_store(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd.txt").write_text(ODD * 3 + "I want the bank of the river.\n" * 5)
    config = RunConfig(model=str(tiny()), precision="fp32", record="paragraph", index=False)
    return make_store(folder / "out", [folder / "odd.txt"], config)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def unguarded(cell):
    return cell.removeprefix("'")


def test_hits_in_files_are_those_that_are_printed(odd_store, cli, tmp_path):
    files = ["--csv", tmp_path / "hits.csv", "--parquet", tmp_path / "hits.parquet"]
    found = cli("search", odd_store.path, "I want a [bank].", "-k", "40", "--json", "--context", "1", *files)
    assert found.returncode == 0, found.stderr
    assert f"rows to {tmp_path / 'hits.csv'}" in found.stderr
    printed = [json.loads(line) for line in found.stdout.splitlines()]
    parquet = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    rows = rows_of(tmp_path / "hits.csv")
    assert len(printed) == len(parquet) == len(rows) > 9
    for hit, one, other in zip(printed, parquet, rows, strict=True):
        score = hit.pop("score")
        assert one["score"] == pytest.approx(score, abs=1e-6)
        assert hit == {name: one[name] for name in hit}
        assert (
            one["left_context"] + hit["text"][hit["char_start"] : hit["char_end"]] + one["right_context"]
            == hit["text"]
        )
        for name in ("row_id", "rank", "word", "text", "left_context", "right_context", "source", "store"):
            assert unguarded(other[name]) == unguarded(str(one[name]))
    assert any(row["text"].startswith(("'=", "'-")) for row in rows)
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/hits.csv'").fetchall() == [(len(rows),)]
    assert pl.read_csv(tmp_path / "hits.csv").height == len(rows)


def test_senses_in_a_file_are_all_grouped_occurrences(odd_store, cli, tmp_path):
    path = tmp_path / "senses.csv"
    found = cli("senses", odd_store.path, "bank", "-n", "1", "--groups", "2", "--json", "--csv", path)
    assert found.returncode == 0, found.stderr
    groups = json.loads(found.stdout)["groups"]
    expected = [(group["number"], row_id) for group in groups for row_id in group["row_ids"]]
    assert [(int(row["group"]), int(row["row_id"])) for row in rows_of(path)] == expected
    assert {row["word"] for row in rows_of(path)} == {"bank"}


@pytest.mark.parametrize("words", [("bank", "river"), ()])
def test_layers_in_a_file_are_all_measures(words, odd_store, cli, tmp_path):
    found = cli("layers", odd_store.path, *words, "--json", "--parquet", tmp_path / "layers.parquet")
    assert found.returncode == 0, found.stderr
    trends = json.loads(found.stdout)["trends"]
    rows = pq.read_table(tmp_path / "layers.parquet").to_pylist()
    expected = [measures for trend in trends for measures in trend["measures"]]
    assert [{name: row[name] for name in expected[0]} for row in rows] == expected
    assert list(dict.fromkeys(row["word"] for row in rows)) == list(words or [None])


@pytest.mark.parametrize("option", ["--csv", "--parquet"])
@pytest.mark.parametrize("command", ["search", "senses", "layers"])
def test_a_place_that_cannot_be_a_file_is_told_before_anything_is_computed(
    command, option, odd_store, cli, tmp_path
):
    query = "a [bank]" if command == "search" else "bank"
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x", f"there is no folder {tmp_path}/no"),
    ):
        found = cli(command, odd_store.path, query, option, path)
        assert (found.returncode, found.stdout) == (2, "")
        assert said in found.stderr
        assert len(found.stderr.splitlines()) == 1


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    table = pa.table({"text": ["=1", "a"]})
    path = tmp_path / "x.csv"
    files = TableFiles({"--csv": str(path), "--parquet": None})
    path.write_text("before")
    with monkeypatch.context() as full:
        full.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(ResourceError, match=r"disk of .*x\.csv is full"):
            files.write(lambda: table)
    assert [each.name for each in tmp_path.iterdir()] == ["x.csv"]
    assert path.read_text() == "before"
    files.write(lambda: table)
    assert path.read_bytes() == b"text\r\n'=1\r\na\r\n"


def test_no_cell_begins_as_a_formula_and_numbers_stay_numbers():
    texts = ["=1+1", "+1", "-x", "@a", "\tx", "\rx", "plain", "1-2", "", None]
    table = pa.table({"=name": texts, "number": [-1.5] * len(texts), "list": [["=a", "b"]] * len(texts)})
    rows = list(csv.reader(io.StringIO(csv_of(table), newline="")))
    assert rows[0][0] == "'=name"
    assert all(not cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows for cell in row)
    assert {row[1] for row in rows[1:]} == {"-1.5"}
    assert {row[2] for row in rows[1:]} == {'["=a", "b"]'}


def test_tables_without_a_file_are_not_made():
    TableFiles({"--csv": None}).write(lambda: pytest.fail("made"))
    with pytest.raises(InputError, match="--csv / is a folder: name a file"):
        TableFiles({"--csv": "/"})


def test_hits_have_the_columns_of_the_guide(odd_store):
    answers = ctxbatch.searcher([odd_store]).ask(["I want a [bank]."], 2)
    assert ctxbatch.hits_table(answers).column_names[-6:] == [
        "text",
        "source",
        "record",
        "doc_id",
        "sentence_id",
        "store",
    ]
