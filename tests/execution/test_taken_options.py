"""A run that resumes a store takes from it what is not given, and refuses what is given and differs."""

import json
import shutil
from dataclasses import replace

import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig, StoreError
from ctxbatch.cli.run import TypedOptions
from ctxbatch.execution.resume import with_stored_options
from ctxbatch.store.location import location_of
from tests.helpers.stores import arrow_digests, make_store

WAYS = [
    {"words": ("want", "an apple", "i"), "sample": 0.9},
    {"pool": "first", "keep_punctuation": True, "dtype": "float32", "static": "lookup"},
    {"vectors": ("static",), "split": "none"},
    {"vectors": ("contextual",), "layers": (1, 3), "lang": "de", "tokens_per_batch": 100},
    {"shift": "asinh", "delta": 0.5, "salience_layer": 1, "salience_head": 2, "top_salient": 2},
    {"salience": True, "shift": "log_ratio", "floor": 0.0},
    {"limit": 90, "record": "line", "errors": "replace", "encoding": "latin-1"},
]


def cut(out, shard=1):
    """Take a shard out of a store."""
    shutil.rmtree(out / "shards" / f"{shard:06d}")


def said(caplog):
    return [record.getMessage() for record in caplog.records if "taken from" in record.getMessage()]


@pytest.fixture
def plain(tiny):
    """The options of a command that says nothing of what is computed."""
    return RunConfig(model=str(tiny()), index=False)


@pytest.mark.parametrize("options", WAYS, ids=lambda options: "-".join(options))
def test_a_plain_command_finishes_what_was_begun_with_options(options, corpus, plain, tiny, tmp_path, caplog):
    out = tmp_path / "out"
    config = RunConfig(model=str(tiny()), shard_size=2000, index=False, **options)
    whole = arrow_digests(make_store(out, [corpus], config).path)
    manifest = (out / "manifest.json").read_bytes()
    cut(out)
    caplog.set_level("INFO", "ctxbatch")
    ctxbatch.run(corpus, out, plain)
    assert arrow_digests(out) == whole
    assert (out / "manifest.json").read_bytes() == manifest
    (line,) = said(caplog)
    assert line.startswith(f"taken from {out}: ")
    for name in options:
        assert f"--{name.replace('_', '-')}" in line
    caplog.clear()
    ctxbatch.run(corpus, out, config)  # the command that began it takes nothing
    assert not said(caplog)


def test_the_same_command_says_nothing_of_defaults(corpus, plain, tmp_path, caplog):
    caplog.set_level("INFO", "ctxbatch")
    for _ in range(2):
        ctxbatch.run(corpus, tmp_path / "out", plain)
    assert not said(caplog)


@pytest.mark.parametrize("given", [{}, {"floor": 1e-3}, {"salience_layer": 3}])
def test_a_store_of_the_former_defaults_is_finished_by_the_command_of_then(
    given, corpus, plain, tmp_path, caplog
):
    then = {"shift": "log_ratio", "layers": (-1,)}
    for name in ("whole", "out"):
        make_store(tmp_path / name, [corpus], replace(plain, shard_size=2000, **then, **given))
    out = tmp_path / "out"
    for shard in (0, 2, 3):
        cut(out, shard)
    fingerprint = ctxbatch.open(out).config.fingerprint
    caplog.set_level("INFO", "ctxbatch")
    ctxbatch.run(corpus, out, replace(plain, **given))
    assert arrow_digests(out) == arrow_digests(tmp_path / "whole")
    assert ctxbatch.open(out).config.fingerprint == fingerprint
    taken = "--layers 3 (the default is 2), --shift log_ratio (the default is difference), --shard-size 2000"
    assert said(caplog) == [f"taken from {out}: {taken}"]
    for wrong, message in (
        ({"shift": "difference"}, "--shift log_ratio, but this command has --shift difference"),
        ({"layers": (2,)}, "--layers 3, but this command has --layers 2"),
    ):
        with pytest.raises(StoreError, match=f"{out} was made with {message}: use the same options"):
            ctxbatch.run(corpus, out, replace(plain, **wrong))


def test_all_layers_are_taken_in_the_order_of_the_store(corpus, plain, tmp_path, caplog):
    caplog.set_level("INFO", "ctxbatch")
    out = tmp_path / "out"
    made = make_store(out, [corpus], replace(plain, shard_size=2000, layers=(3, 2, 1)))
    whole = arrow_digests(made.path)
    cut(out)
    ctxbatch.run(corpus, out, replace(plain, layers="all"))
    assert arrow_digests(out) == whole
    assert said(caplog) == [f"taken from {out}: --shard-size 2000"]


def test_what_is_given_and_fits_no_option_of_the_store_is_refused_with_both_values(corpus, plain, tmp_path):
    out = tmp_path / "out"
    make_store(out, [corpus], RunConfig(model=plain.model, vectors=("static",), split="none"))
    for given, message in (
        ({"vectors": ("contextual",)}, "with --vectors static, but this command has --vectors contextual"),
        ({"precision": "bf16"}, "with --precision fp32, but this command has --precision bf16"),
        ({"lang": "de"}, "without --lang, but this command has --lang de"),
        ({"shift": "asinh"}, "without --shift, but this command has --shift asinh"),
        ({"layers": (1,)}, "without --layers, but this command has --layers 1"),
        ({"sample": 0.5}, "without --sample, but this command has --sample 0.5"),
        ({"errors": "replace"}, "with --errors strict, but this command has --errors replace"),
    ):
        with pytest.raises(StoreError, match=f"was made {message}: use the same options to resume"):
            ctxbatch.run(corpus, out, RunConfig(model=plain.model, index=False, **given))


@pytest.fixture
def planned_with(corpus, cli):
    """Plan a run into a store with some options typed; return the exit status and what is said."""

    def plan(out, *typed):
        result = cli("plan", corpus, "-o", out, *typed)
        return result.returncode, result.stderr

    return plan


def test_an_option_that_is_typed_is_given_also_where_it_is_the_default(corpus, plain, tmp_path, planned_with):
    out = tmp_path / "out"
    made = {"pool": "first", "dtype": "float32", "vectors": ("static", "contextual"), "split": "none"}
    make_store(out, [corpus], replace(plain, **made, record="line", keep_punctuation=True))
    for typed, message in (
        (["--pool", "mean"], "with --pool first, but this command has --pool mean"),
        (["--dtype", "float16"], "with --dtype float32, but this command has --dtype float16"),
        (
            ["--vectors", "shift,static,contextual"],
            "with --vectors static,contextual, but this command has --vectors static,contextual,shift",
        ),
        (["--split", "sentence"], "with --split none, but this command has --split sentence"),
        (["--model", "bert-base-uncased"], f"with --model {plain.model}, but this command has --model bert"),
    ):
        status, said = planned_with(out, *typed)
        assert status == 2
        assert f"{out} was made {message}" in said
    typed = ["--pool", "first", "--precision", "auto", "--shard-size", "auto", "--tokens-per-batch", "auto"]
    assert planned_with(out, *typed)[0] == 0


def test_an_option_of_reading_that_is_typed_is_given(corpus, plain, tmp_path, cli):
    out, table = tmp_path / "out", tmp_path / "a.csv"
    table.write_text("text;n\nI want an apple.;1\n")
    for options, typed, message in (
        (
            {"header": False, "text_field": "1", "delimiter": ";"},
            ["--header"],
            "with --no-header, but this command has --header:",
        ),
        ({"delimiter": ";"}, ["--no-header"], "with --header, but this command has --no-header:"),
        ({"delimiter": "\t", "text_field": "text;n"}, ["--delimiter", ";"], r"with --delimiter \t, but this"),
        (
            {"delimiter": ";"},
            ["--keep-punctuation"],
            "without --keep-punctuation, but this command has --keep",
        ),
    ):
        shutil.rmtree(out, ignore_errors=True)
        make_store(out, [table], replace(plain, **options))
        result = cli("run", table, "-o", out, *typed)
        assert result.returncode == 2
        assert f"{out} was made {message}" in result.stderr
    make_store(out, [corpus], replace(plain, record="line", errors="replace"))
    for typed in (["--record", "auto"], ["--errors", "strict"]):
        result = cli("run", corpus, "-o", out, *typed)
        assert result.returncode == 2
        assert f"but this command has {' '.join(typed)}: use the same" in result.stderr


def test_python_gives_a_default_only_if_it_is_explicit(corpus, plain, tmp_path):
    out = tmp_path / "out"
    make_store(out, [corpus], replace(plain, pool="first"))
    ctxbatch.estimate(corpus, out, replace(plain, pool="mean"))
    with pytest.raises(StoreError, match="--pool first, but this command has --pool mean"):
        ctxbatch.estimate(corpus, out, replace(plain, explicit=frozenset({"pool"})))


LESS = ("static", "contextual")


@pytest.mark.parametrize(
    ("options", "typed", "message"),
    [
        ({"layers": (2, 1)}, "--layers 1", "with --layers 2,1"),
        ({"record": "line"}, "--limit 9", "with --limit 2"),
        ({"shift": "log_ratio", "floor": 0.01}, "--shift asinh", "with --shift log_ratio"),
        ({"shift": "log_ratio", "floor": 0.01}, "--shift difference", "with --shift log_ratio"),
        ({"shift": "asinh", "delta": 0.5}, "--delta 0.1", "with --delta 0.5"),
        ({"shift": "asinh", "delta": 0.5}, "--floor 0.1", "without --floor"),
        ({"vectors": LESS}, "--shift asinh", "without --shift"),
        ({"vectors": LESS}, "--floor 0.01", "without --floor"),
        ({"vectors": ("static",)}, "--layers 3", "without --layers"),
        ({"vectors": ("static",)}, "--layers all", "without --layers"),
        ({"vectors": ("static",)}, "--salience", "without --salience"),
        ({"vectors": ("static",)}, "--salience-head 1", "without --salience-head"),
        ({"vectors": ("static",)}, "--precision bf16", "with --precision fp32"),
        ({"salience": True}, "--vectors static", "with --vectors static,contextual,shift"),
        ({"top_salient": 2}, "--vectors static", "with --vectors static,contextual,shift"),
        ({"lang": "de"}, "--split none", "with --split sentence"),
        ({"split": "none"}, "--lang de", "without --lang"),
        ({"keep_punctuation": True}, "--pool none", "with --pool mean"),
    ],
)
def test_a_refusal_names_what_was_typed_whatever_else_the_store_has(
    options, typed, message, corpus, plain, tmp_path, planned_with
):
    out = tmp_path / "out"
    make_store(out, [corpus], replace(plain, **options, limit=2))
    status, said = planned_with(out, *typed.split())
    assert status == 2
    assert f"{out} was made {message}, but this command has {typed}: use the same options" in said


def test_what_no_store_of_these_vectors_can_have_is_told(corpus, plain, tmp_path):
    out = tmp_path / "out"
    make_store(out, [corpus], replace(plain, vectors=("static",)))
    with pytest.raises(InputError, match="--precision cannot be used with --vectors static"):
        ctxbatch.run(corpus, out, replace(plain, precision="fp32"))


def test_the_field_with_the_text_is_taken_and_decides_which_files_are_read(tiny, tmp_path, cli):
    folder, out = tmp_path / "texts", tmp_path / "out"
    folder.mkdir()
    for name in "ab":
        lines = [json.dumps({"body": f"I want an apple, {name} {n}."}) for n in range(20)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    command = ["run", folder, "-o", out, "--model", tiny(), "--no-index"]
    assert cli(*command, "--text-field", "body", "--shard-size", "300").returncode == 0
    whole = arrow_digests(out)
    cut(out)
    result = cli(*command)
    assert (result.returncode, arrow_digests(out)) == (0, whole)
    assert f"taken from {out}: --text-field body (the default is text), --shard-size 300\n" in result.stderr
    refused = cli(*command, "--text-field", "text")
    assert refused.returncode == 2


def test_the_model_is_taken_only_from_where_it_is_safe_to_load(corpus, plain, tmp_path, cli):
    out = tmp_path / "out"
    model = shutil.copytree(plain.model, tmp_path / "model")
    whole = arrow_digests(make_store(out, [corpus], RunConfig(model=str(model), shard_size=2000)).path)
    cut(out)
    result = cli("run", corpus, "-o", out, "--no-index")
    assert (result.returncode, arrow_digests(out)) == (3, whole)  # it rejects a word of the text
    assert f"taken from {out}: --model {model} (the default is bert-base-uncased)" in result.stderr
    cut(out)
    model.rename(tmp_path / "moved")
    result = cli("run", corpus, "-o", out, "--no-index")
    assert result.returncode == 2
    repair = f"ctxbatch verify {out} --repair --model"
    assert f"the model {model}, which is not a folder here: `{repair} M` finishes the store" in result.stderr
    moved = tmp_path / "moved"
    result = cli("run", corpus, "-o", out, "--no-index", "--model", moved)
    assert result.returncode == 2
    assert f"its model in another place, `{repair} {moved}` finishes the store" in result.stderr
    result = cli("verify", out, "--repair", "--model", moved)
    assert (result.returncode, arrow_digests(out)) == (0, whole)


def test_a_model_of_the_hub_is_taken_at_the_commit_of_the_store(store):
    commit = "a" * 40
    config = replace(store.manifest.config, model="some/model", revision=commit)
    manifest = replace(store.manifest, config=config)
    for given, revision in (
        ({"model": "some/model"}, commit),
        ({"model": "some/model", "revision": "main"}, "main"),
    ):
        assert with_stored_options(RunConfig(**given), manifest, location_of(store.path)).revision == revision
    for another in (RunConfig(model="another/model"), TypedOptions(model="bert-base-uncased")):
        message = f"was made with --model some/model, but this command has --model {another.model}: use"
        with pytest.raises(StoreError, match=message):
            with_stored_options(another, manifest, location_of(store.path))
    with pytest.raises(StoreError, match=r"neither installed nor .* cache: give --model some/model to load"):
        with_stored_options(RunConfig(), manifest, location_of(store.path))


def test_a_part_takes_what_another_part_was_given(corpus, plain, tmp_path):
    out = tmp_path / "out"
    options = {"model": plain.model, "index": False}
    ctxbatch.run(corpus, out, RunConfig(**options, shard_size=2000, layers=(1,), shard_range=(1, 2)))
    ctxbatch.run(corpus, out, RunConfig(**options, shard_range=(2, 2)))
    store = ctxbatch.open(out)
    assert (store.complete, store.config.layers) == (True, (1,))


def test_a_plan_is_of_what_the_run_would_take(corpus, plain, tmp_path, cli):
    out = tmp_path / "out"
    make_store(out, [corpus], RunConfig(model=plain.model, layers=(2, 1), words=("want",)))
    result = cli("plan", corpus, "-o", out, "--model", plain.model, "--json")
    assert result.returncode == 0
    assert f"taken from {out}: --layers 2,1 (the default is 2), --words want\n" in result.stderr
    assert json.loads(result.stdout)["words"] is None  # as where only some words are asked for
