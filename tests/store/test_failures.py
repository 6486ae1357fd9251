"""What happens overnight: full disks, sources that vanish, damage and its repair, more text tomorrow."""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import ctxbatch
from ctxbatch import InputError, ResourceError, RunConfig, StoreError
from ctxbatch.execution.repair import find_damage, repair_store
from ctxbatch.files import write_json
from ctxbatch.sealed import file_digest, read_json
from ctxbatch.search import index_build
from tests.helpers.models import TEXT
from tests.helpers.mounts import may_mount
from tests.helpers.running import command, committed, start, wait_for
from tests.helpers.stores import arrow_digests, make_store

pytestmark = pytest.mark.usefixtures("quick_indexes")

LINES = [line for line in TEXT.splitlines() if line.strip() and "antidis" not in line]


def write_corpus(path, n_lines):
    path.write_text("".join(f"{n}: {LINES[n % len(LINES)]}\n" for n in range(n_lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def _small_indexes():
    """A store of five thousand rows has an index; training one of fifty thousand takes many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_build, "SCAN_ROWS", 5_000)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    # Enough rows for an index, and some records that are rejected.
    path = tmp_path_factory.mktemp("corpus") / "long.jsonl"
    rows = [json.dumps({"text": f"{n}: {LINES[n % len(LINES)]}"}) for n in range(420)]
    rows[5::100] = ["{"] * len(rows[5::100])
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(corpus, tiny, cli, tmp_path_factory):
    """A store with several shards, rejects and an index."""
    out = tmp_path_factory.mktemp("finished") / "out"
    result = cli("run", corpus, "-o", out, "--model", tiny(), "--shard-size", "10000")
    assert result.returncode == 3, result.stderr
    store = ctxbatch.open(out)
    assert store.n_rows >= index_build.SCAN_ROWS
    assert len(store.commits) >= 4
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


# --- damage and repair ----------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_is_found_and_repaired(finished, copy, cli):
    """In every file of a store but the log; the manifest, which cannot be repaired, says what is needed."""
    chance = random.Random(5)
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.name not in ("run.log", ".lock"))
    names = {path.name for path in files if path.suffix != ".codes"}
    assert names == {
        "manifest.json", "shard.json", "words.arrow", "sentences.arrow", "moments.npy", "rejects.jsonl",
        "shift_2.faiss", "shift_2.json", "words.json", "codebook.json", "codebook.f32",
    }  # fmt: skip
    flipped = {}
    for path in files:
        content = bytearray(path.read_bytes())
        if path.name == "manifest.json" or (path.parent.name == "000002" and path.name != "shard.json"):
            continue
        place = chance.randrange(len(content))
        content[place] ^= chance.choice([1, 2, 4, 8, 16, 32, 64, 128])
        path.write_bytes(content)
        flipped[path] = place
    damaged = {damage.text.split(" ")[0] for damage in find_damage(copy)}
    for path in flipped:
        if path.parent.suffix == ".parts":
            continue  # of an index that is damaged itself, and made again with all its parts
        assert any(str(path).startswith(named) or named.startswith(str(path.parent)) for named in damaged), (
            path
        )
    result = cli("verify", copy, "--repair")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"rebuilt: shards 000000, .*\nrebuilt: index/shift_2, index/words\n", result.stdout)
    assert "all intact" in result.stdout
    assert arrow_digests(copy) == arrow_digests(finished)
    assert not list(find_damage(copy))
    assert not ctxbatch.searcher(copy).unindexed()  # the index works again


def test_every_single_flipped_byte_is_found(copy):
    chance = random.Random(8)
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.name not in ("run.log", ".lock"))
    for _ in range(50):
        path = chance.choice(files)
        before = path.read_bytes()
        content = bytearray(before)
        place = chance.randrange(len(content))
        content[place] = (content[place] + chance.randrange(1, 256)) % 256
        path.write_bytes(content)
        try:
            assert list(find_damage(copy)), (path, place)
        except StoreError:
            assert path.name == "manifest.json"
        path.write_bytes(before)
    assert not list(find_damage(copy))


def test_white_space_in_a_commit_record_is_no_place_to_hide(copy):
    path = copy / "shards" / "000001" / "shard.json"
    path.write_bytes(path.read_bytes().replace(b'\n "shard": 1', b'\n\t"shard": 1'))
    assert 1 in {damage.shard for damage in find_damage(copy)}


def test_a_damaged_manifest_asks_for_a_new_run_and_is_not_repaired(copy, cli):
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"mean"', b'"none"'))
    result = cli("verify", copy, "--repair")
    assert result.returncode == 2
    assert "the store cannot be trusted: run again with another -o" in result.stderr


def test_missing_shards_are_made_by_repair(finished, copy, cli):
    shutil.rmtree(copy / "shards" / "000000")
    result = cli("verify", copy)
    assert result.returncode == 3
    assert "1 of 6 shards are missing" in result.stdout
    assert cli("verify", copy, "--repair").returncode == 0
    assert arrow_digests(copy) == arrow_digests(finished)


def test_repair_needs_the_source_as_it_was(copy, corpus):
    shutil.rmtree(copy / "shards" / "000000")
    content = corpus.read_bytes()
    try:
        corpus.write_bytes(b"x" + content[1:])
        with pytest.raises(InputError, match="changed after the run was planned"):
            repair_store(copy)
    finally:
        corpus.write_bytes(content)


def test_what_is_wrong_in_a_shard_with_right_checksums_is_found(tmp_path, tiny):
    """Offsets, ids and finiteness, as if the program itself had written nonsense."""
    import pyarrow as pa

    (tmp_path / "a.txt").write_text("I want an apple.\n")
    out = tmp_path / "out"
    make_store(out, [tmp_path / "a.txt"], RunConfig(model=str(tiny())))
    path = out / "shards" / "000000" / "words.arrow"
    original = path.read_bytes()

    def rewrite(column, change):
        table = pa.ipc.open_file(pa.BufferReader(original)).read_all()
        number = table.schema.names.index(column)
        array = change(table[column].combine_chunks())
        table = table.set_column(number, table.schema.field(column), array)
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        record = path.with_name("shard.json")
        facts = read_json(record)
        facts["files"]["words.arrow"] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        write_json(record, facts)
        return [damage.text for damage in find_damage(out)]

    def not_finite(array):
        values = array.flatten().to_numpy(zero_copy_only=False).copy()
        values[3] = np.nan
        return pa.FixedSizeListArray.from_arrays(pa.array(values), type=array.type)

    assert rewrite("word", lambda array: array) == []
    assert "not at their offsets" in rewrite("char_start", lambda a: pa.compute.add(a, 1).cast(a.type))[0]
    assert "not at their offsets" in rewrite("sentence_id", lambda a: pa.compute.add(a, 1))[0]
    assert "rows of shard.json in order" in rewrite("row_id", lambda a: pa.compute.add(a, 1))[0]
    assert "shift_2 that are not finite" in rewrite("shift_2", not_finite)[0]


def test_an_interrupted_index_build_is_made_up_for(copy, corpus, tiny, cli):
    """Killed while it writes: beside the place lies half an index, which the next run removes."""
    shutil.rmtree(copy / "index")
    (copy / "index").mkdir()
    (copy / "index" / ".shift_2.faiss.999999.tmp").write_bytes(b"half")
    result = cli("run", corpus, "-o", copy, "--model", tiny(), "--shard-size", "10000")
    assert result.returncode == 3
    assert {p.name for p in (copy / "index").iterdir()} == {
        "shift_2.faiss",
        "shift_2.json",
        "shift_2.parts",
        "words.arrow",
        "words.json",
    }
    assert "was finished before: no text is left to read" in result.stderr


# --- disks and sources ----------------------------------------------------------------------------

FULL_DISK = """
set -eu
mount -t tmpfs -o size=3m tmpfs "$1"
run() { set +e; "${@:2}" "$run_option" > /dev/null 2> "$errors"; echo "$?"; tail -n 1 "$errors"; set -e; }
out=$1 errors=$2; shift 2
run_option=-q; run - "$@"
run_option=--force; run - "$@"
find "$out/out" -name '*.tmp' | wc -l
"$verify" -m ctxbatch verify "$out/out" | grep -vc "are missing" || true
mount -o remount,size=200m "$out"
run_option=-q; run - "$@"
cp -r "$out/out" "$copy"
"""


@pytest.mark.skipif(not may_mount(), reason="no small file system can be mounted here")
def test_a_full_disk_stops_the_run_and_with_room_it_goes_on(tmp_path, tiny):
    corpus = write_corpus(tmp_path / "a.txt", 1_500)
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = ["--model", tiny(), "--shard-size", "10000", "--workers", "2"]
    make_store(tmp_path / "undisturbed", [corpus], RunConfig(model=str(tiny()), shard_size=10_000))
    under_test = command("run", corpus, "-o", disk / "out", *arguments)
    script = subprocess.run(
        ["unshare", "-rm", "bash", "-c", FULL_DISK, "bash", disk, tmp_path / "errors", *under_test],
        env={**os.environ, "copy": str(tmp_path / "copy"), "verify": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    refused, why, full, said, leftovers, damaged, done, *_ = script.stdout.splitlines()
    assert (refused, full, leftovers, damaged, done) == ("4", "4", "0", "0", "0"), script.stdout
    assert re.search(r"needs about [\d.]+ MB more, but its disk has [\d.]+ MB free: make room", why)
    assert "is full: make room and run the same command again" in said
    assert arrow_digests(tmp_path / "copy") == arrow_digests(tmp_path / "undisturbed")


def test_a_run_that_the_disk_cannot_hold_is_refused_before_it_begins(tmp_path, tiny, monkeypatch):
    corpus = write_corpus(tmp_path / "a.txt", 100)
    config = {"model": str(tiny()), "index": False}
    monkeypatch.setattr("ctxbatch.files.free_bytes", lambda _: 10_000)
    with pytest.raises(ResourceError, match=r"needs about .* make room, choose another -o, .*--force"):
        ctxbatch.run(corpus, tmp_path / "out", RunConfig(**config))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert ctxbatch.run(corpus, tmp_path / "out", RunConfig(**config, force=True)).clean


def test_a_source_that_is_another_in_the_middle_stops_the_run_in_one_line(tmp_path, tiny, cli):
    """Of two sources the second, while the first is worked on; what is committed is kept."""
    inputs = [write_corpus(tmp_path / name, 2_000) for name in ("a.txt", "b.txt")]
    content, out = inputs[1].read_bytes(), tmp_path / "out"
    arguments = ["-o", out, "--model", tiny(), "--shard-size", "10000", "--workers", "1"]

    def change():
        inputs[1].write_bytes(content[:-2] + b"X\n")

    for happens, said in ((inputs[1].unlink, "cannot be read"), (change, "changed after the run was plan")):
        before = committed(out)
        process = start("run", *inputs, *arguments)
        wait_for(lambda before=before: committed(out) > before, process)
        happens()
        _, errors = process.communicate()
        assert process.returncode == 2
        assert re.search(f"ctxbatch: .*b.txt {said}", errors)
        assert "Traceback" not in errors
        inputs[1].write_bytes(content)
    assert cli("run", *inputs, *arguments).returncode == 0


# --- more text tomorrow ---------------------------------------------------------------------------


def test_stores_of_one_configuration_are_searched_together(tmp_path, tiny, cli):
    parts = ["\n".join(LINES[:4]) + "\n", "\n".join(LINES[4:]) + "\nI want an orange.\n"]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.txt").write_text(part, encoding="utf-8")
    (tmp_path / "whole.txt").write_text("".join(parts), encoding="utf-8")
    config = RunConfig(model=str(tiny()))
    for name in ("0", "1", "whole"):
        make_store(tmp_path / name, [tmp_path / f"{name}.txt"], config)
    query = "I want an [adventure]?"
    both = ctxbatch.searcher([tmp_path / "0", tmp_path / "1"]).search(query, 20)
    whole = ctxbatch.searcher(tmp_path / "whole").search(query, 20)
    assert np.allclose([hit.score for hit in both], [hit.score for hit in whole], atol=2e-3)
    assert {hit.store for hit in both} == {str(tmp_path / "0"), str(tmp_path / "1")}
    result = cli("search", tmp_path / "0", tmp_path / "1", query, "-k", "3", "--json")
    assert result.returncode == 0, result.stderr
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(hit["store"], hit["row_id"]) for hit in shown] == [(hit.store, hit.row_id) for hit in both[:3]]


def test_stores_of_different_configurations_are_not_searched_together(tmp_path, tiny):
    (tmp_path / "a.txt").write_text("one two\n")
    make_store(tmp_path / "one", [tmp_path / "a.txt"], RunConfig(model=str(tiny())))
    make_store(tmp_path / "two", [tmp_path / "a.txt"], RunConfig(model=str(tiny()), pool="first"))
    with pytest.raises(StoreError, match=r"cannot be searched together: pool: mean and first"):
        ctxbatch.searcher([tmp_path / "one", tmp_path / "two"])
    with pytest.raises(InputError, match=r"one is given twice"):
        ctxbatch.searcher([tmp_path / "one", tmp_path / "one"])
