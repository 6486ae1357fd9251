"""Stores of earlier versions open: `tests/data/store_of_0.1` was made when all modules lay in one folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import ctxbatch
from ctxbatch.store.manifest import Manifest
from ctxbatch.versions import version_of

BEFORE = Path(__file__).parents[1] / "data" / "store_of_0.1"


@pytest.fixture
def out(tmp_path):
    shutil.copytree(BEFORE / "out", tmp_path / "out")
    return tmp_path / "out"


def test_a_store_of_before_is_opened(out):
    store = ctxbatch.open(out)
    assert (store.complete, store.n_rows, len(store.commits)) == (True, 150, 3)
    assert store.config.fingerprint == json.loads((out / "manifest.json").read_text())["fingerprint"]
    assert store.config.columns == ("static", "contextual_3", "contextual_1", "shift_3", "shift_1")
    assert store.words.count_rows() == 150
    assert store.sentences.to_table()["source"].unique().to_pylist() == ["text.txt"]


def test_a_store_of_before_is_verified(out, cli):
    result = cli("verify", out)
    assert (result.returncode, result.stdout) == (0, f"{out}: 3 of 3 shards committed, all intact\n")


def test_a_store_of_before_is_searched(out, cli):
    query = ("I want an [apple].", "--model", BEFORE / "model")
    for what in (query, ("--row", 2**32)):
        result = cli("search", out, *what, "-k", 3, "--json")
        assert result.returncode == 0, result.stderr
        assert len(result.stdout.splitlines()) == 3
        assert all(json.loads(line)["source"] == "text.txt" for line in result.stdout.splitlines())


def test_the_status_of_a_store_is_for_machines_too(out, cli):
    shutil.rmtree(out / "shards" / "000001")
    found = json.loads(cli("status", out, "--json").stdout)
    assert found["state"] == "interrupted"
    assert (found["shards"], found["planned"], found["missing"], found["in_work"]) == (2, 3, [1], [])
    assert (found["rows"], found["store"]) == (92, str(out))


def test_a_store_of_before_is_finished_by_a_command_of_today(out, tmp_path, cli, monkeypatch):
    """With its own layers, shift and words: the defaults were others when it was begun."""
    model = shutil.copytree(BEFORE / "model", tmp_path / "model")
    shutil.copy(BEFORE / "text.txt", tmp_path)
    manifest, before = Manifest.read(out), ctxbatch.open(out).words.to_table(columns=["word"])
    shutil.rmtree(out / "shards")
    versions = {name: version_of(name) for name in manifest.config.versions}  # others do not go on
    begun = replace(manifest, config=replace(manifest.config, model=str(model), versions=versions))
    begun.write(out)
    monkeypatch.chdir(tmp_path)
    for options in ((), ("--model", model)):
        result = cli("run", "text.txt", "-o", out, *options)
        assert result.returncode == 3, result.stderr  # it rejects a word, as it did then
        assert f"taken from {out}: " in result.stderr
        assert (
            "--layers 3,1 (the default is 2), --shift log_ratio (the default is difference)" in result.stderr
        )
    store = ctxbatch.open(out)
    assert (store.complete, store.config) == (True, begun.config)
    assert store.words.to_table(columns=["word"]) == before
    given = cli("run", "text.txt", "-o", out, "--shift", "difference")
    assert given.returncode == 2
    assert "was made with --shift log_ratio, but this command has --shift difference" in given.stderr
