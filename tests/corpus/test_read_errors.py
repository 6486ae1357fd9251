"""What this machine cannot do is never taken for a damage in the data, and no source takes all its memory."""

import os
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from ctxbatch import filesystem
from ctxbatch.corpus import frames
from ctxbatch.corpus.inputs import find_sources
from ctxbatch.corpus.read_errors import is_our_trouble
from ctxbatch.errors import InputError
from tests.helpers.corpora import as_table, read_all, write_arrow_file, write_parquet
from tests.helpers.frames import xz_with_dictionary, zstd_frame
from tests.helpers.running import ROOT

MIB = 1 << 20


def with_little_memory(n_bytes, *paths):
    """What comes of reading sources."""
    command = [sys.executable, "-m", "tests.helpers.limited", str(n_bytes), *map(str, paths)]
    # Every thread of pyarrow's would reserve an arena of its own, which counts as memory here.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return done.stdout.splitlines()


def test_a_lack_of_memory_stops_the_reading_and_is_no_reject(tmp_path):
    intact = {
        "page.parquet": lambda path: write_parquet(
            as_table(["a" * 1_000_000] * 100), path, use_dictionary=False
        ),
        "body.arrow": lambda path: write_arrow_file(as_table(["a" * 1_000_000] * 100), path, rows=200),
        "window.txt.zst": lambda path: path.write_bytes(zstd_frame(b"one\n" * 200, 27)),
    }
    for name, make in intact.items():
        make(tmp_path / name)
    paths = [tmp_path / name for name in intact]
    for path, said in zip(paths, with_little_memory(64 * MIB, *paths), strict=True):
        assert re.fullmatch(
            rf"ResourceError: {path} cannot be read: .*memory.*: free some and run again", said
        )
    assert with_little_memory(4096 * MIB, *paths) == ["100 records", "100 records", "200 records"]


def test_values_that_share_bytes_are_decoded_a_few_at_a_time(tmp_path):
    values = pa.array(["a" * 1_000_000, "b"])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), values)
    write_parquet(pa.table({"text": column}), tmp_path / "dictionary.parquet")
    write_arrow_file(pa.table({"text": column}), tmp_path / "dictionary.arrow", rows=1024)
    prefix = pa.array(["a" * 1_000_000] * 400)
    delta = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
    write_parquet(pa.table({"text": prefix}), tmp_path / "differences.parquet", **delta)
    _, views, data = values.cast(pa.string_view()).buffers()
    views = np.frombuffer(views, np.int32)[:4].repeat(400).reshape(4, -1).T.tobytes()
    view = pa.Array.from_buffers(pa.string_view(), 400, [None, pa.py_buffer(views), data])
    write_arrow_file(pa.table({"text": view}), tmp_path / "views.arrow", rows=1024)
    paths = sorted(tmp_path.iterdir())
    assert with_little_memory(360 * MIB, *paths) == ["400 records"] * 4


def test_a_window_without_the_memory_for_it_stops_the_reading_wherever_its_frame_is(tmp_path):
    normal, large = zstd_frame(b"one\n" * 300, 20), zstd_frame(b"two\n" * 300, 28)
    (tmp_path / "first.txt.zst").write_bytes(large + normal)
    (tmp_path / "later.txt.zst").write_bytes(normal + large)
    paths = sorted(tmp_path.iterdir())
    for path, said in zip(paths, with_little_memory(400 * MIB, *paths), strict=True):
        assert re.fullmatch(
            rf"ResourceError: {path} is compressed with a window of 256 MiB, which needs twice as much "
            r"memory, but \d+ MiB are free: free some or decompress it first, and run again",
            said,
        )
    assert with_little_memory(4096 * MIB, *paths) == ["600 records"] * 2


def test_a_window_without_the_memory_for_it_ends_a_run_with_exit_status_4(tmp_path, tiny, monkeypatch, cli):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstd_frame(b"one\n" * 300, 20) + zstd_frame(b"two\n" * 300, 28))
    monkeypatch.setattr(frames, "free_for_this_process", lambda: 500 * MIB)
    result = cli("run", path, "-o", tmp_path / "out", "--model", tiny())
    assert result.returncode == 4
    assert "a window of 256 MiB, which needs twice as much memory, but 500 MiB are free" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt.zst", zstd_frame(b"one\n", 32), "a window of 4,096 MiB, more than the supported 2,048 MiB"),
        (
            "a.txt.xz",
            xz_with_dictionary(b"one\n", 37),
            "a dictionary that needs more than the supported 512 MiB",
        ),
    ],
    ids=["zst", "xz"],
)
def test_a_window_that_is_too_large_is_named_and_is_no_damage(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: compressed with .*{said}.*: decompress it first"):
        read_all([tmp_path / name])


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("the Parquet data are damaged (malloc failed): the rest is lost", True),
        ("the Parquet data are damaged (malloc of size 18900000000 failed): the rest is lost", True),
        ("the zstd data are damaged (ZSTD decompress failed: Allocation error : not enough memory)", True),
        ("the zstd data are damaged (… failed: Frame requires too much memory for decoding)", True),
        ("the Parquet data are damaged (Support for codec 'brotli' not built): the rest is lost", True),
        ("the Arrow data are damaged (Unknown error: Failed to launch worker thread: Resource …)", True),
        ("the Arrow data are damaged (Failed to read message body, error IOError: [Errno 5] …)", True),
        ("the Arrow data are damaged (malloc of size 7205759403792793600 failed): the rest is lost", False),
        ("the Parquet data are damaged (Corrupt snappy compressed data.): the rest is lost", False),
        ("the gzip data end too early: the rest is lost", False),
        ("field 'malloc' is null, not a string", False),
    ],
)
def test_rejects_that_earlier_versions_took_for_damage_are_known_again(reason, ours):
    assert is_our_trouble(reason) == ours


CUT = """
import sys
from ctxbatch.errors import InputError
from ctxbatch.corpus.tables import Table

for path in sys.argv[1:]:
    rows = Table(path, path.rpartition(".")[2]).rows(0, "text", "id")
    next(rows)
    with open(path, "r+b") as file:
        file.truncate(4096)
    try:
        print(sum(1 for _ in rows))
    except InputError as error:
        print(error)
"""


def test_a_table_that_is_cut_while_it_is_read_ends_the_reading_in_one_line(tmp_path):
    table = as_table([f"{n:0500d}" for n in range(40_000)])
    write_arrow_file(table, tmp_path / "a.arrow", rows=2000)
    write_parquet(table, tmp_path / "a.parquet", row_group_size=2000, compression="none")
    paths = [str(tmp_path / name) for name in ("a.arrow", "a.parquet")]
    done = subprocess.run([sys.executable, "-c", CUT, *paths], capture_output=True, text=True, check=False)
    expected = [f"{path} changed while it was read: run again when it is complete" for path in paths]
    assert (done.returncode, done.stdout.splitlines()) == (0, expected), done.stderr


@pytest.mark.parametrize("place", ["local", "memory://data-sets"])
@pytest.mark.parametrize(
    "listed", ["../secret.txt", "/etc/hostname", "train/../../secret.txt", ".hidden", ""]
)
def test_a_data_set_cannot_make_sources_of_files_elsewhere(tmp_path, place, listed):
    folder = str(tmp_path / "set") if place == "local" else f"{place}/set"
    files = {"state.json": f'{{"_data_files": [{{"filename": "{listed}"}}]}}', "dataset_info.json": "{}"}
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.txt").write_text("secret\n")
    for name, content in files.items():
        if place == "local":
            (tmp_path / "set" / name).write_text(content)
        else:
            filesystem.write_file(f"{folder}/{name}", content.encode())
    with pytest.raises(
        InputError, match=r"set/state.json lists '.*', which is not the name of a file beside"
    ):
        find_sources([folder], tmp_path / "out")
