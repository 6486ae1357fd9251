"""Stores of earlier versions open: `tests/data/store_of_0.1` was made when all modules lay in one folder."""

import json
import shutil
from pathlib import Path

import pytest

import ctxbatch

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
