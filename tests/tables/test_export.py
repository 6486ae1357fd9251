"""An export holds the rows of its store bit for bit, and other programs read it as it is."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig, StoreError
from ctxbatch.files import write_json
from ctxbatch.sealed import read_json
from ctxbatch.store.int8_vectors import Int8Vectors
from ctxbatch.tables.export import export
from ctxbatch.tables.export_plan import ExportOptions
from tests.helpers.exports import bits, files_of, table_of, vectors_of
from tests.helpers.stores import make_store, rows_of

SMALL = 40_000  # bytes of a file, so that a tiny store needs several


def stored(store, name):
    return np.concatenate(list(store.vectors(name)))


def plain_rows(table, store):
    names = [name for name in table.column_names if name not in store.config.columns]
    return table.select(names).to_pylist()


# --- values ---------------------------------------------------------------------------------------


def test_words_and_sentences_are_those_of_the_store_in_its_order(kept, tmp_path):
    report = export(kept, tmp_path / "to", ExportOptions(file_bytes=SMALL))
    assert len(kept.commits) >= 3
    words, sentences = (table_of(tmp_path / "to", name) for name in ("words", "sentences"))
    assert plain_rows(words, kept) == plain_rows(kept.words.to_table(), kept)
    assert sentences.to_pylist() == kept.sentences.to_table().to_pylist()
    for name in kept.config.columns:
        assert words.schema.field(name).type.value_type == pa.float32()
        widened = stored(kept, name).astype(np.float32)
        np.testing.assert_array_equal(bits(vectors_of(words, name)), bits(widened))
    assert (report.rows, report.sentences) == (kept.n_rows, kept.sentences.count_rows())
    files = [*(tmp_path / "to").glob("*/*.parquet")]
    assert report.files == report.written == len(files) > 3
    assert report.size == sum(path.stat().st_size for path in files)
    groups = [pq.read_metadata(path) for path in files]
    assert {group.row_group(0).column(0).compression for group in groups} == {"ZSTD"}


def test_several_shards_are_one_file_if_they_are_small(kept, tmp_path):
    export(kept, tmp_path / "to")
    assert len([*(tmp_path / "to").glob("*/*.parquet")]) == 2


@pytest.mark.parametrize("of_store", ["float16", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_each_type_of_store_in_each_type_of_export(of_store, dtype, tiny, corpus, tmp_path):
    store = make_store(tmp_path / "out", [corpus], RunConfig(model=str(tiny()), dtype=of_store))
    export(store, tmp_path / "to", ExportOptions(dtype=dtype))
    words = table_of(tmp_path / "to")
    for name in store.config.columns:
        read = vectors_of(words, name)
        assert read.dtype == dtype
        np.testing.assert_array_equal(bits(read), bits(stored(store, name).astype(dtype)))


def test_shifts_are_computed_as_the_store_and_its_scanner_compute_them(kept, tmp_path):
    names = ("difference_1", "word", "asinh_3", "log_ratio_3", "shift_3")
    export(kept, tmp_path / "to", ExportOptions(columns=names, file_bytes=SMALL))
    words = table_of(tmp_path / "to")
    assert words.column_names == ["sentence_id", *names]
    scanned = kept.scanner(columns=names).to_table()
    for name in set(names) - {"word"}:
        np.testing.assert_array_equal(vectors_of(words, name), vectors_of(scanned, name))
        np.testing.assert_array_equal(vectors_of(words, name), stored(kept, name).astype(np.float32))
    assert words["word"].to_pylist() == scanned["word"].to_pylist()


def test_joined_rows_carry_their_sentence(kept, tmp_path):
    report = export(kept, tmp_path / "to", ExportOptions(join=True, file_bytes=SMALL))
    assert report.sentences is None
    assert not (tmp_path / "to" / "sentences").exists()
    words = table_of(tmp_path / "to")
    of = {"source": "source", "record": "record", "byte_start": "byte_start", "doc_id": "doc_id"}
    of |= {"text": "text", "year": "year", "word_": "word", "weight": "weight"}
    of |= {"day": "day", "at": "at", "good": "good"}
    assert set(words.column_names) - set(kept.words.schema.names) == {*of}
    rows = rows_of(kept)
    exported = words.drop_columns([*kept.config.columns]).to_pylist()
    assert len(rows) == len(exported)
    for row, read in zip(rows, exported, strict=True):
        assert {name: read[name] for name in of} == {name: row["sentence"][each] for name, each in of.items()}
        assert read["text"][read["char_start"] : read["char_end"]] == read["word"] == row["word"]


def test_columns_of_sentences_can_be_chosen_in_one_table_or_two(kept, tmp_path):
    export(kept, tmp_path / "one", ExportOptions(columns=("text", "static", "word_", "year"), join=True))
    assert table_of(tmp_path / "one").column_names == ["text", "static", "word_", "year"]
    export(kept, tmp_path / "two", ExportOptions(columns=("text", "word", "year")))
    assert table_of(tmp_path / "two").column_names == ["sentence_id", "word"]
    assert table_of(tmp_path / "two", "sentences").column_names == ["sentence_id", "text", "year"]


def test_a_number_that_is_no_half_float_is_refused_and_not_made_infinite(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ctxbatch.store.columns.as_floats", lambda vectors_ND: vectors_ND.astype(np.float32) * 1e6
    )
    with pytest.raises(ctxbatch.ResourceError, match=r"too large for float16: export with --dtype float32"):
        export(kept, tmp_path / "to", ExportOptions(columns=("difference_3",), dtype="float16"))


def test_the_same_store_gives_the_same_bytes(kept, tmp_path):
    for name in ("a", "b"):
        export(kept, tmp_path / name, ExportOptions(file_bytes=SMALL))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_store_of_one_word_is_exported(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("apple\n")
    export(make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny()))), tmp_path / "to")
    assert table_of(tmp_path / "to")["word"].to_pylist() == ["apple"]


def test_what_is_not_written_as_it_should_be_is_noticed_and_does_not_stay(kept, tmp_path, monkeypatch):
    """A single bit of the vectors as they are written."""
    from ctxbatch.tables import parquet_files

    write = parquet_files.pq.ParquetWriter.write_table

    def flipped(self, table, **settings):
        if "static" not in table.column_names:
            return write(self, table, **settings)
        vectors = vectors_of(table, "static").copy()
        vectors[0, 0] = np.nextafter(vectors[0, 0], np.float32(9))
        kind = table.schema.field("static").type
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
        at = table.schema.get_field_index("static")
        return write(self, table.set_column(at, table.schema.field("static"), lists), **settings)

    monkeypatch.setattr(parquet_files.pq.ParquetWriter, "write_table", flipped)
    with pytest.raises(ctxbatch.ResourceError, match=r"not hold what was written .column static differs"):
        export(kept, tmp_path / "to", ExportOptions(columns=("word", "static")))
    assert not [*(tmp_path / "to").rglob("words*")][1:]
    monkeypatch.undo()
    assert export(kept, tmp_path / "to", ExportOptions(columns=("word", "static"))).rows == kept.n_rows


# --- readers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_duckdb_polars_pandas_and_datasets_read_it_as_it_is(dtype, kept, tmp_path):
    dest = tmp_path / "to"
    export(kept, dest, ExportOptions(file_bytes=SMALL, dtype=dtype))
    vectors = stored(kept, "static")
    of_int8 = Int8Vectors.of(vectors.astype(np.float32)).values_ND
    wanted = of_int8 if dtype == "int8" else vectors.astype(dtype)
    n_with_rows = len(kept.words.to_table()["sentence_id"].unique())
    n, n_sentences = kept.n_rows, kept.sentences.count_rows()

    rows = duckdb.sql(f"SELECT static FROM '{dest}/words/*.parquet' ORDER BY row_id").fetchall()
    np.testing.assert_array_equal(np.array([row[0] for row in rows], dtype), wanted)
    joined = f"FROM '{dest}/words/*.parquet' JOIN '{dest}/sentences/*.parquet' USING (sentence_id)"
    assert duckdb.sql(f"SELECT count(*), count(DISTINCT sentence_id) {joined}").fetchall()[0] == (
        n,
        n_with_rows,
    )

    frame = pl.read_parquet(dest / "words" / "*.parquet")
    np.testing.assert_array_equal(bits(frame["static"].to_numpy()), bits(wanted))
    assert pl.scan_parquet(dest / "sentences").collect().height == n_sentences

    frame = pd.read_parquet(dest / "words")
    np.testing.assert_array_equal(bits(np.stack(frame["static"])), bits(wanted))
    assert len(pd.read_parquet(dest / "sentences")) == n_sentences

    datasets.disable_progress_bars()
    read = datasets.load_dataset(str(dest), split="train", cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(bits(read.with_format("numpy")["static"][:].astype(dtype)), bits(wanted))
    read = datasets.load_dataset(str(dest), "sentences", split="train", cache_dir=str(tmp_path / "cache"))
    assert read["text"][:] == kept.sentences.to_table()["text"].to_pylist()


def test_a_joined_export_loads_as_a_data_set_too(kept, tmp_path):
    export(kept, tmp_path / "to", ExportOptions(join=True))
    datasets.disable_progress_bars()
    read = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.num_rows == kept.n_rows
    assert {"text", "source", "year"} <= {*read.column_names}


# --- the card -------------------------------------------------------------------------------------


def test_the_card_says_what_there_is(kept, tmp_path):
    export(kept, tmp_path / "to", ExportOptions(columns=("word", "difference_3", "shift_1", "text")))
    card = (tmp_path / "to" / "README.md").read_text()
    assert "| layers | 3, 1 of 3 |" in card
    assert "| shift | asinh, delta 0.1 |" in card
    assert f"{kept.n_rows:,} rows in 1 file |" in card
    assert re.search(r"\| `difference_3` \| list of 32 float32 \| .*: c - s, with c of layer 3 \|", card)
    assert re.search(r"\| `shift_1` \| list of 32 float32 \| .*: asinh\(c/0.1\) - .* layer 1 \|", card)
    assert "| `text` | string |" in card


@pytest.mark.parametrize("columns", [None, ("text", "static")])
def test_what_the_card_says_of_reading_works_in_the_folder(columns, kept, tmp_path):
    export(kept, tmp_path / "to", ExportOptions(columns=columns))
    code = re.search("```python\n(.*?)```", (tmp_path / "to" / "README.md").read_text(), re.S)[1]
    code = code.replace('"tables"', '"to"')
    done = subprocess.run(
        [sys.executable, "-c", code + "print(len(words), 'rows')"],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{kept.n_rows} rows" in done.stdout


def test_names_from_a_store_are_no_markdown_in_the_card(tiny, tmp_path):
    name = "a|b <b>x</b> [l](http://u) `c`\u202e"
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "I want an apple.", name: "x"}) + "\n")
    config = RunConfig(model=str(tiny()), keep_field=(name,))
    export(make_store(tmp_path / "out", [tmp_path / "a.jsonl"], config), tmp_path / "to")
    card = (tmp_path / "to" / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("| a\\"))
    assert line.startswith(r"| a\|b \<b\>x\</b\> \[l\]\(http\://u\) \`c\`  | string or null |")
    assert "\u202e" not in card
    datasets.disable_progress_bars()
    read = datasets.load_dataset(
        str(tmp_path / "to"), "sentences", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert read[0][name] == "x"


# --- refusals -------------------------------------------------------------------------------------


def refused(store, dest, match, kind=StoreError, **options):
    with pytest.raises(kind, match=match) as told:
        export(store, dest, ExportOptions(**options))
    assert "\n" not in str(told.value)


def test_a_folder_that_is_something_else_is_refused_and_left_alone(kept, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(kept, tmp_path / "file", "file is a file: name a new folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("x")
    refused(kept, tmp_path / "other", r"other contains other files \(x.txt\) and no export: name a new")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["x.txt"]
    refused(kept, kept.path / "to", "is in the store", InputError)
    before = files_of(kept.path)
    refused(kept, kept.path, "is in the store", InputError)
    assert files_of(kept.path) == before


def test_another_store_is_no_place_for_an_export(kept, tiny, corpus, tmp_path):
    make_store(tmp_path / "store", [corpus], RunConfig(model=str(tiny())))
    refused(kept, tmp_path / "store", "is a store or another set of data .*: name a new folder")


def test_an_export_with_other_options_or_of_another_store_is_refused(kept, tiny, corpus, tmp_path):
    export(kept, tmp_path / "to", ExportOptions(columns=("word",)))
    before = files_of(tmp_path / "to")
    to = tmp_path / "to"
    refused(kept, to, "with --columns word, not without --columns")
    refused(kept, to, "without --join, not with --join", columns=("word",), join=True)
    refused(kept, to, "with --dtype float32, not with --dtype float16", columns=("word",), dtype="float16")
    other = make_store(tmp_path / "out", [corpus], RunConfig(model=str(tiny())))
    refused(other, to, "is an export of another store, or of .* before it changed", columns=("word",))
    assert files_of(to) == before


def test_a_store_that_has_changed_since_is_refused(tiny, tmp_path):
    """A shard has been made again with other bytes."""
    (tmp_path / "a.txt").write_text("I want an apple.\n")
    config = RunConfig(model=str(tiny()))
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], config)
    export(store, tmp_path / "to")
    commit = store.commits[0]
    words = replace(commit.files["words.arrow"], sha256="0" * 64)
    changed = ctxbatch.open(tmp_path / "out")
    changed.commits[0] = replace(commit, files={**commit.files, "words.arrow": words})
    refused(changed, tmp_path / "to", "or of .* before it changed: name a new folder")


def test_a_card_that_was_edited_stays(kept, tmp_path):
    export(kept, tmp_path / "to")
    (tmp_path / "to" / "README.md").write_text("Ours.\n")
    assert export(kept, tmp_path / "to").written == 0
    assert (tmp_path / "to" / "README.md").read_text() == "Ours.\n"


def test_a_plan_of_other_tables_is_refused(kept, tmp_path):
    """With the right checksum: anybody can make one."""
    export(kept, tmp_path / "to")
    plan = read_json(tmp_path / "to" / "export.json")
    for tables in ([plan["tables"][0]], [{**plan["tables"][0], "rows": 1}, plan["tables"][1]]):
        write_json(tmp_path / "to" / "export.json", {**plan, "tables": tables})
        refused(kept, tmp_path / "to", "it plans other tables: name a new folder")


def test_a_damaged_plan_is_refused(kept, tmp_path):
    export(kept, tmp_path / "to")
    path = tmp_path / "to" / "export.json"
    path.write_text(path.read_text().replace('"rows_per_file": ', '"rows_per_file": 1'))
    refused(kept, tmp_path / "to", "export.json is damaged: .*: name a new folder")


def test_damaged_vectors_are_not_exported(kept, tmp_path):
    store = ctxbatch.open(shutil.copytree(kept.path, tmp_path / "store"))
    words = store.path / "shards" / "000000" / "words.arrow"
    content = bytearray(words.read_bytes())
    vector = np.ascontiguousarray(store.column("contextual_3", None, [0]).take(np.arange(1))).tobytes()
    content[content.index(vector)] ^= 1
    words.write_bytes(content)
    refused(store, tmp_path / "dest", match=r"words\.arrow is damaged: .* `ctxbatch verify")
    assert not list((tmp_path / "dest").rglob("*.parquet"))


def test_unfinished_and_empty_stores_are_refused(kept, tiny, tmp_path):
    store = ctxbatch.open(kept.path)
    del store.commits[0]
    refused(store, tmp_path / "to", "is unfinished .* run its `ctxbatch run` command again")
    (tmp_path / "a.txt").write_text("I want an apple.\n")
    config = RunConfig(model=str(tiny()), words=("pear",))
    empty = make_store(tmp_path / "out", [tmp_path / "a.txt"], config)
    refused(empty, tmp_path / "to", "is empty")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ("wrod", r"--columns wrod: there is no such column \(did you mean word\?\): choose from row_id, .*"),
        ("difference_2", "--columns difference_2: there is no such column"),
        ("static-standardised", "--columns static-standardised: there is no such column"),
        ("word,word", "--columns names word twice: name it once"),
        ("word,,text", "has an empty name"),
    ],
)
def test_columns_that_do_not_exist_are_refused_in_one_line(columns, why, kept, tmp_path, cli):
    result = cli("export", kept.path, tmp_path / "to", "--columns", columns)
    assert result.returncode == 2
    assert re.search(why, result.stderr)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "to").exists()


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_it_has_written_and_does_nothing_twice(kept, tmp_path, cli):
    arguments = ["export", kept.path, tmp_path / "to", "--dtype", "float16", "--join", "--file-size", "40kB"]
    result = cli(*arguments)
    assert result.returncode == 0, result.stderr
    assert "DuckDB before 1.3 and Spark cannot read them" in result.stderr
    assert re.search(rf"to: {kept.n_rows:,} rows in \d+ files, .* equal to the store\n", result.stdout)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    result = cli(*arguments, "--json")
    report = json.loads(result.stdout)
    assert (report["written"], report["files"], report["rows"]) == (0, len(before), kept.n_rows)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before
    assert cli(*arguments, "--quiet").stdout == ""
