"""A finished store on object storage is not run again; damage in it is found; what it cannot do is said."""

import json
import re
import signal
from pathlib import Path

import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig, StoreError, filesystem
from ctxbatch.execution.repair import find_damage
from ctxbatch.sealed import seal, unseal
from ctxbatch.store.bucket_location import BucketLocation
from tests.helpers.running import start
from tests.helpers.stores import objects

N_LINES = 1_000


@pytest.fixture(scope="module")
def corpus(long_text):
    return long_text(N_LINES)


@pytest.fixture(scope="module")
def config(tiny):
    return RunConfig(model=str(tiny()), shard_size=8_500, workers=1)


@pytest.fixture(scope="module")
def finished(server, corpus, config):
    """A store on object storage; tests do it no harm."""
    server.client().create_bucket(Bucket="finished")
    ctxbatch.run(corpus, "s3://finished/out", config)
    return "s3://finished/out"


def test_a_finished_store_is_not_run_again(server, finished, corpus, config):
    before = objects(server, finished)
    report = ctxbatch.run(corpus, finished + "/", config)
    assert (report.n_run, report.totals.shards, report.index) == (0, 10, None)
    assert objects(server, finished) == before


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
        ({"force": True}, "--force cannot be used with s3:.*: free space is not checked there"),
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
    with pytest.raises(
        StoreError, match=f"{finished} was made with --shift difference, but this command has --shift as"
    ):
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
