"""Compressed sources are decompressed once, to their end, and damage in them loses what follows alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxbatch import RunConfig
from ctxbatch.corpus import compression, streams
from ctxbatch.corpus.examine import examine
from ctxbatch.corpus.inputs import find_sources
from ctxbatch.corpus.plan import plan
from ctxbatch.corpus.records import Reader, Record, Reject
from ctxbatch.execution.run_plan import resolve_reading
from tests.helpers.corpora import (
    COMPRESS,
    as_json_lines,
    as_lines,
    read_all,
    relaxed,
    texts_of,
)


@pytest.fixture
def decompressed(monkeypatch):
    """Counts how often sources are opened and how many bytes come out of decompressors."""
    counts = {"opened": 0, "bytes": 0}
    original_open, original_next = streams.ByteStream._open, compression._Decompressed._next

    def counted_open(self):
        counts["opened"] += 1
        original_open(self)

    def counted_next(self):
        data = original_next(self)
        counts["bytes"] += len(data)
        return data

    monkeypatch.setattr(streams.ByteStream, "_open", counted_open)
    monkeypatch.setattr(compression._Decompressed, "_next", counted_next)
    return counts


def test_a_compressed_source_is_decompressed_once_to_plan_and_once_per_worker(tmp_path, decompressed):
    chance = random.Random(1)
    texts = [f"{n} {chance.random()}" for n in range(100_000)]
    content = as_json_lines(texts)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(COMPRESS[".zst"](content))
    config = RunConfig(shard_size=100_000)
    sources, _ = find_sources([path], tmp_path / "out")
    reading = resolve_reading(config, sources)
    sources = examine(sources, reading, config.id_field)
    looked = decompressed["bytes"]
    assert looked < 3 << 20
    shards = plan(sources, reading)
    assert decompressed["bytes"] - looked == len(content)
    for worker in range(2):  # each takes every second shard
        decompressed.update(opened=0, bytes=0)
        reader = Reader(sources, reading)
        mine = shards[worker::2]
        count = sum(1 for spec in mine for _ in reader.read(spec.segments))
        assert decompressed["opened"] == 1
        assert decompressed["bytes"] <= len(content)
        assert abs(count - len(texts) / 2) < 3_000


@relaxed
@given(
    suffix=st.sampled_from(list(COMPRESS)[1:]),
    cut=st.floats(0.01, 0.99),
    size=st.sampled_from([500, 5_000, 10**6]),
)
def test_a_truncated_archive_gives_its_whole_records_and_one_reject(tmp_path, suffix, cut, size):
    chance = random.Random(7)
    texts = [f"{n} {chance.random()}" for n in range(2_000)]
    whole = COMPRESS[suffix](as_lines(texts))
    path, good = tmp_path / f"a.txt{suffix}", tmp_path / "good.txt"
    path.write_bytes(whole[: max(1, int(len(whole) * cut))])
    good.write_text("last\n")
    _, _, items = read_all([path, good], shard_size=size)
    *records, reject, last = items
    assert texts_of(records) == texts[: len(records)]
    assert isinstance(reject, Reject)
    assert reject.record == len(records)
    assert reject.byte_start == len(as_lines(texts[: len(records)]))
    assert "the rest is lost" in reject.reason
    assert last.text == "last"


@pytest.mark.parametrize("suffix", list(COMPRESS)[1:])
def test_damage_in_a_later_member_of_an_archive_is_not_taken_for_its_end(tmp_path, suffix):
    parts = [as_lines([f"{part} {n} {n * 7919 % 1009}" for n in range(300)]) for part in range(3)]
    members = [COMPRESS[suffix](part) for part in parts]
    path = tmp_path / f"a.txt{suffix}"
    for place in (0, 2, 5, 9, len(members[1]) // 2):
        damaged = bytearray(members[1])
        damaged[place] ^= 0x5A
        path.write_bytes(members[0] + damaged + members[2])
        _, _, items = read_all([path])
        rejects = [item for item in items if isinstance(item, Reject)]
        # A format without checksums inside may give other text for a flipped byte; nothing may be missing.
        assert (len(items) == 900 and not rejects) or (rejects == items[-1:] and len(items) >= 301), place


def test_a_damaged_record_takes_no_other_kind_of_record_with_it(tmp_path):
    chance = random.Random(3)
    paragraphs = "\n\n".join(f"first {n}\nsecond {chance.random()}" for n in range(3_000)).encode()
    path, good = tmp_path / "a.txt.gz", tmp_path / "b.txt"
    path.write_bytes(COMPRESS[".gz"](paragraphs)[:-2_000])
    good.write_text("good")
    _, _, items = read_all([path, good], record="paragraph")
    assert [type(item) for item in items[-2:]] == [Reject, Record]
    expected = paragraphs.decode().split("\n\n")
    assert texts_of(items[:-2]) == expected[: len(items) - 2]
    _, _, items = read_all([path, good], record="file")
    assert [(type(item), item.record, item.byte_start) for item in items] == [
        (Reject, 0, 0),
        (Record, 0, 0),
    ]
