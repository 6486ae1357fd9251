"""A store on object storage has the bytes of one in a folder, and nothing that fails on the way is lost."""

import errno
import itertools
import json
import os
import re
import signal
from pathlib import Path

import pytest

import ctxbatch
from ctxbatch import InputError, ResourceError, RunConfig, StoreError, filesystem, storage_backends
from ctxbatch.execution.repair import find_damage
from ctxbatch.sealed import read_json, seal, unseal
from ctxbatch.store import bucket_location
from ctxbatch.store.bucket_location import BucketLocation
from ctxbatch.store.location import location_of
from tests.helpers.running import start, wait_for
from tests.helpers.stores import arrow_digests, make_store

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
    assert len(arrow_digests(out)) == 20
    return out


@pytest.fixture(scope="module")
def arguments(corpus, config):
    def build(out, n_workers=1):
        settings = ["--model", config.model, "--shard-size", config.shard_size, "--workers", n_workers]
        return ["run", corpus, "-o", out, *settings]

    return build


@pytest.fixture(scope="module")
def finished(server, corpus, config):
    """A store on object storage; tests do it no harm."""
    server.client().create_bucket(Bucket="finished")
    ctxbatch.run(corpus, "s3://finished/out", config)
    return "s3://finished/out"


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory):
    """A function that runs a text of three shards."""
    path = tmp_path_factory.mktemp("short") / "short.txt"
    path.write_text("".join(f"{n}: I want an apple.\n" for n in range(60)))

    def run(out):
        return ctxbatch.run(path, out, RunConfig(model=str(tiny()), shard_size=450, workers=1))

    return run


@pytest.fixture(scope="module")
def made(server, short):
    """The objects of a finished store of that text."""
    server.client().create_bucket(Bucket="made")
    short("s3://made/out")
    names = objects(server, "s3://made/out")
    return {f"out/{name}": filesystem.read_file(f"s3://made/out/{name}") for name in names}


def objects(server, url):
    """The sizes of a store's objects by their names in it."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    listed = server.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
    names = {each["Key"].removeprefix(f"{prefix}/"): each["Size"] for each in listed}
    return {name: size for name, size in names.items() if not name.endswith("/")}


def committed(server, url):
    return [name for name in objects(server, url) if name.endswith("/shard.json")]


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
    assert re.search(rf"^{url}: \d of 10 shards are missing: run the same command", unfinished.stdout)
    result = cli(*arguments(url))
    assert result.returncode == 0, result.stderr
    assert f"resuming: {len(kept)} of 10 shards are done" in result.stderr
    assert f"to index and search it: `ctxbatch pull {url} OUT` copies it here" in result.stderr
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


def test_a_finished_store_is_not_run_again(server, finished, corpus, config):
    before = objects(server, finished)
    report = ctxbatch.run(corpus, finished + "/", config)
    assert (report.n_run, report.totals.shards, report.index) == (0, 10, None)
    assert objects(server, finished) == before


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
    storage_backends.arrow_file_system.cache_clear()
    yield
    storage_backends.arrow_file_system.cache_clear()


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


# --- damage ---------------------------------------------------------------------------------------


def test_damage_is_found_kept_out_of_copies_and_repaired(server, bucket, made, cli, tmp_path):
    put = bucket
    url, out = f"{put(made)}/out", tmp_path / "copy"
    names = sorted(objects(server, url))
    words, gone = (
        next(name for name in names if name.startswith(start))
        for start in ("shards/000001/words", "shards/000002/sent")
    )
    flipped = bytearray(filesystem.read_file(f"{url}/{words}"))
    flipped[len(flipped) // 2] ^= 1
    put({f"out/{words}": bytes(flipped)})
    server.client().delete_object(Bucket=url.split("/")[2], Key=f"out/{gone}")
    damaged = f"{url}/shards/000001/words.arrow is damaged: its content does not match the checksum"
    result = cli("verify", url)
    assert result.returncode == 3
    assert damaged in result.stdout
    assert f"{url}/shards/000002/sentences.arrow is missing" in result.stdout
    assert f"`ctxbatch verify {url} --repair` rebuilds what is damaged" in result.stdout
    pulled = cli("pull", url, out)
    assert pulled.returncode == 3
    assert damaged in pulled.stdout
    assert f"{out}: 1 of 3 shards; copied 1\n" in pulled.stderr
    assert not (out / "shards" / "000001").exists()
    put({f"out/{words}": bytes(flipped[::-1])[: len(flipped) // 2]})  # another length: it does not count
    pulled = cli("pull", url, out, "-q")
    assert pulled.returncode == 3
    assert "1 of 3 shards" in pulled.stderr  # -q is for progress and summaries, not for what is missing
    assert pulled.stdout.splitlines() == [
        f"{url}/shards/{shard} is damaged: run `ctxbatch verify {url}` for details"
        for shard in ("000001", "000002")
    ]
    repaired = cli("verify", url, "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert repaired.stdout.startswith("rebuilt: shards 000001, 000002\n")
    report = ctxbatch.pull(url, out)
    assert (report.held, report.copied, report.damaged) == (3, 2, ())
    assert not list(find_damage(out))


def _with_file(record, name):
    record["files"][name] = record["files"].pop("words.arrow")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: _with_file(record, "../../../x"),
        lambda record: _with_file(record, "/{outside}/x"),
        lambda record: _with_file(record, "words.arrow/../../../../x"),
        lambda record: record.update(attempt="../../../x"),
        lambda record: record.update(attempt="../" * 9 + "{outside}"),
        lambda record: record.update(shard=0),
    ],
    ids=["above", "absolute", "through", "attempt", "attempt-outside", "shard"],
)
def test_a_commit_can_name_no_file_outside_its_shard(change, bucket, made, cli, tmp_path, monkeypatch):
    """Its checksums are right, as anybody can compute them; and the objects that it names are there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    record = unseal(made["out/shards/000001/shard.json"], "shard.json")
    change(record)
    record = json.loads(json.dumps(record).replace("{outside}", str(outside).strip("/")))
    words = next(content for name, content in made.items() if "000001" in name and "words" in name)
    named = {f"out/shards/000001/{name}": words for name in record["files"]}
    url = f"{bucket({**made, **named, 'out/shards/000001/shard.json': seal(record)})}/out"
    monkeypatch.chdir(outside)
    before = sorted(tmp_path.rglob("*"))
    for command in (("verify", url), ("pull", url, tmp_path / "copy" / "deep")):
        result = cli(*command)
        assert result.returncode in (2, 3), result.stdout
        assert re.search(r"shards/000001(/shard.json)? is damaged", result.stdout + result.stderr)
        strange = [path for path in tmp_path.rglob("*") if "copy" not in path.parts and path not in before]
        assert strange == []
        assert not list((tmp_path / "copy").rglob("x"))


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


def test_a_store_that_was_copied_down_by_other_means_is_told_from_one(server, finished, tmp_path):
    for name in objects(server, finished):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(filesystem.read_file(f"{finished}/{name}"))
    with pytest.raises(StoreError, match="where files have other names: copy the store with `ctxbatch pull`"):
        ctxbatch.open(tmp_path)


def test_a_damaged_manifest_is_said(bucket, made):
    put = bucket
    url = f"{put(made)}/out"
    manifest = filesystem.read_file(f"{url}/manifest.json")
    put({"out/manifest.json": manifest.replace(b"ctxbatch", b"ctxwatch", 1)})
    with pytest.raises(StoreError, match=rf"{url}/manifest.json is damaged: .*: run again with another -o"):
        ctxbatch.open(url)


# --- what cannot be -------------------------------------------------------------------------------


def test_what_reads_vectors_says_what_copies_them_here(finished, cli):
    said = f"{finished} is on object storage: copy it with `ctxbatch pull {finished} OUT`, and name the copy"
    for arguments in (
        ["search", finished, "An [apple]."],
        ["index", finished],
        ["layers", finished],
        ["senses", finished, "apple"],
    ):
        result = cli(*arguments)
        assert (result.returncode, result.stderr) == (2, f"ctxbatch: {said}\n"), arguments
    store = ctxbatch.open(finished)
    assert store.complete
    assert store.n_rows > 0
    for read in (lambda: store.words, lambda: store.sentences, lambda: next(store.vectors())):
        with pytest.raises(StoreError, match="is on object storage"):
            read()


def test_places_that_cannot_hold_the_store_are_refused_before_any_work(bucket, short, corpus, config):
    root = bucket({"other/thing.txt": b"x"})
    with pytest.raises(StoreError, match=rf"-o {root}/other contains other files \(thing.txt\) and no"):
        short(f"{root}/other")
    with pytest.raises(InputError, match="s3://no-such-bucket/out: no such object, folder or bucket"):
        short("s3://no-such-bucket/out")
    with pytest.raises(InputError, match="s3:/bucket/out is a path: give a URL as a string, s3://"):
        short(Path("s3://bucket/out"))
    for options, message in (
        ({"shard_range": (1, 2)}, "--shard-range needs a folder that all machines share"),
        ({"force": True}, "--force cannot be used with s3:.*: nobody knows how much room is there"),
    ):
        for command in (ctxbatch.run, ctxbatch.estimate):
            with pytest.raises(InputError, match=message):
                command(corpus, f"{root}/out", RunConfig(model=config.model, **options))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "s3://: it names no bucket: write s3://bucket/key"),
        ("s3://AK:SECRET@bucket/out", "s3://AK:…@bucket/out: a URL must not hold credentials: set AWS_"),
        ("file:///tmp/x", "file:///tmp/x: give a local file by its path: /tmp/x"),
        ("nothing://a/b", "nothing://a/b: neither pyarrow nor fsspec opens it"),
    ],
)
def test_urls_that_name_nothing_are_said(url, message, tmp_path, cli):
    for arguments in (["stats", url], ["verify", url], ["pull", url, tmp_path / "copy"]):
        result = cli(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith(f"ctxbatch: {message}")
        assert result.stderr.count("\n") == 1


def test_a_sentence_that_begins_with_a_url_is_a_query_and_no_store(finished, cli):
    result = cli("search", finished, "http://example.org is a [link].")
    assert "is on object storage" in result.stderr


def test_a_signal_is_heeded_while_the_network_does_not_answer(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "30")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    process = start("status", "s3://bucket/out")
    assert process.stderr.readline() == "ctxbatch: waiting for s3://bucket/out/manifest.json\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "ctxbatch: stopped by SIGINT\n"
    assert process.returncode == 130


def test_a_store_is_resumed_with_its_own_options_alone(finished, corpus, config):
    other = RunConfig(model=config.model, shard_size=8_500, shift="asinh")
    with pytest.raises(StoreError, match=f"{finished} was made with --shift log_ratio, this command says as"):
        ctxbatch.run(corpus, finished, other)


def test_copies_go_from_object_storage_into_folders(finished, short, tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} is not a URL: name a store on object storage, such"):
        ctxbatch.pull(str(tmp_path), tmp_path / "copy")
    with pytest.raises(InputError, match=f"{finished} is on object storage too: name a folder"):
        ctxbatch.pull(finished, finished)
    with pytest.raises(StoreError, match="s3://finished/none is not a ctxbatch store: it has no manifest"):
        ctxbatch.pull("s3://finished/none", tmp_path / "copy")
    short(tmp_path / "own")
    with pytest.raises(StoreError, match=f"{tmp_path}/own already holds another store, not {finished}: "):
        ctxbatch.pull(finished, tmp_path / "own")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(StoreError, match="contains other files"):
        ctxbatch.pull(finished, tmp_path / "full")


def test_an_unfinished_store_is_copied_as_far_as_it_is(server, finished, tmp_path):
    place, copy = BucketLocation(finished), tmp_path / "copy"
    manifest = place.manifest()
    unfinished = f"{finished}-begun"
    for name in objects(server, finished):
        if name < "shards/000004":
            filesystem.write_file(f"{unfinished}/{name}", filesystem.read_file(f"{finished}/{name}"))
    report = ctxbatch.pull(unfinished, copy)
    assert (report.held, report.copied, report.planned) == (4, 4, len(manifest.shards))
    assert str(report) == f"{copy}: 4 of 10 shards; copied 4"
    assert ctxbatch.pull(finished, copy).copied == 6  # the same store, by its manifest


def test_a_plan_names_no_room_where_nobody_knows_it(bucket, corpus, config, cli):
    url = f"{bucket({})}/out"
    found = ctxbatch.estimate(corpus, url, config)
    assert (found.bytes_free, found.fits) == (None, True)
    shown = cli("plan", corpus, "-o", url, "--model", config.model)
    assert shown.returncode == 0, shown.stderr
    assert "free disk" not in shown.stdout
    assert Path("s3:").exists() is False
