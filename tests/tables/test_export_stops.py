"""An export that is killed, stopped or out of disk goes on, and ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import time
from hashlib import sha256

import pytest

import ctxbatch
from ctxbatch import ResourceError, filesystem
from ctxbatch.tables.export import export
from ctxbatch.tables.export_plan import ExportOptions
from tests.helpers.exports import files_of, table_of
from tests.helpers.mounts import may_mount
from tests.helpers.running import command, start, wait_for

SMALL = ExportOptions(file_bytes=4_000)


def parquet_files(dest):
    return {path: path.stat().st_mtime_ns for path in dest.glob("*/*.parquet")}


def arguments_of(store, dest):
    return ["export", store.path, dest, "--file-size", SMALL.file_bytes]


@pytest.fixture(scope="module")
def undisturbed(kept, tmp_path_factory):
    dest = tmp_path_factory.mktemp("undisturbed") / "to"
    assert export(kept, dest, SMALL).files > 20
    return files_of(dest)


# --- kills ----------------------------------------------------------------------------------------


def test_killed_at_random_moments_it_goes_on_and_repeats_no_finished_file(kept, undisturbed, tmp_path):
    """Each time twice, at a moment between the first file and the last; then finished."""
    chance = random.Random(3)
    n_files = len([name for name in undisturbed if name.endswith(".parquet")])
    for number in range(3):
        dest = tmp_path / f"to{number}"
        there = {}
        for n_wanted in sorted(chance.sample(range(1, n_files - 2), 2)):
            process = start(*arguments_of(kept, dest))
            wait_for(lambda to=dest, n=n_wanted: len(parquet_files(to)) >= n, process)
            time.sleep(chance.random() * 0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert there.items() <= parquet_files(dest).items()
            there = parquet_files(dest)
        done = subprocess.run(
            command(*arguments_of(kept, dest), "--json"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f'"written": {n_files - len(there)}' in done.stdout
        assert there.items() <= parquet_files(dest).items()
        assert files_of(dest) == undisturbed


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_finished_files_and_says_how_to_go_on(signum, kept, undisturbed, tmp_path):
    process = start(*arguments_of(kept, tmp_path / "to"))
    wait_for(lambda: len(parquet_files(tmp_path / "to")) >= 2, process)
    process.send_signal(signum)
    _, said = process.communicate()
    assert process.returncode == 128 + signum
    assert said == (
        f"ctxbatch: stopped by {signum.name}; finished files are kept; to go on, run the same command again\n"
    )
    assert not [*(tmp_path / "to").rglob("*.tmp")]
    export(kept, tmp_path / "to", SMALL)
    assert files_of(tmp_path / "to") == undisturbed


def test_what_was_cut_off_is_written_again(kept, undisturbed, tmp_path):
    """A file that another program has shortened, one that is gone, and one that a kill has left."""
    export(kept, tmp_path / "to", SMALL)
    first, second, *_ = sorted(parquet_files(tmp_path / "to"))
    first.write_bytes(first.read_bytes()[:-9])
    second.unlink()
    (first.parent / f".{first.name}.host.0123.1.tmp").write_bytes(b"PAR1")
    assert export(kept, tmp_path / "to", SMALL).written == 2
    assert files_of(tmp_path / "to") == undisturbed


def test_only_one_export_writes_to_a_folder(kept, tmp_path):
    from ctxbatch.store.locks import locked

    with (
        locked(tmp_path / "to"),
        pytest.raises(ResourceError, match=r"is writing to .*to .process"),
    ):
        export(kept, tmp_path / "to", SMALL)


# --- disks ----------------------------------------------------------------------------------------

# The export takes more than it estimates, since its files are so small.
FULL_DISK = """
set -eu
mount -t tmpfs -o size=400k tmpfs "$1"
disk=$1; shift
run() { set +e; "$@" > "$disk.said" 2>&1; echo "$?"; tail -n 1 "$disk.said"; set -e; }
run "$@"
find "$disk" -name '*.tmp' | wc -l
find "$disk" -name '*.parquet' | wc -l
mount -o remount,size=100m "$disk"
run "$@"
cp -r "$disk/to" "$disk.copy"
"""


@pytest.mark.skipif(not may_mount(), reason="no small file system can be mounted here")
def test_a_full_disk_stops_it_and_with_room_it_goes_on(kept, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    under_test = command(*arguments_of(kept, disk / "to"))
    script = subprocess.run(
        ["unshare", "-rm", "bash", "-c", FULL_DISK, "bash", disk, *under_test],
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    full, said, leftovers, there, done, _ = script.stdout.splitlines()
    assert (full, leftovers, done) == ("4", "0", "0"), script.stdout
    assert said == f"ctxbatch: the disk of {disk}/to is full: make room and run the same command again"
    assert 0 < int(there) < len(undisturbed)
    assert files_of(tmp_path / "disk.copy") == undisturbed


def test_what_the_disk_cannot_hold_is_refused_before_it_begins(kept, tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.files.free_bytes", lambda _: 10_000)
    with pytest.raises(ResourceError, match=r"to needs about .* more, but its disk has 10.0 kB free: make"):
        export(kept, tmp_path / "to")
    assert not [*(tmp_path / "to").rglob("*.parquet")]
    monkeypatch.undo()
    # Nothing is there yet that other options could be mixed with.
    assert export(kept, tmp_path / "to", ExportOptions(columns=("word",))).rows == kept.n_rows
    assert "static" not in table_of(tmp_path / "to").column_names


# --- object storage -------------------------------------------------------------------------------


def objects_of(server, url):
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    listed = server.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
    return sorted(each["Key"].removeprefix(f"{prefix}/") for each in listed)


def test_an_export_to_object_storage_has_the_same_files(server, bucket, kept, undisturbed, cli):
    url = f"{bucket({})}/deep/to"
    result = cli("export", kept.path, url, "--file-size", SMALL.file_bytes)
    assert result.returncode == 0, result.stderr
    assert f"{url}: {kept.n_rows:,} rows" in result.stdout
    names = [name for name in objects_of(server, url) if not name.endswith("/")]
    assert {name: sha256(filesystem.read_file(f"{url}/{name}")).hexdigest() for name in names} == undisturbed


def test_a_failed_upload_stops_it_and_the_next_one_uploads_what_is_missing(
    server, bucket, kept, undisturbed, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    url = f"{bucket({})}/to"
    server.refuses = lambda path: "403" if "words-00003" in path else None
    with pytest.raises(ResourceError, match=r"s3://.*/to: access is denied"):
        export(kept, url, SMALL)
    server.refuses = lambda _: None
    # A client that is cut off can leave an object that is not whole.
    first = next(name for name in undisturbed if name.startswith("words/words-00000"))
    filesystem.write_file(f"{url}/{first}", filesystem.read_file(f"{url}/{first}")[:-10])
    before = len([name for name in objects_of(server, url) if name.endswith(".parquet")])
    report = export(kept, url, SMALL)
    assert report.written == report.files - before + 1
    names = [name for name in objects_of(server, url) if not name.endswith("/")]
    assert {name: sha256(filesystem.read_file(f"{url}/{name}")).hexdigest() for name in names} == undisturbed


def test_buckets_that_hold_other_things_or_do_not_exist_are_refused(bucket, kept):
    url = bucket({"other/x.txt": b"x"})
    with pytest.raises(ctxbatch.StoreError, match=r"other contains other files \(x.txt\) and no export"):
        export(kept, f"{url}/other", SMALL)
    with pytest.raises(ctxbatch.InputError, match="s3://no-such-bucket-1/to: no such object"):
        export(kept, "s3://no-such-bucket-1/to", SMALL)
    with pytest.raises(ctxbatch.InputError, match="it names no bucket"):
        export(kept, "s3:///to", SMALL)


def test_a_store_on_object_storage_has_to_be_pulled_first(bucket, kept, tmp_path, cli):
    url = bucket({"out/manifest.json": (kept.path / "manifest.json").read_bytes()})
    result = cli("export", f"{url}/out", tmp_path / "to")
    assert result.returncode == 2
    assert "is on object storage: copy it with `ctxbatch pull" in result.stderr
