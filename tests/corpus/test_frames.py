"""Every frame of a zstd or lz4 stream is read, and damage in one takes no block before it."""

import io
import random

import pytest

from ctxbatch.corpus.compression import decompressed
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.records import Reject
from tests.helpers.corpora import as_lines, read_all, texts_of
from tests.helpers.frames import (
    SKIPPABLE,
    lz4_frame,
    lz4_legacy,
    zstd,
    zstd_frame,
    zstd_run,
    zstd_with_checksum,
)

LINES = [f"line {n} {n * 7919 % 1009}" for n in range(300)]
FRAMES = {
    "zstd": [zstd_with_checksum, zstd.compress, lambda content: zstd_frame(content, 20)],
    "lz4": [lz4_frame, lambda content: lz4_frame(content, block_linked=False, block_checksum=True)],
}
SUFFIXES = {"zstd": ".zst", "lz4": ".lz4"}


def content_of(path, compression, size):
    """The content read in pieces, and the reason why there is no more of it."""
    with path.open("rb") as file:
        stream = decompressed(str(path), compression, file)
        content = bytearray()
        try:
            while piece := stream.read(size):
                content += piece
        except DamagedError as error:
            with pytest.raises(DamagedError, match=str(error).replace("(", ".").replace(")", ".")):
                stream.read(1)
            return bytes(content), str(error)
    return bytes(content), None


@pytest.mark.parametrize("windows", [(28,), (20, 28), (28, 20, 28)])
def test_frames_of_large_windows_are_read_wherever_they_are(tmp_path, windows):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"".join(zstd_frame(as_lines(LINES), window) for window in windows))
    _, _, items = read_all([path])
    assert texts_of(items) == LINES * len(windows)


def test_a_frame_that_a_compressor_makes_with_a_large_window_is_read(tmp_path):
    path = tmp_path / "a.txt.zst"
    parameter = zstd.CompressionParameter
    options = {parameter.window_log: 28, parameter.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)  # which does not know the size of the content
    path.write_bytes(compressor.compress(as_lines(LINES)) + compressor.flush())
    assert path.read_bytes()[5] >> 3 == 28 - 10
    assert texts_of(read_all([path])[2]) == LINES


def test_a_frame_in_a_single_segment_larger_than_128_mib_is_read(tmp_path):
    path = tmp_path / "a.txt.zst"
    n_blocks = 1100
    path.write_bytes(zstd_run(b"x", n_blocks))
    with path.open("rb") as file:
        stream = decompressed(str(path), "zstd", file)
        assert sum(map(len, iter(lambda: stream.read(1 << 20), b""))) == n_blocks * 128 << 10


def test_several_frames_empty_ones_and_such_to_skip_are_read_as_one_text(tmp_path):
    for name, kinds in {**FRAMES, "lz4": [*FRAMES["lz4"], lz4_legacy]}.items():
        path = tmp_path / f"a.txt{SUFFIXES[name]}"
        parts = [kind(as_lines(LINES)) for kind in kinds]
        empty = [kind(b"") for kind in kinds]
        path.write_bytes(
            b"".join([SKIPPABLE, *parts, *empty, SKIPPABLE, SKIPPABLE, *parts, *empty, SKIPPABLE])
        )
        assert texts_of(read_all([path])[2]) == LINES * 2 * len(parts)


@pytest.mark.parametrize(
    "options", [{}, {"block_linked": False}, {"block_checksum": True}, {"store_size": False}]
)
@pytest.mark.parametrize("block_size", [4, 5, 6, 7])
def test_lz4_frames_of_every_layout_are_read_whole(tmp_path, options, block_size):
    chance = random.Random(5)
    words = as_lines([f"{chance.random()} " * 9 for _ in range(50_000)])
    path = tmp_path / "a.txt.lz4"
    path.write_bytes(lz4_frame(words, block_size=block_size, **options) + lz4_legacy(words))
    assert content_of(path, "lz4", 1 << 20) == (words * 2, None)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.lz4"])
def test_legacy_lz4_frames_are_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(lz4_legacy(as_lines(LINES)) + lz4_frame(as_lines(LINES)) + lz4_legacy(as_lines(LINES)))
    assert texts_of(read_all([path])[2]) == LINES * 3


@pytest.mark.parametrize("compression", list(FRAMES))
def test_a_stream_cut_anywhere_gives_the_same_beginning_whatever_is_read_at_once(tmp_path, compression):
    content = as_lines(LINES)[:400]
    path = tmp_path / "a"
    ends, whole = {0: b""}, SKIPPABLE
    for number, kind in enumerate(FRAMES[compression] * 2):
        ends[len(whole)] = content * number
        whole += kind(content)
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        got = content_of(path, compression, 1)
        assert content_of(path, compression, 1 << 20) == got
        if length in ends:
            assert got == (ends[length], None)
        else:
            assert got[1] == f"the {compression} data end too early"
            last = max(end for end in ends if end <= length)
            assert got[0].startswith(ends[last])
            assert (content * 9).startswith(got[0])


@pytest.mark.parametrize("compression", list(FRAMES))
def test_damage_in_a_block_loses_no_block_before_it(tmp_path, compression):
    block = {"zstd": 128 << 10, "lz4": 64 << 10}[compression]
    chance = random.Random(3)
    content = as_lines([chance.random() for _ in range(20_000)])[: 5 * block // 2]
    path = tmp_path / "a"
    whole = bytearray(FRAMES[compression][1](content))
    whole[-block // 8 :] = bytes(block // 8)
    path.write_bytes(whole)
    for size in (1, 999, 1 << 20):
        got, reason = content_of(path, compression, size)
        assert got == content[: 2 * block]
        assert reason.startswith(f"the {compression} data are damaged")


@pytest.mark.parametrize(
    ("compression", "frame", "ends"),
    [
        ("zstd", zstd_with_checksum, 4),
        ("lz4", lz4_frame, 4),
        ("zstd", zstd.compress, 0),
        ("lz4", lz4_legacy, 0),
    ],
)
@pytest.mark.parametrize("garbage", [b"garbage", b"\0" * 9, b"x"])
def test_garbage_after_a_frame_and_wrong_checksums_leave_the_whole_content(
    tmp_path, compression, frame, ends, garbage
):
    path = tmp_path / f"a.txt{SUFFIXES[compression]}"
    whole = frame(as_lines(LINES))
    path.write_bytes(whole[: len(whole) - ends] + garbage)
    *records, reject = read_all([path])[2]
    assert texts_of(records) == LINES
    assert isinstance(reject, Reject)
    assert f"the {compression} data" in reject.reason


def test_a_block_that_claims_more_than_a_frame_allows_is_damage(tmp_path):
    path = tmp_path / "a.txt.lz4"
    path.write_bytes(lz4_frame(b"one\n" * 9, content_checksum=False)[:-4] + b"\xff\xff\xff\x7f" + b"x" * 99)
    content, reason = content_of(path, "lz4", io.DEFAULT_BUFFER_SIZE)
    assert content == b"one\n" * 9
    assert reason.startswith("the lz4 data are damaged")
