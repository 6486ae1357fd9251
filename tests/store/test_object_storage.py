"""A store on object storage has the bytes of one in a folder, and nothing that fails on the way is lost."""

import errno
import itertools
import json
import os
import re
import signal

import pytest

import ctxbatch
from ctxbatch import ResourceError, RunConfig, filesystem
from ctxbatch.execution.repair import find_damage
from ctxbatch.sealed import read_json
from ctxbatch.store import bucket_location
from ctxbatch.store.location import location_of
from tests.helpers.running import start, wait_for
from tests.helpers.stores import arrow_digests, committed, make_store, objects

N_LINES = 1_000


@pytest.fixture(scope="module")
def corpus(long_text):
    return long_text(N_LINES)


@pytest.fixture(scope="module")
def config(tiny):
    return RunConfig(model=str(tiny()), shard_size=8_500, workers=1)


@pytest.fixture(scope="module")
def reference(corpus, config, tmp_path_factory):
    """The same store in a folder."""
    out = tmp_path_factory.mktemp("reference") / "out"
    make_store(out, [corpus], config)
    assert len(arrow_digests(out)) == 3 * 10
    return out


@pytest.fixture(scope="module")
def arguments(corpus, config):
    def build(out, n_workers=1):
        settings = ["--model", config.model, "--shard-size", config.shard_size, "--workers", n_workers]
        return ["run", corpus, "-o", out, *settings]

    return build


# --- run, resume, pull ----------------------------------------------------------------------------


def test_a_killed_run_resumes_and_its_copy_is_the_store_that_a_folder_would_hold(
    server, bucket, arguments, corpus, config, reference, tmp_path, cli, monkeypatch
):
    """Run, kill, resume, verify, stats, pull, kill, pull, index and search, as a user does."""
    url, out = f"{bucket({})}/deep/out", tmp_path / "copy"
    for n_workers, n_before in ((1, 2), (2, 4)):
        process = start(*arguments(url, n_workers))
        wait_for(lambda n=n_before: len(committed(server, url)) >= n, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    kept = committed(server, url)
    unfinished = cli("verify", url)
    assert unfinished.returncode == 3
    assert re.search(
        rf"^{url}: \d of 10 shards are missing: run its `ctxbatch run` command again", unfinished.stdout
    )
    result = cli(*arguments(url))
    assert result.returncode == 0, result.stderr
    assert f"resuming: {len(kept)} of 10 shards are done" in result.stderr
    assert f"`ctxbatch pull {url} OUT` copies the store here, to index and search it" in result.stderr
    assert cli("verify", url).stdout == f"{url}: 10 of 10 shards committed, all intact\n"
    assert cli("status", url).stdout.startswith(f"{url}: finished; 10 of 10 shards, 100% of ")
    assert json.loads(cli("stats", url, "--json").stdout)["shards"] == 10
    monkeypatch.setattr(bucket_location, "_UNSETTLED_SECONDS", 0)
    assert ctxbatch.run(corpus, url, config).n_run == 0  # and removes what killed attempts have left
    names = {re.sub(r"\.[0-9a-f]{12}\.", ".", name) for name in objects(server, url)}
    assert len(objects(server, url)) == len(names)
    here = (path for path in reference.rglob("*") if path.is_file() and not path.name.startswith("."))
    assert names == {str(path.relative_to(reference)) for path in here}

    pulling = start("pull", url, out)
    wait_for(lambda: len(list(out.glob("shards/[0-9]*/shard.json"))) >= 2, pulling)
    os.kill(pulling.pid, signal.SIGKILL)
    pulling.communicate()
    n_there = len(list(out.glob("shards/[0-9]*/shard.json")))
    pulled = cli("pull", url, out)
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stderr == f"{out}: 10 of 10 shards; copied {10 - n_there}, {n_there} already there\n"
    assert arrow_digests(out) == arrow_digests(reference)
    assert not list(find_damage(out))
    assert not list(out.glob("shards/.*"))
    assert read_json(out / "shards/000003/shard.json").keys() == (
        read_json(reference / "shards/000003/shard.json").keys()
    )
    assert cli("index", out, "--factory", "IVF16,Flat").returncode == 0
    found = cli("search", out, "-k", "3", "--same-word", "--json", "I want an [apple].")
    assert [json.loads(line)["word"] for line in found.stdout.splitlines()] == ["apple"] * 3


def test_a_commit_is_the_last_object_of_a_shard_and_nothing_stays_on_this_machine(server, bucket, short):
    url = f"{bucket({})}/out"
    report = short(url)
    assert report.log.parent == location_of(url).folder
    assert not list(report.log.parent.glob("shards/*"))
    written = [path.partition("/out/")[2] for method, path in server.asked if method in ("PUT", "POST")]
    written = [name for name in written if name and not name.endswith("/")]
    assert written[0] == "manifest.json"
    for shard in range(3):
        of_shard = [name for name in written if name.startswith(f"shards/{shard:06d}/")]
        assert len(of_shard) >= 3
        assert [name.endswith("/shard.json") for name in of_shard] == [*[False] * (len(of_shard) - 1), True]


def test_a_store_that_was_copied_up_by_other_means_is_one(
    server, bucket, config, corpus, reference, tmp_path
):
    files = {
        f"out/{path.relative_to(reference)}": path.read_bytes()
        for path in reference.rglob("*")
        if path.is_file()
    }
    url = f"{bucket(files)}/out"
    assert ctxbatch.run(corpus, url, config).n_run == 0
    assert not list(find_damage(url))
    ctxbatch.pull(url, tmp_path / "copy")
    assert arrow_digests(tmp_path / "copy") == arrow_digests(reference)
    assert len(objects(server, url)) == len(files)


# --- what fails on the way ------------------------------------------------------------------------


def test_with_errors_and_timeouts_in_between_nothing_is_lost(
    server, bucket, corpus, config, reference, tmp_path
):
    """The client tries again; a pull meets the same when it reads."""
    url, out = f"{bucket({})}/out", tmp_path / "copy"
    kinds = ("500", "503", "500", "hang")
    writes, reads = itertools.count(1), itertools.count(1)
    server.refuses = lambda _: kinds[n // 5 % 4] if (n := next(writes)) % 5 == 0 and n < 60 else None
    report = ctxbatch.run(corpus, url, config)
    assert report.clean
    assert report.totals.shards == 10
    server.fails = lambda _: kinds[n // 5 % 4] if (n := next(reads)) % 5 == 0 and n < 60 else None
    assert ctxbatch.pull(url, out).damaged == ()
    assert next(reads) > 20 < next(writes)
    assert arrow_digests(out) == arrow_digests(reference)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.mark.usefixtures("impatient")
def test_an_outage_stops_the_run_in_one_line_and_the_same_command_goes_on(server, bucket, short, tmp_path):
    url = f"{bucket({})}/out"
    for name in ("words", "sentences", "shard.json"):
        server.refuses = lambda path, name=name: "500" if f"/000001/{name}" in path else None
        with pytest.raises(ResourceError, match=rf"{url}: .*(InternalError|INTERNAL)"):
            short(url)
        assert committed(server, url) == ["shards/000000/shard.json"]
    server.refuses = lambda _: None
    assert short(url).n_run == 2
    assert ctxbatch.pull(url, tmp_path / "copy").held == 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("request_", ["uploads", "partNumber=1", "partNumber=2", "uploadId"])
def test_of_a_large_file_every_request_may_fail(server, bucket, tmp_path, request_):
    url, file = f"{bucket({})}/large", tmp_path / "large"
    file.write_bytes(bytes(24 << 20))
    server.refuses = lambda path: "500" if request_ in path.partition("?")[2] else None
    with pytest.raises(filesystem.RemoteError) as failed:
        filesystem.upload(file, url)
    assert failed.value.errno == errno.EIO
    server.refuses = lambda _: None
    filesystem.upload(file, url)
    filesystem.download(url, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_files_that_another_run_removes_before_they_are_committed_stop_the_run(server, bucket, short):
    url = f"{bucket({})}/out"

    def remove(path):
        if "/000001/shard.json" in path:
            words = next(name for name in objects(server, url) if name.startswith("shards/000001/words"))
            server.client().delete_object(Bucket=url.split("/")[2], Key=f"out/{words}")

    server.refuses = remove
    with pytest.raises(
        ResourceError, match="files of shard 000001 disappeared during the upload, perhaps bec"
    ):
        short(url)
    server.refuses = lambda _: None
    assert short(url).n_run == 2


def test_what_killed_attempts_have_left_is_removed_and_nothing_else(server, bucket, short, made, monkeypatch):
    """And not before it is certain that nobody is about to name it."""
    put = bucket
    url = f"{put(made)}/out"
    left = "out/shards/000000/words.0123456789ab.arrow"
    foreign = ["out/shards/000000/words.arrow", "out/notes.txt", "out/shards/000000/words.0123.arrow"]
    put(dict.fromkeys([left, *foreign], b"of somebody"))
    assert short(url).n_run == 0
    assert left.removeprefix("out/") in objects(server, url)
    monkeypatch.setattr(bucket_location, "_UNSETTLED_SECONDS", 0)
    assert short(url).n_run == 0
    names = objects(server, url)
    assert left.removeprefix("out/") not in names
    assert {name.removeprefix("out/") for name in foreign} <= names.keys()


def test_a_worker_that_dies_between_a_shard_and_its_upload_costs_nothing(
    server, bucket, short, made, tmp_path
):
    """What is complete here counts only when it is there."""
    url = f"{bucket(made)}/out"
    place = location_of(url)
    server.client().delete_object(
        Bucket=url.split("/")[2], Key="out/shards/000002/shard.json"
    )  # as if it had never been written
    with place.shard_files(1) as files:
        copy = place.folder / "shards" / "000002"
        copy.parent.mkdir(parents=True, exist_ok=True)
        files.rename(copy)
        files.mkdir()
    assert short(url).n_run == 1
    assert ctxbatch.pull(url, tmp_path / "copy").damaged == ()
    assert not list(find_damage(tmp_path / "copy"))
