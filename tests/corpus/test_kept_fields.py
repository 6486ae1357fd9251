"""Fields of the corpus are kept with their sentences, with one type over the whole corpus."""

import datetime
import json

import pyarrow as pa
import pytest

import ctxbatch
from ctxbatch import RunConfig
from ctxbatch.errors import InputError
from tests.helpers.corpora import read_all, write_parquet
from tests.helpers.stores import make_store


def store_of(tmp_path, tiny, path, **options):
    return make_store(tmp_path / "out", [path], RunConfig(model=str(tiny()), dtype="float32", **options))


def kept(store, *names):
    return [tuple(s[name] for name in names) for s in store.sentences.to_table().to_pylist()]


def test_fields_of_every_format_are_kept_with_one_type(tmp_path, tiny):
    rows = [("one", 1901, "A", "2020-01-02"), ("two", None, None, None), ("three", 1903, "B", "2020-01-03")]
    (tmp_path / "a.jsonl").write_text(
        "".join(
            json.dumps({"text": t, "meta": {"year": y}, "author": a, "day": d}) + "\n" for t, y, a, d in rows
        )
    )
    (tmp_path / "b.csv").write_text(
        "text,meta.year,author,day\n" + "".join(f"{t},{y or ''},{a or ''},{d or ''}\n" for t, y, a, d in rows)
    )
    days = [None if d is None else datetime.date.fromisoformat(d) for *_, d in rows]
    write_parquet(
        pa.table(
            {
                "text": [t for t, *_ in rows],
                "meta": [{"year": y} for _, y, *_ in rows],
                "author": [a for _, _, a, _ in rows],
                "day": days,
            }
        ),
        tmp_path / "c.parquet",
    )
    store = make_store(
        tmp_path / "out",
        [tmp_path / name for name in ("a.jsonl", "b.csv", "c.parquet")],
        RunConfig(model=str(tiny()), keep_field=("meta.year", "author", "day")),
    )
    assert store.manifest.reading.keep_field == ("meta.year:integer", "author:string", "day:date")
    found = kept(store, "meta.year", "author", "day")
    json_and_table = [(y, a, d) for (_, y, a, _), d in zip(rows, days, strict=True)]
    csv = [(y, a or "", d) for y, a, d in json_and_table]
    assert found == json_and_table + csv + json_and_table


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, 2.5], "number", [1.0, 2.5]),
        ([True, None], "boolean", [True, None]),
        (["7", "8"], "string", ["7", "8"]),
        (["2020-01-02", "2020-01-02T10:00:00+01:00"], "time", None),
        (["2020-01-02", "soon"], "string", ["2020-01-02", "soon"]),
        ([2**70], "string", [str(2**70)]),
        ([{"a": [1]}, "x"], "string", ['{"a": [1]}', "x"]),
        (["2020-02-30"], "string", ["2020-02-30"]),
    ],
)
def test_the_type_of_a_kept_field_fits_all_its_values(tmp_path, tiny, values, kind, stored):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "word", "x": value}) + "\n" for value in values))
    store = store_of(tmp_path, tiny, path, keep_field=("x",))
    assert store.manifest.reading.keep_field == (f"x:{kind}",)
    if stored is not None:
        assert [x for (x,) in kept(store, "x")] == stored
    else:
        assert [x for (x,) in kept(store, "x")] == [
            datetime.datetime(2020, 1, 2),
            datetime.datetime(2020, 1, 2, 9),
        ]


def test_a_clash_of_types_is_refused_with_both_places_and_a_type_can_be_given(tmp_path, tiny):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "x": 1}\n{"text": "two", "x": "b"}\n')
    with pytest.raises(
        InputError,
        match=r"--keep-field x: it is a integer in .*a.jsonl, record 0, and a string in .*a.jsonl, record 1: "
        r"keep it as text with --keep-field x:string",
    ):
        store_of(tmp_path, tiny, path, keep_field=("x",))
    assert kept(store_of(tmp_path / "as_text", tiny, path, keep_field=("x:string",)), "x") == [("1",), ("b",)]
    _, _, items = read_all([path], keep_field=("x:integer",))
    assert [getattr(item, "reason", None) for item in items] == [
        None,
        "field 'x' is 'b', not of type integer",
    ]
    with pytest.raises(InputError, match=r"--keep-field y: no record has a value for it"):
        store_of(tmp_path, tiny, path, keep_field=("y",))


def test_a_field_with_the_name_of_a_column_gets_an_underscore(tmp_path, tiny):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "source": "web", "source_": 1}\n')
    store = store_of(tmp_path, tiny, path, keep_field=("source", "source_"))
    assert kept(store, "source_", "source__") == [("web", 1)]


def test_kept_fields_survive_a_resume_and_others_are_refused(tmp_path, tiny, cli):
    path = tmp_path / "a.csv"
    path.write_text("text,year\n" + "".join(f"line {n},{1900 + n}\n" for n in range(50)))
    out = tmp_path / "out"
    command = ["run", path, "-o", out, "--model", tiny(), "--shard-size", "200", "--no-index"]
    assert cli(*command, "--keep-field", "year").returncode == 0
    shard = sorted((out / "shards").iterdir())[1]
    before = (shard / "sentences.arrow").read_bytes()
    (shard / "shard.json").unlink()
    assert cli(*command, "--keep-field", "year").returncode == 0
    assert (shard / "sentences.arrow").read_bytes() == before
    assert ctxbatch.open(out).sentences.to_table()["year"].to_pylist() == list(range(1900, 1950))
    refused = cli(*command, "--keep-field", "text")
    assert refused.returncode == 2
    assert "was made with --keep-field year:integer, but this command has --keep-field text" in refused.stderr
    (shard / "shard.json").unlink()
    taken = cli(*command)
    assert taken.returncode == 0
    assert f"taken from {out}: --keep-field year:integer\n" in taken.stderr
    assert (shard / "sentences.arrow").read_bytes() == before
    assert cli("verify", out).returncode == 0


def test_halves_of_surrogate_pairs_in_kept_fields_are_rejected_or_replaced(tmp_path, tiny):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "x": "\\ud800"}\n{"text": "two", "x": "b"}\n')
    _, _, items = read_all([path], keep_field=("x",))
    assert items[0].reason == "holds half of a surrogate pair, which is not text"
    assert kept(store_of(tmp_path, tiny, path, keep_field=("x",), errors="replace"), "x") == [
        ("\ufffd",),
        ("b",),
    ]
