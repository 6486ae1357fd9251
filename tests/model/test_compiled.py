"""Compiled models: equal to the oracle, made once, and never a surprise."""

import os
from pathlib import Path

import pytest

import ctxbatch
from ctxbatch.corpus.plan import corpus_bytes
from ctxbatch.corpus.sources import Source
from ctxbatch.errors import InputError
from ctxbatch.model import compiling, encoder, resolve
from ctxbatch.model.compiling import CompilingError, make_program
from ctxbatch.run_config import RunConfig
from ctxbatch.store.reader import Store
from tests.helpers.models import FAMILIES
from tests.helpers.oracle import Oracle
from tests.helpers.parity import compare
from tests.helpers.stores import arrow_digests, make_store


def options(model: Path, **given: object) -> RunConfig:
    return RunConfig(model=str(model), precision="fp32", index=False, **given)  # type: ignore[arg-type]


@pytest.fixture
def old_programs(tmp_path, monkeypatch) -> Path:
    """A cache that is full."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "ctxbatch" / "compiled"
    folder.mkdir(parents=True)
    for age in range(compiling._KEPT):
        (folder / f"{age}.so").touch()
        os.utime(folder / f"{age}.so", (1000 + age, 1000 + age))
    return folder


def check(store: Store, oracle: Oracle) -> None:
    assert store.config.compiled
    facts = compare(store, oracle)
    assert facts["rows"] > 100
    assert facts["excess"] <= 0
    assert facts["shift_excess"] <= 0


@pytest.mark.slow  # compiling each takes a minute; the one with the most kinds of masks is tried below
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])
def test_a_compiled_model_agrees_with_the_oracle(family, tiny, oracle, text, tmp_path, monkeypatch):
    config = options(tiny(family), compile="on", tokens_per_batch=100)
    make_program(resolve.resolve(config, "cpu"))
    monkeypatch.setattr(encoder, "_load_model", None)  # batches of one window or one row go through too
    store = make_store(tmp_path / "out", [text], config)
    monkeypatch.undo()
    check(store, oracle(family))


def test_a_compiled_run_gives_the_same_bytes_with_any_workers_and_compiles_once(
    tiny, oracle, cli, text, tmp_path, old_programs, monkeypatch
):
    family = "modernbert"
    settings = {"shard_size": 200, "tokens_per_batch": 100, "compile": "on"}
    given = (f"--{name.replace('_', '-')}={value}" for name, value in settings.items())
    shared = ("--model", tiny(family), "--no-index", "--precision", "fp32", *given)
    one = cli("run", text, "-o", tmp_path / "one", *shared, "--workers", 2)
    assert one.returncode == 0, one.stderr
    assert "compiling" in one.stderr
    kept = {program.name for program in old_programs.glob("*.so")}
    assert len(kept) == compiling._KEPT
    assert "0.so" not in kept  # the one that was used least recently
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "_load_model", None)  # batches of one window or one row go through too
        patch.setattr(compiling, "_make", None)  # what is there is not made again
        two = make_store(tmp_path / "two", [text], options(tiny(family), **settings))
        assert make_program(two.config).parent == old_programs
    check(two, oracle(family))
    assert len(two.commits) > 2
    assert arrow_digests(tmp_path / "one") == arrow_digests(tmp_path / "two")
    again = cli("run", text, "-o", tmp_path / "one", *shared[:-1])  # --compile auto
    assert (again.returncode, "nothing to do" in again.stderr) == (0, True), again.stderr
    off = cli("run", text, "-o", tmp_path / "one", *shared, "--compile", "off")
    assert off.returncode == 2
    assert "--compile on, this command says off" in off.stderr
    eager = cli("run", text, "-o", tmp_path / "eager", *shared, "--compile", "off")
    assert eager.returncode == 0, eager.stderr
    both = ctxbatch.searcher([tmp_path / "one", tmp_path / "eager"])  # the same vectors but for rounding
    hits = both.search("nobody wanted what [lay] inside", k=2)
    assert {hit.store for hit in hits} == {str(tmp_path / "one"), str(tmp_path / "eager")}
    assert max(hit.score for hit in hits) - min(hit.score for hit in hits) < 0.01


def test_a_model_is_compiled_where_the_corpus_repays_it(tiny):
    few, many = (resolve.resolve(options(tiny()), "cpu", size).compiled for size in (10**6, 10**12))
    assert (few, many) == (False, True)
    assert not resolve.resolve(options(tiny(), compile="off"), "cpu", 10**12).compiled


def test_a_cache_that_cannot_be_written_is_told_in_one_line(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CompilingError, match="cannot be written to"):
        make_program(resolve.resolve(options(tiny(), compile="on"), "cpu"))


def test_a_few_records_of_a_large_corpus_are_a_small_one():
    large = [Source(path="a.txt", size=10**12, mtime_ns=0, format="txt", compression=None)]
    assert corpus_bytes(large) == 10**12
    assert corpus_bytes(large, limit=100) < 10**6


def test_without_a_compiler_auto_means_off_and_on_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not resolve.resolve(options(tiny()), "cpu", 10**12).compiled
    with pytest.raises(InputError, match=r"--compile on needs a C\+\+ compiler"):
        resolve.resolve(options(tiny(), compile="on"), "cpu")


def test_compiling_on_a_gpu_is_refused_in_one_line(tiny):
    with pytest.raises(InputError, match="for CPUs only"):
        resolve.resolve(options(tiny(), compile="on"), "cuda:0")


@pytest.fixture
def broken_compiler(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("broken_compiler")
def test_a_compiler_that_fails_is_told_in_one_line_and_auto_goes_on_without(
    tiny, text, tmp_path, monkeypatch, caplog
):
    with pytest.raises(CompilingError) as failed:
        ctxbatch.run(text, tmp_path / "on", options(tiny(), layers=(1,), compile="on"))
    assert "cannot be compiled" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert not (tmp_path / "on" / "manifest.json").exists()
    assert not list((tmp_path / "cache").rglob("*.so"))

    def fail_at_once(*_: object) -> None:
        raise failed.value

    monkeypatch.setattr(compiling, "_make", fail_at_once)
    monkeypatch.setattr(resolve, "_REPAYS_COMPILING", 0)
    assert ctxbatch.run(text, tmp_path / "auto", options(tiny(), layers=(1,))).given_up == ()
    assert not ctxbatch.open(tmp_path / "auto").config.compiled
    assert "going on without" in caplog.text
