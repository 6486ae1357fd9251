"""Every format and compression gives the same records, at exact places, read once, whatever the shards."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxbatch import RunConfig
from ctxbatch.corpus.inputs import find_sources
from ctxbatch.corpus.records import Reject
from ctxbatch.errors import InputError
from tests.helpers.corpora import (
    COMPRESS,
    as_delimited,
    as_json_lines,
    as_lines,
    as_table,
    read_all,
    relaxed,
    texts_of,
    write_all,
    write_arrow_file,
    write_arrow_stream,
    write_parquet,
)
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store, rows_of

VERSES = [line for line in TEXT.splitlines() if "antidis" not in line] * 3


# --- the same records from every format -----------------------------------------------------------


def test_every_format_and_compression_gives_identical_vectors_and_texts(tmp_path, tiny):
    files = write_all(tmp_path / "in", VERSES)
    assert len(files) == 19
    config = RunConfig(model=str(tiny()))
    expected = rows_of(make_store(tmp_path / "expected", [files[0]], config))
    for file in files[1:]:
        found = rows_of(make_store(tmp_path / file.name, [file], config))
        assert len(found) == len(expected)
        for row, other in zip(found, expected, strict=True):
            for column in ("static", "contextual_2", "shift_2"):
                assert np.array_equal(row[column], other[column])
            for name in ("row_id", "word", "char_start", "char_end"):
                assert row[name] == other[name]
            for name in ("text", "record", "char_start"):
                assert row["sentence"][name] == other["sentence"][name]
    mixed = make_store(tmp_path / "mixed", [tmp_path / "in"], config)
    assert mixed.n_rows == len(files) * len(expected)


# No line ends inside, as a line has none; no lone surrogates, which no encoding has.
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"), max_size=12)
WRITERS = {
    "a.txt": lambda texts, path: path.write_bytes(as_lines(texts)),
    "a.txt.zst": lambda texts, path: path.write_bytes(COMPRESS[".zst"](as_lines(texts))),
    "a.jsonl.gz": lambda texts, path: path.write_bytes(COMPRESS[".gz"](as_json_lines(texts))),
    "a.csv": lambda texts, path: path.write_bytes(as_delimited(texts, ",")),
    "a.tsv": lambda texts, path: path.write_bytes(as_delimited(texts, "\t")),
    "a.parquet": lambda texts, path: write_parquet(as_table(texts), path, row_group_size=3),
    "file.arrow": lambda texts, path: write_arrow_file(as_table(texts), path, rows=4),
    "stream.arrow": lambda texts, path: write_arrow_stream(as_table(texts), path, rows=4),
}


@relaxed
@given(
    texts=st.lists(any_text, min_size=1, max_size=20),
    size=st.integers(1, 60),
    name=st.sampled_from(list(WRITERS)),
)
def test_records_are_conserved_whatever_the_format_and_the_shard_size(tmp_path, texts, size, name):
    path = tmp_path / name
    WRITERS[name](texts, path)
    _, shards, items = read_all([path], shard_size=size)
    assert texts_of(items) == texts
    assert [item.record for item in items] == list(range(len(texts)))
    assert sum(len(spec.segments) for spec in shards) == len(shards)


@relaxed
@given(texts=st.lists(st.text(st.sampled_from('ab",\n\t\r é'), max_size=8), min_size=1, max_size=12))
def test_delimited_fields_hold_quotes_and_line_ends(tmp_path, texts):
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        path = tmp_path / name
        path.write_bytes(content := as_delimited(texts, delimiter))
        _, _, items = read_all([path], shard_size=10, quoting="csv")
        assert texts_of(items) == texts
        for number, item in enumerate(items):
            assert content[item.byte_start :].startswith(f"{number}{delimiter}".encode())


@pytest.mark.parametrize("suffix", list(COMPRESS))
def test_byte_start_counts_decompressed_bytes(tmp_path, suffix):
    content = "one\r\nzwei ü\n\n  four\n".encode()
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](content))
    _, _, items = read_all([path], shard_size=6)
    assert [(item.byte_start, item.text) for item in items] == [
        (0, "one"),
        (5, "zwei ü"),
        (13, ""),
        (14, "  four"),
    ]


def test_archives_of_several_members_are_read_to_the_end(tmp_path):
    for suffix in list(COMPRESS)[1:]:
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(COMPRESS[suffix](b"one\ntw") + COMPRESS[suffix](b"o\nthree\n"))
        assert texts_of(read_all([path])[2]) == ["one", "two", "three"]


def test_compression_is_seen_without_its_suffix(tmp_path):
    for suffix, compress in COMPRESS.items():
        path = tmp_path / "a.jsonl"
        path.write_bytes(compress(as_json_lines(["one", "two"])))
        assert texts_of(read_all([path])[2]) == ["one", "two"], suffix


# --- fields and tables ----------------------------------------------------------------------------


def test_nested_fields_are_named_with_dots(tmp_path):
    rows = [{"meta": {"body": "one", "key": {"n": 1}}}, {"meta": {"body": "two", "key": {"n": 2}}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    write_arrow_file(pa.Table.from_pylist(rows), tmp_path / "c.arrow")
    _, _, items = read_all([tmp_path], text_field="meta.body", id_field="meta.key.n")
    assert [(item.text, item.doc_id) for item in items] == [("one", "1"), ("two", "2")] * 3


def test_a_name_with_a_dot_comes_before_a_way_through_objects(tmp_path):
    row = {"a.b": "name", "a": {"b": "way"}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    write_arrow_file(pa.Table.from_pylist([row]), tmp_path / "b.arrow")
    assert texts_of(read_all([tmp_path], text_field="a.b")[2]) == ["name", "name"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_text_columns_of_every_type_are_read_and_nulls_rejected_by_row(tmp_path, kind):
    column = pa.array(["one", None, "drei ü"], pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    write_arrow_file(pa.table({"text": column, "other": [1, 2, 3]}), tmp_path / "a.arrow", rows=2)
    _, _, items = read_all([tmp_path / "a.arrow"], shard_size=1)
    assert [(item.record, getattr(item, "text", None)) for item in items] == [
        (0, "one"),
        (1, None),
        (2, "drei ü"),
    ]
    assert items[1] == Reject(0, 1, None, "field 'text' is null, not a string")


def test_data_sets_saved_by_hugging_face_are_read_without_their_caches(tmp_path):
    def data(name):
        return datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(5)]})

    data("plain").save_to_disk(tmp_path / "plain", num_shards=2)
    datasets.DatasetDict({"train": data("train"), "test": data("test")}).save_to_disk(tmp_path / "split")
    write_arrow_stream(as_table(["cached"]), tmp_path / "plain" / "cache-0123.arrow")
    sources, left_out = find_sources([tmp_path], tmp_path / "out")
    assert left_out == [(str(tmp_path / "plain" / "cache-0123.arrow"), "a cache of Hugging Face datasets")]
    found = texts_of(read_all([tmp_path])[2])
    assert found == [f"{name} {n}" for name in ("plain", "test", "train") for n in range(5)]
    assert len(sources) == 4


def test_format_overrides_the_suffix(tmp_path):
    (tmp_path / "data.json").write_bytes(as_json_lines(["one"]))
    (tmp_path / "data.export.gz").write_bytes(COMPRESS[".gz"](as_json_lines(["two"])))
    assert texts_of(read_all([tmp_path], format="jsonl")[2]) == ["two", "one"]
    with pytest.raises(InputError, match=r"unknown format '.export'; known suffixes: .*; or set --format"):
        read_all([tmp_path / "data.export.gz"])


def test_a_data_set_that_lacks_a_file_is_refused(tmp_path):
    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "data", num_shards=2)
    next(tmp_path.glob("data/data-00001*")).unlink()
    with pytest.raises(InputError, match=r"state.json lists .*data-00001.*, which is missing: restore it"):
        read_all([tmp_path])


def test_patterns_do_not_reach_into_the_store(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    (tmp_path / "out" / "shards" / "000000").mkdir(parents=True)
    (tmp_path / "out" / "shards" / "000000" / "rejects.jsonl").write_text("{}")
    for pattern in ("*", "**", "**/*.jsonl"):
        sources, _ = find_sources([tmp_path / pattern], tmp_path / "out")
        assert [Path(source.path).name for source in sources] == ["a.jsonl"]
    sources, left_out = find_sources([tmp_path / "a.jsonl", tmp_path / "out"], tmp_path / "out")
    assert (len(sources), left_out) == (1, [(str(tmp_path / "out"), "a ctxbatch store")])


def test_another_delimiter_can_be_given_and_is_guessed_in_the_refusal(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id;text\n1;one, two\n2;three\n")
    assert texts_of(read_all([path], delimiter=";")[2]) == ["one, two", "three"]
    with pytest.raises(InputError, match="id;text: name one with --text-field, or set --delimiter ';'"):
        read_all([path])
    (tmp_path / "b.txt").write_text("one")
    with pytest.raises(InputError, match=r"--delimiter ; cannot be used"):
        read_all([tmp_path / "b.txt"], delimiter=";")


def test_globs_folders_and_files_go_in_together(tmp_path):
    for name in ("a/1.txt", "a/2.txt", "a/b/3.txt", "c/4.jsonl", "5.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {".txt": path.stem, ".jsonl": '{"text": "4"}', ".csv": "text\n5\n"}[path.suffix]
        path.write_text(content)
    assert texts_of(read_all([tmp_path / "a/*.txt", tmp_path / "c", tmp_path / "5.csv"])[2]) == list("1245")
    assert texts_of(read_all([tmp_path / "**" / "*.txt"])[2]) == list("123")
    assert texts_of(read_all([tmp_path / "a" / "**"])[2]) == list("123")
    with pytest.raises(InputError, match=r"no file matches this pattern"):
        read_all([tmp_path / "*.tsv"])


def test_a_file_with_the_signs_of_a_pattern_in_its_name_is_itself(tmp_path):
    (tmp_path / "a[1].txt").write_text("one")
    assert texts_of(read_all([tmp_path / "a[1].txt"])[2]) == ["one"]


def test_odd_things_in_a_folder_are_left_out_by_name(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "again.txt").symlink_to("a.txt")
    (tmp_path / "broken.txt").symlink_to("nowhere")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "b.parquet.gz").write_bytes(COMPRESS[".gz"](b"PAR1"))
    os.mkfifo(tmp_path / "pipe.txt")
    sources, left_out = find_sources([tmp_path], Path("/nowhere"))
    assert [Path(source.path).name for source in sources] == ["a.txt"]
    reasons = {Path(each.name).name: each.why for each in left_out}
    assert reasons["broken.txt"] == "a broken link"
    assert reasons["pipe.txt"] == "not a regular file"
    assert reasons["again.txt"].startswith("the same file as")
    assert reasons["picture.png"].startswith("unknown format '.png'")
    assert reasons["b.parquet.gz"] == "parquet files are compressed inside: decompress this one first (gzip)"
