"""Bad input that makes a whole run useless: refused in one line, before anything is done."""

from pathlib import Path

import pyarrow as pa
import pytest

import ctxbatch
from ctxbatch import RunConfig
from ctxbatch.errors import CtxbatchError, InputError
from tests.helpers.corpora import read_all, write_arrow_file, write_parquet

GOOD = {"a.txt": b"one\ntwo\n"}
REFUSED = {
    "no such file": ({}, ["missing.txt"], {}, r"missing.txt: no such file or folder"),
    "no input": ({}, [], {}, r"no input given"),
    "an empty name": ({}, [""], {}, r"an input is empty"),
    "an empty file": ({"a.txt": b""}, ["a.txt"], {}, r"the inputs are empty: .*a.txt"),
    "an unknown suffix": ({"a.pdf": b"x"}, ["a.pdf"], {}, r"a.pdf: unknown format '.pdf'"),
    "a folder without text": ({"f/a.png": b"x"}, ["f"], {}, r"f holds no file that can be read"),
    "a pattern without files": (GOOD, ["*.csv"], {}, r"\*.csv: no file matches this pattern"),
    "named twice": (GOOD, ["a.txt", "a.txt"], {}, r"a.txt is given twice"),
    "a compressed table": (
        {"a.parquet.gz": b"x"},
        ["a.parquet.gz"],
        {},
        r"parquet files are compressed inside",
    ),
    "a missing json field": (
        {"a.jsonl": b'{"body": "x", "meta": {"id": 1}}\n'},
        ["a.jsonl"],
        {},
        r"a.jsonl has no field 'text'; its fields are body, meta.id: name one with --text-field",
    ),
    "a missing csv column": (
        {"a.csv": b"id,body\n1,x\n"},
        ["a.csv"],
        {},
        r"a.csv has no field 'text'; its fields are id, body: name one with --text-field",
    ),
    "an exclusion that is empty": (GOOD, ["a.txt"], {"exclude": ("./",)}, r"--exclude './' matches no path"),
    "an exclusion that is a string": (GOOD, ["a.txt"], {"exclude": "*"}, r"--exclude '\*' is no tuple of"),
    "an exclusion that is a path": (GOOD, ["a.txt"], {"exclude": (Path("x"),)}, r"is no tuple of strings"),
    "several files": (
        {"a.csv": b"id,body\n1,x\n", "b.jsonl": b'{"body": "x"}\n', "c.txt": b"x", "d.csv": b"a\n1\n"},
        ["a.csv", "b.jsonl", "c.txt", "d.csv"],
        {},
        r"a.csv has no field 'text'; .*; also refused: \S*b.jsonl, \S*d.csv \(--exclude PATTERN leaves files",
    ),
    "more files than can be shown": (
        {f"{n}.csv": b"a\n1\n" for n in range(30)},
        ["*.csv"],
        {},
        r"0.csv has no field 'text'; .*; also refused: (\S*\d.csv, ){19}… \(--exclude PATTERN leaves files",
    ),
    "a csv table without a header": (
        {"a.csv": b'1,"He said ""no"", and left.",,x y\n2,b,c,d\n'},
        ["a.csv"],
        {},
        r"""fields are 1, 'He said "no", and left.', '', 'x y': name one with --text-field, """
        r"or add --no-header if the first row holds no names$",
    ),
    "a csv table of long texts without a header": (
        {"a.csv": b"x" * 500 + b"," + b"x y" * 500 + b"\n"},
        ["a.csv"],
        {},
        r"its fields are x{200}…, 'x yx y[x y]+…': name one with",
    ),
    "a table of another delimiter": (
        {"a.csv": b"id;body\n1;x\n"},
        ["a.csv"],
        {},
        r"its fields are id;body: name one with --text-field, or set --delimiter ';'$",
    ),
    "a missing id": (
        {"a.csv": b"id,text\n1,x\n"},
        ["a.csv"],
        {"id_field": "key"},
        r"a.csv has no field 'key'; its fields are id, text: name one with --id-field",
    ),
    "a header that is not csv": (
        {"a.csv": b'"id" x,text\n1,x\n'},
        ["a.csv"],
        {"quoting": "csv"},
        r"a.csv has no header",
    ),
    "a header of invalid bytes": ({"a.csv": b"t\xffxt\n1\n"}, ["a.csv"], {}, r"a.csv has no header"),
    "an unknown encoding": (GOOD, ["a.txt"], {"encoding": "utf-9"}, r"--encoding 'utf-9' is unknown"),
    "an encoding without lines": (GOOD, ["a.txt"], {"encoding": "cp037"}, r"--encoding cp037 cannot be read"),
    "fields of text": (GOOD, ["a.txt"], {"text_field": "body"}, r"--text-field body cannot be used"),
    "paragraphs of json": (
        {"a.jsonl": b"{}"},
        ["a.jsonl"],
        {"record": "paragraph"},
        r"--record paragraph is for text files",
    ),
    "only damage": ({"a.txt.gz": b"no gzip"}, ["a.txt.gz"], {}, r"nothing can be read: .*the gzip data"),
    "text as parquet": ({"a.parquet": b"x" * 99}, ["a.parquet"], {}, r"nothing can be read: .*Parquet data"),
    "a zip archive named as text": (
        {"a.txt": b"PK\x03\x04" + b"x" * 99},
        ["a.txt"],
        {},
        r"a zip archive: unpack",
    ),
    "an array of json": (
        {"a.jsonl": b'[{"text": "x"},\n{"text": "y"}]'},
        ["a.jsonl"],
        {},
        r"not one JSON object per line",
    ),
    "pretty printed json": ({"a.jsonl": b'{\n "text": "x"\n}\n'}, ["a.jsonl"], {}, r"not one JSON object"),
    "utf-16 without a mark": (
        {"a.txt": "some text of a few words\n".encode("utf-16-le")},
        ["a.txt"],
        {},
        r"looks like UTF-16 without a byte order mark: say --encoding utf-16-le$",
    ),
    "utf-16 of the other order without a mark": (
        {"a.txt": "some text of a few words\n".encode("utf-16-be")},
        ["a.txt"],
        {},
        r"looks like UTF-16 without a byte order mark: say --encoding utf-16-be$",
    ),
    "json lines in utf-16 without a mark": (
        {"a.jsonl": '{"text":"a"}\n'.encode("utf-16-le")},
        ["a.jsonl"],
        {},
        r"looks like UTF-16 without a byte order mark: say --encoding utf-16-le$",
    ),
    "two fields of one name": ({"a.csv": b"text,text\nx,y\n"}, ["a.csv"], {}, r"a.csv has 2 fields 'text'"),
    "an encoding that cannot replace": (
        GOOD,
        ["a.txt"],
        {"encoding": "idna"},
        r"--encoding 'idna' is unknown",
    ),
    "an unknown format": (GOOD, ["a.txt"], {"format": "pdf"}, r"--format 'pdf' is not one of txt, jsonl"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_read_at_all_is_refused_in_one_line(tmp_path, monkeypatch, kind):
    files, inputs, options, message = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_all([Path(name) if name else name for name in inputs], **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"text": [1, 2]}, r"field 'text' is int64, not text: name another with --text-field"),
        ({"text": [["a"]]}, r"field 'text' is list<.*>, not text"),
        (
            {"doc": [{"body": "x"}]},
            r"has no field 'text'; its fields are doc.body: name one with --text-field",
        ),
    ],
)
def test_a_table_without_a_column_of_text_is_refused(tmp_path, table, message):
    for name, write in (("a.parquet", write_parquet), ("a.arrow", write_arrow_file)):
        write(pa.table(table), tmp_path / name)
        with pytest.raises(InputError, match=message):
            read_all([tmp_path / name])


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    write_arrow_file(table, tmp_path / "a.arrow")
    with pytest.raises(InputError, match=r"a.arrow has 2 fields 'text': give them different names"):
        read_all([tmp_path / "a.arrow"])


def test_blank_lines_before_a_header_and_files_without_one_are_no_hindrance(tmp_path):
    (tmp_path / "a.csv").write_text("\n\nid,text\n1,one\n")
    (tmp_path / "b.csv").write_text("\n\n")
    (tmp_path / "c.csv").write_text("id,text\n")
    _, _, items = read_all([tmp_path], shard_size=1)
    assert [(item.record, item.text) for item in items] == [(0, "one")]


def test_a_folder_that_cannot_be_a_store_is_refused(tmp_path, tiny):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    config = RunConfig(model=str(tiny()))
    for out, message in (("a.txt", "is a file: name a folder"), ("full", "contains other files")):
        with pytest.raises(CtxbatchError, match=message):
            ctxbatch.run(tmp_path / "a.txt", tmp_path / out, config)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
