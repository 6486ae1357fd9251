"""Stores of some twenty shards, with an index in parts and without, for the tests of indexes in parts."""

import shutil
from dataclasses import replace

import pytest

import ctxbatch
from ctxbatch import RunConfig
from ctxbatch.search import index, index_build
from ctxbatch.store.reader import Store
from tests.helpers.many_shards import COLUMN, set_all, write


@pytest.fixture
def small_indexed(monkeypatch):
    """Have some thousand rows indexed, and searches go through the index."""
    set_all(monkeypatch)
    monkeypatch.setattr(index, "_SCANNED_ROWS", 0)
    monkeypatch.setattr(index, "_SCANNED_SHARE", 0)


@pytest.fixture(scope="session")
def many_shards(tiny, tmp_path_factory):
    """The options of a run over some 20 shards, of which 16 have rows enough to train on."""
    folder = tmp_path_factory.mktemp("corpus")
    text = write(folder / "text.txt", 1_400)
    options = {"model": str(tiny()), "shard_size": text.stat().st_size // 20, "precision": "fp32"}
    return text, RunConfig(**options, workers=1)


@pytest.fixture(scope="session")
def unindexed(many_shards, tmp_path_factory):
    """The store without an index; made once, not to be changed."""
    text, config = many_shards
    out = tmp_path_factory.mktemp("unindexed") / "out"
    ctxbatch.run(text, out, replace(config, index=False))
    return out


@pytest.fixture(scope="session")
def in_parts(unindexed, tmp_path_factory):
    """The store with an index that was built when it was finished; made once, not to be changed."""
    out = tmp_path_factory.mktemp("in_parts") / "out"
    shutil.copytree(unindexed, out)
    with pytest.MonkeyPatch.context() as patch:
        set_all(patch)
        index_build.build(Store(out), COLUMN)
    return out
