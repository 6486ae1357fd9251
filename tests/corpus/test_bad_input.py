"""Bad records: each kind is rejected by name, with its place and reason."""

import random
import re

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ctxbatch
from ctxbatch.corpus.records import Record, Reject
from tests.helpers.corpora import (
    COMPRESS,
    as_json_lines,
    as_lines,
    as_table,
    read_all,
    write_arrow_file,
    write_parquet,
)

LOST = "the rest is lost"
FILLER = [f"line {n} {n * 7919 % 1009}" for n in range(200)]


# Name of a file, its bytes, and what is rejected of it: record, byte, and how the reason begins.
REJECTED = {
    "broken json": ("a.jsonl", b'{"text": "ok"}\n{"text": "cut\n', [(1, 15, "not JSON: ")]),
    "json that is no object": (
        "a.jsonl",
        b'[1]\n"x"\n3\n{"text": ""}',
        [
            (0, 0, "not a JSON object but an array"),
            (1, 4, "not a JSON object but a string"),
            (2, 8, "not a JSON object but a number"),
        ],
    ),
    "null text": ("a.jsonl", b'{"text": null}\n', [(0, 0, "field 'text' is null, not a string")]),
    "text that is no string": (
        "a.jsonl",
        b'{"text": 5}\n{"text": true}\n{"text": {"a": 1}}\n',
        [
            (0, 0, "field 'text' is a number, not a string"),
            (1, 12, "field 'text' is a boolean, not a string"),
            (2, 27, "field 'text' is an object, not a string"),
        ],
    ),
    "a record without the field": ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', [(1, 14, "no field 'text'")]),
    "json nested too deeply": (
        "a.jsonl",
        b"[" * 200_000 + b'\n{"text": "x"}',
        [(0, 0, "not JSON: nested too deeply")],
    ),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"text": "\\ud800"}\n',
        [(0, 0, "holds half of a surrogate pair, which is not text")],
    ),
    "json with invalid bytes": ("a.jsonl", b'{"text": "\xe4"}\n', [(0, 0, "not UTF-8 at byte 10")]),
    "a number of too many digits": (
        "a.jsonl",
        b'{"text": "x", "id": ' + b"9" * 5000 + b"}\n",
        [(0, 0, "not JSON: a number has too many digits")],
    ),
    "two objects on a line": ("a.jsonl", b'{"text": "x"} {"text": "y"}\n', [(0, 0, "not JSON: Extra data")]),
    "latin-1 as utf-8": ("a.txt", b"ok\ncaf\xe9\nok\n", [(1, 3, "not UTF-8 at byte 6")]),
    "overlong and cut sequences": (
        "a.txt",
        b"\xc0\x80\nok\n\xe2\x82",
        [
            (0, 0, "not UTF-8 at byte 0"),
            (2, 6, "not UTF-8 at byte 6"),
        ],
    ),
    "invalid bytes in a paragraph's field": (
        "a.csv",
        b'id,text\n1,"a\nb\xff"\n2,c\n',
        [(0, 8, "not UTF-8 at byte 14")],
    ),
    "a row with too many fields": (
        "a.csv",
        b"id,text\n1,a,b\n2,c\n",
        [(0, 8, "the header has 2 columns, the row 3")],
    ),
    "a row with too few fields": (
        "a.csv",
        b"id,text\n1\n2,c\n",
        [(0, 8, "the header has 2 columns, the row 1")],
    ),
    "text after a closing quote": (
        "a.csv",
        b'id,text\n1,"a" b,c\n2,"d, e"\n',
        [(0, 8, "not CSV: ")],
    ),
    "a quote that is never closed": (
        "a.csv",
        b'id,text\n1,"a, b"\n2,"b,c\n3,c\n4,d\n',
        [(1, 17, "not CSV: unexpected end of data")],
    ),
    "a lone carriage return": (
        "a.csv",
        b"id,text\n1,a\rb,c\n2,c\n",
        [(0, 8, "not CSV: a carriage return outside quotes")],
    ),
    "a truncated gzip file": (
        "a.txt.gz",
        COMPRESS[".gz"](as_lines(FILLER))[:-30],
        [(..., ..., "the gzip data end too early")],
    ),
    "a truncated bzip2 file": (
        "a.txt.bz2",
        COMPRESS[".bz2"](as_lines(FILLER) + b"x" * 10**6)[:-10],
        [(..., ..., "the bzip2 data end too early")],
    ),
    "a truncated xz file": (
        "a.txt.xz",
        COMPRESS[".xz"](as_lines(FILLER))[:-30],
        [(..., ..., "the xz data end too early")],
    ),
    "a truncated zstd file": (
        "a.txt.zst",
        COMPRESS[".zst"](as_lines(FILLER))[:-3],
        [(0, 0, "the zstd data end too early")],
    ),
    "a truncated lz4 file": (
        "a.txt.lz4",
        COMPRESS[".lz4"](as_lines(FILLER))[:-3],
        [(..., ..., "the lz4 data end too early")],
    ),
    "garbage behind a gzip file": (
        "a.txt.gz",
        COMPRESS[".gz"](b"ok\n") + b"garbage",
        [(1, 3, "the gzip data are damaged")],
    ),
    "a gzip file with a wrong checksum": (
        "a.txt.gz",
        COMPRESS[".gz"](b"ok\nok\n")[:-8] + b"\0" * 8,
        [(2, 6, "the gzip data are damaged (CRC check failed")],
    ),
    "text named as gzip": ("a.txt.gz", b"plain text\n", [(0, 0, "the gzip data are damaged")]),
    "text named as zstd": ("a.jsonl.zst", b"plain text\n", [(0, 0, "the zstd data are damaged")]),
    "text named as parquet": ("a.parquet", b"plain text\n" * 9, [(0, None, "the Parquet data are damaged")]),
    "text named as arrow": ("a.arrow", b"plain text\n" * 9, [(0, None, "the Arrow data are damaged")]),
    "feather of version 1": ("a.feather", b"FEA1" + b"\0" * 50, [(0, None, "Feather version 1")]),
    "a csv of nothing but damage": (
        "a.csv.gz",
        b"\x1f\x8b\x08" + b"\0" * 5,
        [(0, 0, "the gzip data end too early")],
    ),
}


@pytest.mark.parametrize("kind", list(REJECTED))
@pytest.mark.parametrize("shard_size", [5, 10**6])
def test_every_kind_of_bad_record_is_rejected_with_its_place_and_reason(tmp_path, kind, shard_size):
    name, content, expected = REJECTED[kind]
    path, good = tmp_path / name, tmp_path / "b.txt"
    path.write_bytes(content)
    good.write_text("good\n")
    _, _, items = read_all([path, good], shard_size=shard_size)
    rejects = [item for item in items if isinstance(item, Reject)]
    assert len(rejects) == len(expected), rejects
    for reject, (record, byte_start, reason) in zip(rejects, expected, strict=True):
        assert record in (..., reject.record)
        assert byte_start in (..., reject.byte_start)
        assert reject.reason.startswith(reason)
    numbers = [item.record for item in items if item.source == 0]
    assert numbers == list(range(len(numbers)))  # every record is stored or rejected
    assert items[-1] == Record(1, 0, 0, None, "good")


def test_a_table_cut_off_is_rejected_from_where_it_ends(tmp_path):
    good = tmp_path / "z.txt"
    good.write_text("good\n")
    for name, write in (
        ("stream.arrow", _stream),
        ("file.arrow", write_arrow_file),
        ("a.parquet", write_parquet),
    ):
        path = tmp_path / name
        write(as_table(FILLER), path)
        path.write_bytes(path.read_bytes()[:-2000])
        _, _, items = read_all([path, good], shard_size=100)
        *records, reject, last = items
        assert [record.text for record in records] == FILLER[: len(records)]
        assert reject.record == len(records)
        assert LOST in reject.reason
        assert last.text == "good"
        path.unlink()


def _stream(table, path):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def test_a_record_that_is_too_long_is_rejected_and_the_next_is_read(tmp_path, monkeypatch):
    for module in ("corpus.streams", "corpus.units", "corpus.formats.plain_text"):
        monkeypatch.setattr(f"ctxbatch.{module}.MAX_RECORD_BYTES", 50)
    content = b"short\n" + b"x" * 170 + b"\nnext\n\n" + b"y\n" * 40 + b"\nlast\n"
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    for size in (1, 60, 10**6):
        _, _, items = read_all([path], shard_size=size)
        assert [item.record for item in items] == list(range(46))
        assert [i for i in items if isinstance(i, Reject)] == [Reject(0, 1, 6, "longer than 64 MiB")]
        _, _, items = read_all([path], record="paragraph", shard_size=size)
        assert [(type(item), item.record) for item in items] == [(Reject, 0), (Reject, 4), (Record, 45)]


def test_damage_behind_a_record_that_is_too_long_is_told_too(tmp_path, monkeypatch):
    for module in ("corpus.streams", "corpus.units", "corpus.formats.plain_text"):
        monkeypatch.setattr(f"ctxbatch.{module}.MAX_RECORD_BYTES", 2000)
    chance = random.Random(2)
    content = b"first\n\n" + b"".join(b"%d\n" % chance.randrange(10**9) for _ in range(900)) + b"\nlast\n"
    path = tmp_path / "a.txt.gz"
    path.write_bytes(COMPRESS[".gz"](content)[:-1500])
    _, _, items = read_all([path], record="paragraph")
    assert [item.reason.split(":")[0] for item in items[1:]] == [
        "longer than 64 MiB",
        "the gzip data end too early",
    ]


soup = st.lists(st.sampled_from(["a", '"', ",", "\t", "\n", '"\n', '",\n', '\t"', "é", "\r\n"]), max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(parts=soup, name=st.sampled_from(["a.csv", "a.tsv"]), sizes=st.tuples(*[st.integers(1, 40)] * 2))
def test_broken_quoting_gives_the_same_records_whatever_the_shard_size(tmp_path, parts, name, sizes):
    path, good = tmp_path / name, tmp_path / "z.txt"
    good.write_text("good")
    path.write_text(("id,text\n" if name == "a.csv" else "id\ttext\n") + "".join(parts), newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxbatch.corpus.formats.delimited._MAX_QUOTED_LINES", 3)
        patch.setattr("ctxbatch.corpus.formats.delimited._MAX_FAILURES", 2)
        patch.setattr("ctxbatch.corpus.formats.delimited._WINDOW_BYTES", 40)
        one, other = (read_all([path, good], shard_size=size)[2] for size in sizes)
    assert one == other
    assert [item.record for item in one] == [*range(len(one) - 1), 0]


def test_many_quotes_that_are_never_closed_take_no_quadratic_time(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y,text\n1,2,ok\n" + 'a",,"c\n' * 20_000)
    _, _, items = read_all([path], shard_size=50_000)
    assert len(items) == 20_001
    assert isinstance(items[0], Record)


@pytest.mark.parametrize("every", [1, 100])
def test_a_file_of_stray_quotes_is_still_cut_into_shards(tmp_path, monkeypatch, every):
    monkeypatch.setattr("ctxbatch.corpus.formats.delimited._WINDOW_BYTES", 100_000)
    path = tmp_path / "a.tsv"
    quoted = [f"{n}\t{chr(34) if n % every == 0 else ''}He said nothing {n}\n" for n in range(20_000)]
    path.write_text("id\ttext\n" + "".join(quoted))
    _, shards, items = read_all([path], shard_size=10_000)
    assert [item.text for item in items] == [line.split("\t")[1].rstrip("\n") for line in quoted]
    assert len(items) == 20_000
    assert len(shards) >= 4


def test_lines_of_wide_encodings_take_no_quadratic_time(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(("\u0a0a" * 2_000_000 + "\nnext").encode("utf-16"))
    _, _, items = read_all([path])
    assert [len(item.text) for item in items] == [2_000_000, 4]


def test_quotes_in_tsv_that_are_no_quoting_are_characters(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"Hello," she said.\n2\t"quoted ""text"""\n3\t"open\n4\tlast\n')
    _, _, items = read_all([path], quoting="csv")
    assert [item.text for item in items] == ['"Hello," she said.', 'quoted "text"', '"open', "last"]


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.delimited._MAX_QUOTED_BYTES", 100)
    rows = [f"{n},text {n}" for n in range(100)]
    rows[9] = '9,"in quotes, with a comma"'
    rows[10] = '10,"open, with a comma'
    path = tmp_path / "a.csv"
    path.write_text("id,text\n" + "\n".join(rows))
    _, _, items = read_all([path], shard_size=50)
    assert [item.record for item in items] == list(range(100))
    assert [i.reason for i in items if isinstance(i, Reject)] == ["not CSV: a quoted field does not end"]


# --- the whole way --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for number, (name, content, _) in enumerate(REJECTED.values()):
        (folder / f"{number:02d}{name}").write_bytes(content)
    (folder / "good.jsonl").write_bytes(as_json_lines(["A good line.", "And another one."]))
    return folder


def test_a_folder_of_bad_files_is_run_to_the_end_and_every_record_accounted_for(
    bad_folder, tmp_path, tiny, cli
):
    out = tmp_path / "out"
    result = cli("run", bad_folder, "-o", out, "--model", tiny(), "--shard-size", "300")
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr + (out / "run.log").read_text()
    store = ctxbatch.open(out)
    from ctxbatch.store.rejects import rejects
    from ctxbatch.store.stats import totals

    found = totals(store)
    lines = list(rejects(store))
    assert found.rejected == len(lines) == sum(len(expected) for _, _, expected in REJECTED.values())
    stored = {(s["source"], s["record"]) for s in store.sentences.to_table().to_pylist()}
    rejected = {(line["source"], line["record"]) for line in lines}
    assert not stored & rejected
    _, _, items = read_all([bad_folder])
    blank = sum(isinstance(item, Record) and not item.text.strip() for item in items)
    assert found.records == len(items) == len(stored) + len(rejected) + blank
    assert re.search(
        rf"rejected  {len(lines)} records, 0 words \(most often, \d+(, such as)?: .*\): see .*rejects.jsonl",
        result.stderr,
    )


def test_max_rejects_stops_a_hopeless_run_early(tmp_path, tiny, cli):
    path = tmp_path / "a.jsonl"
    bad = b'{"txt": 1}\n' * 30
    path.write_bytes((as_json_lines(["A line of text."] * 100) + bad) * 10)
    out = tmp_path / "out"
    command = ["run", path, "-o", out, "--model", tiny(), "--shard-size", "2000"]
    result = cli(*command, "--max-rejects", "5%")
    assert result.returncode == 3
    message = result.stderr.splitlines()[-1]
    assert re.search(
        r"ctxbatch: \d+ of \d+ records are rejected, more than --max-rejects 5% "
        r"\(the first: .*a.jsonl, record \d+: no field 'text'\): ",
        message,
    )
    assert not ctxbatch.open(out).complete
    result = cli(*command, "--max-rejects", "10")
    assert result.returncode == 3
    assert "more than --max-rejects 10 (" in result.stderr
    result = cli(*command, "--max-rejects", "30%")
    assert result.returncode == 3
    assert ctxbatch.open(out).complete
    assert "rejected  300 records" in result.stderr


@pytest.mark.parametrize("value", ["-1", "many", "150%", "1.5"])
def test_a_max_rejects_that_is_no_number_or_share_is_refused(tmp_path, value, cli):
    (tmp_path / "a.txt").write_text("x")
    result = cli("run", tmp_path / "a.txt", "-o", tmp_path / "out", f"--max-rejects={value}")
    assert result.returncode == 2
    assert re.fullmatch(r"ctxbatch: --max-rejects .* must be a count.*\n", result.stderr)
