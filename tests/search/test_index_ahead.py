"""A run prepares its index while it makes its shards, and ends with the same bytes, whatever happens."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import ctxbatch
from ctxbatch.execution import local_pool
from ctxbatch.execution.shard_coder import ShardCoder
from ctxbatch.files import temporary_name
from ctxbatch.search import index_build
from ctxbatch.search.index_parts import find_codebook
from ctxbatch.store.reader import Store
from tests.helpers.many_shards import COLUMN, COMMAND_LINE, index_digests, wait_until
from tests.helpers.stores import arrow_digests


@pytest.mark.usefixtures("small_indexed")
def test_an_index_is_trained_while_the_run_goes_on_and_no_byte_changes(
    many_shards, in_parts, tmp_path, monkeypatch
):
    """Of the four shards that training does not need, two are held up until the codebook is there."""
    text, config = many_shards
    out, real = tmp_path / "out", local_pool.Pool._hand_out
    codebook = out / "index" / f"{COLUMN}.parts" / "codebook.json"

    def hand_out(self, dispatch):
        if len(dispatch) <= 4:
            wait_until(codebook.exists)
        real(self, dispatch)

    monkeypatch.setattr(local_pool.Pool, "_hand_out", hand_out)
    report = ctxbatch.run(text, out, config)
    assert report.index.rows == Store(out).n_rows
    assert arrow_digests(out) == arrow_digests(in_parts)
    assert index_digests(out) == index_digests(in_parts)


def test_a_worker_codes_what_it_commits_when_there_is_a_codebook(in_parts, tmp_path):
    out = shutil.copytree(in_parts, tmp_path / "out")
    store, parts = Store(out), out / "index" / f"{COLUMN}.parts"
    for path in parts.glob("*.codes"):
        path.unlink()
    coder = ShardCoder(store.location, store.manifest)
    aside = (parts / "codebook.json").rename(parts / "aside")
    coder.code(store.commits[2])
    aside.rename(parts / "codebook.json")
    for shard in (3, 5):
        coder.code(store.commits[shard])
    wait_until((parts / "000005.codes").exists)
    assert sorted(path.name for path in parts.glob("*.codes")) == ["000003.codes", "000005.codes"]
    for name in ("000003.codes", "000005.codes"):
        assert (parts / name).read_bytes() == (in_parts / "index" / parts.name / name).read_bytes()


def test_the_process_that_trains_ends_with_the_run_and_leaves_nothing(unindexed, tmp_path):
    out = shutil.copytree(unindexed, tmp_path / "out")
    command = [sys.executable, "-m", "ctxbatch.execution.index_ahead", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    process.send_signal(signal.SIGINT) if process.poll() is None else None
    process.stdin.close()  # as when the process that started it is killed
    assert process.wait() != 0
    assert not list(out.glob("index/*.parts/codebook.json"))
    done = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert done.wait() == 0
    assert find_codebook(Store(out), COLUMN) is not None


def test_what_a_killed_process_left_of_a_part_is_removed(many_shards, unindexed, tmp_path):
    text, config = many_shards
    out = shutil.copytree(unindexed, tmp_path / "out")
    left = out / "index" / f"{COLUMN}.parts" / temporary_name("000003.codes", "nowhere.0.1")
    left.parent.mkdir(parents=True)
    left.write_text("half")
    ctxbatch.run(text, out, replace(config, index=False))
    assert not left.exists()


@pytest.mark.usefixtures("small_indexed")
def test_parts_of_a_run_end_with_the_same_index(many_shards, in_parts, tmp_path):
    text, config = many_shards
    out = tmp_path / "out"
    for part in ((2, 2), (1, 2)):
        ctxbatch.run(text, out, replace(config, shard_range=part))
    assert index_build.ensure(Store(out), COLUMN).rows == Store(out).n_rows
    assert index_digests(out) == index_digests(in_parts)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_end_with_the_index_of_an_undisturbed_one(kills, many_shards, in_parts, tmp_path):
    text, config = many_shards
    chance, out = random.Random(kills), tmp_path / "out"
    settings = ["--model", config.model, "--shard-size", config.shard_size, "--precision", "fp32"]
    command = [sys.executable, "-c", COMMAND_LINE, "run", str(text), "-o", str(out), *map(str, settings)]
    for _ in range(kills):
        process = subprocess.Popen(
            [*command, "--workers", chance.choice("12")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(1, 9))
        if chance.random() < 0.5:
            process.kill()  # what it has started ends by itself
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert arrow_digests(out) == arrow_digests(in_parts)
    assert index_digests(out) == index_digests(in_parts)
