"""Inputs on an object store: the same records as from files, and no failure is taken for damaged data."""

import gzip
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ctxbatch
from ctxbatch import RunConfig, filesystem
from ctxbatch.corpus.inputs import find_sources
from ctxbatch.corpus.records import Reject
from ctxbatch.errors import InputError, ResourceError, StoreError
from ctxbatch.execution.repair import repair_store
from ctxbatch.store.verify import find_source_changes
from tests.helpers.corpora import (
    COMPRESS,
    as_json_lines,
    as_lines,
    as_table,
    read_all,
    write_all,
    write_arrow_file,
    write_arrow_stream,
    write_parquet,
)
from tests.helpers.objectstore import object_store
from tests.helpers.stores import make_store, rows_of

TEXTS = [f"Line {n} of some text." for n in range(40)] + ["", "Ein Ärger, ça alors, 雪."]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def found(*inputs):
    return [source.path for source in find_sources(inputs, Path("/nowhere"))[0]]


# --- the same as local files ----------------------------------------------------------------------


def test_every_format_gives_the_records_of_local_files(tmp_path, bucket):
    write_all(tmp_path / "data", TEXTS)
    root = bucket(files_of(tmp_path))
    local = read_all([tmp_path / "data"], shard_size=400)
    from_objects = read_all([f"{root}/data"], shard_size=400)
    assert [Path(s.path).name for s in local[0]] == [s.path.rpartition("/")[2] for s in from_objects[0]]
    assert local[1] == from_objects[1]
    assert local[2] == from_objects[2]
    assert not any(isinstance(item, Reject) for item in local[2])


NAMES = [
    "a.txt",
    "b.jsonl.gz",
    "f/a.txt",
    "f/deep/er/c.txt",
    "f-x/d.txt",
    "f/.hidden/x.txt",
    ".git/y.txt",
    "f/we ird %20+#.txt",
    "f/z.png",
    "saved/data-00000-of-00001.arrow",
]


@pytest.mark.parametrize(
    "pattern",
    ["", "f", "f/", "*.txt", "*", "**/*.txt", "f/**", "**", "f/*", "*/*.txt", "f*/[ad].txt", "**/c.*"],
)
def test_folders_and_globs_find_what_they_find_locally_in_the_same_order(tmp_path, bucket, pattern):
    objects = {name: as_lines(TEXTS) for name in NAMES}
    objects["b.jsonl.gz"] = gzip.compress(as_json_lines(TEXTS))
    write_arrow_file(as_table(TEXTS), tmp_path / "saved.arrow")
    objects["saved/data-00000-of-00001.arrow"] = (tmp_path / "saved.arrow").read_bytes()
    objects["saved/cache-1.arrow"] = objects["saved/data-00000-of-00001.arrow"]
    objects["saved/dataset_info.json"] = b"{}"
    objects["saved/state.json"] = b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
    objects["store/manifest.json"] = b'{"format": "ctxbatch store"}'
    objects["store/shards/000000/rejects.txt"] = b"no input"
    folder = tmp_path / "local"
    for name, content in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    root = bucket({**objects, "f/marker/": b""})
    assert as_found(f"{root}/{pattern}", root) == as_found(f"{folder}/{pattern}", str(folder))


def as_found(given: str, root: str) -> tuple[list[str], set[str]]:
    try:
        sources, left_out = find_sources([given], Path("/nowhere"))
    except InputError as error:
        return [str(error).replace(root, "")], set()
    return [s.path.removeprefix(root) for s in sources], {
        str(o).replace(root, "") for o in left_out if "store" not in str(o)
    }


def test_a_name_with_signs_of_patterns_is_a_name_where_it_exists(bucket):
    root = bucket({"what[1]?*.txt": b"text\n", "what1.txt": b"other\n"})
    assert found(f"{root}/what[1]?*.txt") == [f"{root}/what[1]?*.txt"]
    assert found(f"{root}/what[1].t?t") == [f"{root}/what1.txt"]


def test_objects_and_files_are_mixed_in_the_order_that_they_are_named_in(tmp_path, bucket):
    (tmp_path / "local.txt").write_bytes(b"local\n")
    root = bucket({"a.txt": b"remote\n"})
    _, _, items = read_all([f"{root}/a.txt", tmp_path / "local.txt"])
    assert [item.text for item in items] == ["remote", "local"]


def test_local_files_keep_names_that_look_like_urls(tmp_path, monkeypatch, bucket):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "notes").mkdir(parents=True)
    (tmp_path / "s3:" / "notes" / "a.txt").write_text("mine\n")
    assert found("s3://notes/a.txt") == ["s3:/notes/a.txt"]
    assert found("s3://notes/*.txt") == ["s3:/notes/a.txt"]
    root = bucket({"a.txt": b"remote\n"})
    assert found(f"{root}/a.txt") == [f"{root}/a.txt"]


def test_other_file_systems_are_opened_by_fsspec(tmp_path):
    write_all(tmp_path / "data", TEXTS)
    for name, content in files_of(tmp_path / "data").items():
        filesystem.write_file(f"memory://corpus/{name}", content)
    assert read_all(["memory://corpus"])[2] == read_all([tmp_path / "data"])[2]
    assert found("memory://corpus/*.csv") == ["memory://corpus/rows.csv"]


def test_a_large_object_is_read_in_few_requests(bucket, server):
    text = as_lines(f"{n} {n * 7919 % 1009} some words" for n in range(150_000))
    root = bucket({"a.txt": text, "a.txt.gz": gzip.compress(text)})
    server.asked.clear()
    _, shards, items = read_all([f"{root}/a.txt"])
    assert len(items) == 150_000
    assert len(shards) > 2
    assert len(server.asked) < 40


def test_a_parquet_row_group_is_read_once_however_many_shards_it_makes(tmp_path, bucket, server):
    chance = random.Random(0)
    table = as_table([f"{n} {chance.getrandbits(400):x}" for n in range(20_000)])
    for name, write in (
        ("a.parquet", lambda path: write_parquet(table, path, row_group_size=10_000, compression="none")),
        ("a.arrow", lambda path: write_arrow_file(table, path, rows=1000)),
    ):
        write(tmp_path / name)
        root = bucket({name: (tmp_path / name).read_bytes()})
        server.asked.clear()
        _, shards, items = read_all([f"{root}/{name}"], shard_size=20_000)
        assert [item.record for item in items] == list(range(20_000))
        assert len(shards) > 50
        assert len(server.asked) < 60, name


# --- the whole way --------------------------------------------------------------------------------


def test_a_run_over_objects_stores_what_one_over_files_stores(tmp_path, bucket, tiny, cli):
    write_all(tmp_path / "data", TEXTS)
    root = bucket(files_of(tmp_path))
    config = RunConfig(model=str(tiny()), shard_size=3000)
    stores = [make_store(tmp_path / "local", [tmp_path / "data"], config)]
    result = cli(
        *("run", f"{root}/data/", "-o", tmp_path / "remote", "--model", tiny()),
        *("--shard-size", "3000", "--workers", "2", "--no-index", "-q"),
    )
    assert result.returncode == 0, result.stderr
    stores.append(ctxbatch.open(tmp_path / "remote"))
    local, distant = map(rows_of, stores)
    assert len(local) == len(distant) > 1000
    for ours, theirs in zip(local, distant, strict=True):
        path = ours["sentence"]["source"].replace(str(tmp_path), root)
        assert theirs.pop("sentence") == {**ours.pop("sentence"), "source": path}
        for name in stores[0].config.columns:
            assert (ours.pop(name) == theirs.pop(name)).all()
        assert ours == theirs
    (tmp_path / "remote" / "shards" / "000000" / "words.arrow").write_bytes(b"damaged")
    assert cli("verify", tmp_path / "remote", "--repair", "--sources").returncode == 0


def test_a_changed_object_is_found_when_a_run_is_resumed_and_by_verify(tmp_path, bucket, tiny):
    lines = as_lines(TEXTS)
    root = bucket({"a.txt": lines})
    config = RunConfig(model=str(tiny()))
    out = make_store(tmp_path / "out", [f"{root}/a.txt"], config).path
    assert list(find_source_changes(out)) == []
    time.sleep(1.1)  # S3 tells times in seconds
    bucket({"a.txt": lines.replace(b"Line 7", b"Line 8")})
    (change,) = find_source_changes(out)
    assert change.startswith(f"{root}/a.txt has changed in bytes 0 to ")
    with pytest.raises(StoreError, match=rf"{root}/a\.txt has changed in bytes 0 to "):
        ctxbatch.run(f"{root}/*.txt", out, config)


def test_an_object_that_vanished_before_a_repair_is_named(tmp_path, bucket, tiny, server):
    root = bucket({"a.txt": as_lines(TEXTS)})
    out = make_store(tmp_path / "out", [f"{root}/a.txt"], RunConfig(model=str(tiny()))).path
    (out / "shards" / "000000" / "words.arrow").unlink()
    server.client().delete_object(Bucket=root[5:], Key="a.txt")
    message = f"{root}/a.txt cannot be read: no such object, folder or bucket"
    assert list(find_source_changes(out)) == [message]
    with pytest.raises(InputError, match=f"^{message}$"):
        repair_store(out)


# --- failures are no damage -----------------------------------------------------------------------


N_BIG = 800


def big_objects(folder: Path) -> dict[str, bytes]:
    """About a megabyte in each way of reading, hard to compress, so that every one takes several requests."""
    chance = random.Random(1)
    texts = [f"{n} {chance.getrandbits(8000):x}" for n in range(N_BIG)]
    objects = {f"lines.txt{suffix}": compress(as_lines(texts)) for suffix, compress in COMPRESS.items()}
    table = as_table(texts)
    write_parquet(table, folder / "table.parquet", row_group_size=300, compression="none")
    write_arrow_file(table, folder / "file.arrow", rows=100)
    write_arrow_stream(table, folder / "stream.arrow", rows=100)
    return objects | files_of(folder)


KINDS = [*(f"lines.txt{suffix}" for suffix in COMPRESS), "table.parquet", "file.arrow", "stream.arrow"]


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    return big_objects(tmp_path_factory.mktemp("big"))


@pytest.mark.parametrize("name", KINDS)
def test_a_read_that_fails_stops_the_plan_and_is_no_reject(bucket, server, big, name):
    url = f"{bucket({name: big[name]})}/{name}"
    whole = read_all([url])
    assert len(whole[2]) == N_BIG
    n_reads = server.n_reads
    for allowed in range(1, n_reads - 1):
        server.asked.clear()
        server.fails = lambda _, allowed=allowed: "400" if server.n_reads > allowed else None
        try:
            read_all([url])
        except ResourceError as failure:
            message = str(failure)
        else:  # pyarrow joins neighbouring reads as they come, so that it may need one less
            assert server.n_reads <= allowed
            continue
        assert message.startswith(f"{url} cannot be read: ")
        assert message.endswith("and run again")
        assert "\n" not in message
    server.fails = lambda _: None
    assert read_all([url]) == whole


@pytest.mark.parametrize("kind", ["503", "cut", "hang"])
@pytest.mark.parametrize("name", ["lines.txt.zst", "table.parquet"])
def test_the_library_tries_again_what_fails_once(bucket, server, big, name, kind):
    url = f"{bucket({name: big[name]})}/{name}"
    once = iter(["", "", kind])
    server.fails = lambda _: next(once, None)
    _, _, items = read_all([url])
    assert [item.record for item in items] == list(range(N_BIG))
    assert next(once, None) is None


def test_another_endpoint_in_the_environment_is_another_server(bucket, server, monkeypatch):
    url = f"{bucket({'a.txt': b'some text'})}/a.txt"
    for _ in range(2):
        before = server.n_reads
        assert filesystem.read_file(url) == b"some text"
        assert server.n_reads > before
        with object_store() as other, monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", other.url)
            before = server.n_reads
            assert filesystem.read_file(url) == b"some text"
            assert (other.n_reads > 0, server.n_reads) == (True, before)


def test_a_damaged_archive_is_still_damaged_on_an_object_store(tmp_path, bucket, big):
    for name in KINDS[1:]:
        damaged = bytearray(big[name])
        damaged[len(damaged) * 2 // 3] ^= 0x55
        (tmp_path / name).write_bytes(damaged)
        url = f"{bucket({name: bytes(damaged)})}/{name}"
        local, distant = read_all([tmp_path / name]), read_all([url])
        assert distant[1:] == local[1:], name


def test_a_run_that_the_network_stops_goes_on_from_there(tmp_path, bucket, server, tiny):
    text = as_lines(f"{n} Some words of text." for n in range(1000))
    root = bucket({"a.txt": text, "b.txt": text})
    out = tmp_path / "out"
    config = RunConfig(
        model=str(tiny()), shard_size=10_000, force=True, index=False, workers=1, devices=("cpu",)
    )
    server.fails = lambda path: "400" if path.endswith("b.txt") and (out / "shards").exists() else None
    with pytest.raises(ResourceError, match=rf"^{root}/b\.txt cannot be read: .* and run again$"):
        ctxbatch.run(f"{root}/*.txt", out, config)
    assert ctxbatch.open(out).commits
    server.fails = lambda _: None
    assert ctxbatch.run(f"{root}/*.txt", out, config).clean
    assert ctxbatch.open(out).sentences.count_rows() == 2000


REFUSED = {
    "s3://{}/nope.txt": "no such object, folder or bucket",
    "s3://no-such-bucket/a.txt": "no such object, folder or bucket",
    "s3://{}/*.csv": "no object matches this pattern",
    "s3://": "it names no bucket: write s3://bucket/key",
    "s3://key:secret@{}/a.txt": "a URL must not hold credentials: set AWS_ACCESS_KEY_ID",
    "s3://{}/a.xyz": "unknown format '.xyz'; known suffixes:",
    "nobody://knows/a.txt": "neither pyarrow nor fsspec opens it",
    "abfs://container/a.txt": "Install adlfs to access Azure",
    "file:///etc/hostname": "give a local file by its path: /etc/hostname",
}


@pytest.mark.parametrize("given", list(REFUSED))
def test_what_cannot_be_opened_is_refused_in_one_line(bucket, given):
    root = bucket({"a.txt": b"text\n", "a.xyz": b"x"})
    with pytest.raises(InputError) as refusal:
        find_sources([given.format(root[5:])], Path("/nowhere"))
    assert REFUSED[given] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_denied_access_and_a_server_that_is_not_there_are_told_in_one_line(bucket, server, monkeypatch):
    root = bucket({"a.txt": b"text\n"})
    server.fails = lambda _: "403"
    with pytest.raises(
        ResourceError, match=r"a\.txt cannot be read: access is denied \(.*\): set AWS_ACCESS_KEY_ID"
    ):
        find_sources([f"{root}/a.txt"], Path("/nowhere"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(
        ResourceError, match=r"^s3://elsewhere/a\.txt cannot be read: .*connect.* and run again$"
    ):
        find_sources(["s3://elsewhere/a.txt"], Path("/nowhere"))


def test_local_inputs_need_nothing_of_remote_ones(tmp_path):
    (tmp_path / "a.txt").write_text("text\n")
    code = (
        "import sys; from pathlib import Path; from ctxbatch.corpus.inputs import find_sources;"
        f"find_sources([{str(tmp_path)!r}], Path('/nowhere')); print('fsspec' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
