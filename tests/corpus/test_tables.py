"""Tables that are damaged or odd: no crash, and the plan and the worker see the same rows."""

import random
import re

import pyarrow as pa
import pytest

from ctxbatch.corpus.records import Record, Reject
from ctxbatch.errors import InputError
from tests.helpers.corpora import as_table, read_all, write_arrow_file, write_arrow_stream, write_parquet

REFUSALS = r"nothing can be read|has no field|not text|fields 'text'"


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_a_damaged_table_neither_crashes_nor_differs_between_plan_and_worker(tmp_path, name):
    chance = random.Random(name)
    table = as_table([f"{n} text {chance.random()}" for n in range(600)])
    write = {
        "a.parquet": lambda path: write_parquet(table, path, row_group_size=150, compression="none"),
        "file.arrow": lambda path: write_arrow_file(table, path, rows=50),
        "stream.arrow": lambda path: write_arrow_stream(table, path, rows=50),
    }[name]
    path, good = tmp_path / name, tmp_path / "good.txt"
    good.write_text("good\n")
    write(path)
    whole = path.read_bytes()
    seen = set()
    for _ in range(150):
        content = bytearray(whole)
        if chance.random() < 0.2:
            content = content[: chance.randrange(12, len(content))]
        else:
            content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
        path.write_bytes(content)
        try:
            _, _, items = read_all([path, good], shard_size=chance.choice([300, 5_000, 10**6]))
        except InputError as error:
            assert re.search(REFUSALS, str(error)), error
            seen.add("refused")
            continue
        assert items[-1] == Record(1, 0, 0, None, "good")
        numbers = [item.record for item in items[:-1]]
        assert numbers == list(range(len(numbers)))
        seen |= {type(item).__name__ for item in items}
    assert {"Record", "Reject"} <= seen


def test_an_id_that_is_no_text_rejects_its_row_alone(tmp_path):
    ids = pa.array([b"%d" % n if n != 1100 else b"\xff\xfe" for n in range(3000)], pa.binary())
    table = pa.table({"id": ids, "text": [f"text {n}" for n in range(3000)]})
    for name, write in (("a.parquet", write_parquet), ("a.arrow", write_arrow_file)):
        write(table, tmp_path / name)
        _, _, items = read_all([tmp_path / name], shard_size=7000)
        assert [(i.record, i.reason) for i in items if isinstance(i, Reject)] == [
            (1100, "not UTF-8 at byte 0 of the id")
        ]
        assert items[7].doc_id == "7"


@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        ([1], pa.int32(), "1"),
        ([b"\x00\xff"], pa.binary(2), "00ff"),
        ([1.5], pa.float64(), "1.5"),
        ([True], pa.bool_(), "true"),
        ([0], pa.date32(), "1970-01-01"),
        ([2**30], pa.date32(), "<value out of range"),
        ([0], pa.timestamp("ns", "Nowhere/Else"), "1970-01-01 00:00:00"),
        ([[1, 2]], pa.list_(pa.int32()), "[1, 2]"),
        ([{"a": 1}], pa.struct({"a": pa.int32()}), '{"a": 1}'),
    ],
)
def test_ids_of_every_type_are_shown_as_text(tmp_path, values, kind, shown):
    table = pa.table({"id": pa.array(values, kind), "text": ["one"]})
    write_arrow_file(table, tmp_path / "a.arrow")
    (record,) = read_all([tmp_path / "a.arrow"])[2]
    assert record.doc_id.startswith(shown)


def test_a_dictionary_value_that_is_no_text_rejects_its_rows_alone(tmp_path):
    data = pa.array([b"ok", b"\xff\xfe"])
    values = pa.StringArray.from_buffers(2, data.buffers()[1], data.buffers()[2])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), values)
    write_arrow_file(pa.table({"text": column}), tmp_path / "a.arrow")
    _, _, items = read_all([tmp_path / "a.arrow"])
    assert [type(item) for item in items] == [Record, Reject, Record]


def test_an_id_that_cannot_be_shown_rejects_its_row_alone(tmp_path):
    days = pa.array([[0], [2**60], [1]], pa.list_(pa.timestamp("us")))
    write_arrow_file(pa.table({"id": days, "text": ["one", "two", "three"]}), tmp_path / "a.arrow")
    _, _, items = read_all([tmp_path / "a.arrow"])
    assert [type(item) for item in items] == [Record, Reject, Record]


def test_damage_inside_an_arrow_batch_is_at_the_same_row_whatever_the_shard_size(tmp_path):
    good = tmp_path / "z.txt"
    good.write_text("good")
    indices = pa.array([n % 5 if n != 1100 else 99 for n in range(3000)], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(list("abcde")), safe=False)
    write_arrow_file(pa.table({"text": column}), tmp_path / "a.arrow", rows=3000)
    found = [read_all([tmp_path / "a.arrow", good], shard_size=size)[2] for size in (700, 2_500, 10**6)]
    assert found[0] == found[1] == found[2]
    assert [item.record for item in found[0] if isinstance(item, Reject)] == [1024]
