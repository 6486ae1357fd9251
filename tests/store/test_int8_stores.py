"""A store of int8 vectors holds what a slow quantiser gives, and every reader takes their float32 values."""

import json
import os
import re
import signal

import numpy as np
import pyarrow as pa
import pytest

import ctxbatch
from ctxbatch import Filters, InputError, RunConfig
from ctxbatch.analysis.layers import measure
from ctxbatch.analysis.senses import find_senses
from ctxbatch.execution.repair import find_damage
from ctxbatch.files import write_json
from ctxbatch.sealed import file_digest, read_json
from ctxbatch.search import index_build
from ctxbatch.search.index import IndexOptions
from ctxbatch.store.anisotropy import measure_anisotropy
from ctxbatch.store.stats import totals
from tests.helpers.brute import cosines, known
from tests.helpers.int8 import quantised
from tests.helpers.running import committed, start, wait_for
from tests.helpers.stores import arrow_digests, make_store, store_maker

pytestmark = pytest.mark.usefixtures("quick_indexes")

LINES = "".join(f"I want {n} cards and the bank of the river {n % 7}.\n" for n in range(120))


@pytest.fixture(scope="module")
def make(tiny, tmp_path_factory):
    return store_maker(tiny(), lambda: tmp_path_factory.mktemp("int8"), LINES, shard_size=2000)


@pytest.fixture(scope="module")
def store(make):
    return make(dtype="int8")


@pytest.fixture(scope="module")
def exact(make):
    """The same store in float32."""
    return make(dtype="float32")


def all_of(store, name):
    return np.concatenate([*store.vectors(name)])


def read_raw(store, name):
    """Return the int8 values and the scales of a column, as Arrow reads them."""
    table = store.words.to_table(columns=[name, f"{name}_scale"])
    values = table[name].combine_chunks().flatten().to_numpy().reshape(store.n_rows, -1)
    return values, table[f"{name}_scale"].to_numpy()


# --- the store ------------------------------------------------------------------------------------


def test_a_store_holds_what_the_slow_quantiser_gives(store, exact):
    for name in ("static", "contextual_3", "shift_3", "contextual_1", "shift_1"):
        values, scales = read_raw(store, name)
        for row, got, scale in zip(all_of(exact, name), values, scales, strict=True):
            assert (got.tolist(), scale) == quantised(row)
        assert np.array_equal(all_of(store, name), values.astype(np.float32) * scales[:, None])


def test_rows_and_their_columns_are_the_contract(store):
    schema = store.words.schema
    assert schema.field("static").type == pa.list_(pa.field("item", pa.int8(), nullable=False), 32)
    for name in store.config.columns:
        field = schema.field(f"{name}_scale")
        assert (field.type, field.nullable) == (pa.float32(), False)
    assert not [name for name in store.rows(np.arange(3))[0] if name.endswith("_scale")]


def test_a_scanner_gives_float32(store):
    names = ["word", "static", "difference_1", "contextual_3"]
    table = store.scanner(columns=names).to_table()
    assert table.schema.names == names
    for name in names[1:]:
        got = table[name].combine_chunks().flatten().to_numpy().reshape(store.n_rows, -1)
        assert got.dtype == np.float32 and np.array_equal(got, all_of(store, name))
    every = store.scanner().to_table()
    assert every.schema.names == [name for name in store.words.schema.names if not name.endswith("_scale")]
    raw = store.scanner(columns=["static_scale"]).to_table()["static_scale"].to_numpy()
    assert np.array_equal(raw, read_raw(store, "static")[1])


@pytest.mark.parametrize("kind", ["difference", "asinh"])
def test_shifts_are_computed_from_the_stored_values(kind, make):
    store = make(dtype="int8", vectors=("static", "contextual"))
    contextual, static = all_of(store, "contextual_3"), all_of(store, "static")
    right = {
        "difference": contextual - static,
        "asinh": np.arcsinh(contextual / 0.1) - np.arcsinh(static / 0.1),
    }
    assert np.allclose(all_of(store, kind), right[kind], atol=1e-6)
    chosen = np.array([5, 3, 400])
    taken = store.take(store.config.column(kind), store.row_ids(chosen))
    assert np.array_equal(taken, all_of(store, kind)[chosen])


def test_moments_and_standardised_vectors_are_of_the_stored_values(store):
    for name in store.config.columns:
        vectors = all_of(store, name).astype(np.float64)
        moments = store.moments.of(name)
        assert moments.count == len(vectors)
        assert np.allclose(moments.sum_D, vectors.sum(axis=0), rtol=1e-9, atol=1e-9)
        assert np.allclose(moments.squares_D, (vectors**2).sum(axis=0), rtol=1e-9)
    got = np.concatenate([*store.vectors("contextual_3", standardise=True)])
    assert np.allclose(got.mean(axis=0), 0, atol=1e-3)
    assert [each.column for each in measure_anisotropy(store)] == list(store.config.columns)


@pytest.mark.parametrize("on", ["shift_3", "contextual_1", "difference_3", "contextual_3-standardised"])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_search_finds_what_brute_force_finds(on, indexed, make):
    store = make(dtype="int8")
    column = store.config.column(on)
    if indexed:
        index_build.build(store, column, IndexOptions(factory="IVF4,Flat"))
    for row in (7, 333):
        (answer,) = ctxbatch.searcher(store, on).ask([int(store.row_ids()[row])], 10, Filters())
        of_all = cosines(store, on, all_of(store, on)[row].astype(np.float64))
        of_all[row] = -1
        of_all[~known(store)] = -1
        best = np.sort(of_all)[::-1][:10]
        assert np.allclose([hit.score for hit in answer.hits], best, atol=2e-6)


def test_sentences_senses_and_layers_read_the_stored_values(store, exact):
    (ids, means), *_ = store.sentence_vectors("mean", "contextual")
    sentence_N = store.words.to_table(columns=["sentence_id"])["sentence_id"].to_numpy()
    right = all_of(store, "contextual_3")[sentence_N == ids[5]].mean(axis=0)
    assert np.allclose(means[5], right, atol=1e-5)
    assert find_senses(store, "bank", 2).occurrences == 120
    measured, reference = (measure(each, ["bank"], standardise=True) for each in (store, exact))
    assert set(reference.kinds) - set(measured.kinds) == {"log_ratio"}
    right = {(each.layer, each.kind): each for each in reference.trends[0].measures}
    for each in measured.trends[0].measures:
        assert each.self_similarity == pytest.approx(right[each.layer, each.kind].self_similarity, abs=0.01)


# --- what is refused ------------------------------------------------------------------------------


def test_log_ratio_is_refused_stored_and_computed(store, tiny, tmp_path, cli):
    said = "log_ratio cannot be used with --dtype int8, whose steps are above its floor: use difference or"
    (tmp_path / "a.txt").write_text("one two\n")
    run = ("run", tmp_path / "a.txt", "-o", tmp_path / "out", "--model", tiny(), "--dtype", "int8")
    for command in (
        (*run, "--shift", "log_ratio"),
        ("search", store.path, "the [bank]", "--on", "log_ratio"),
        ("index", store.path, "--on", "log_ratio_1", "--floor", 0),
        ("layers", store.path, "--floor", 0.5),
    ):
        result = cli(*command)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1 and said in result.stderr
    with pytest.raises(InputError, match="log_ratio cannot be used with --dtype int8"):
        next(store.vectors("log_ratio"))
    assert not store.config.has_column("log_ratio_3@0.001")
    assert cli("layers", store.path).returncode == 0


def test_a_vector_that_is_not_finite_is_rejected_by_name(tiny, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    from ctxbatch.store.rejects import rejects

    folder = tmp_path / "model"
    shutil.copytree(tiny(), folder)
    weights = load_file(folder / "model.safetensors")
    (tmp_path / "a.txt").write_text("one two\n")
    for value, n_rows in ((1e5, 2), (np.inf, 0)):
        weights["encoder.layer.1.output.LayerNorm.bias"][0] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        config = RunConfig(model=str(folder), precision="fp32", dtype="int8")
        found = make_store(tmp_path / str(value), [tmp_path / "a.txt"], config)
        assert found.n_rows == n_rows
        reasons = {reject["reason"] for reject in rejects(found)}
        assert reasons == (set() if n_rows else {"contextual_2 is not finite in float32"})


@pytest.mark.parametrize("value", [np.nan, -1.0, 2.0])
def test_verify_finds_a_scale_that_is_wrong_under_right_checksums(value, make):
    store = make(dtype="int8")
    path = store.path / "shards" / "000001" / "words.arrow"
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    scales = table["contextual_1_scale"].to_numpy().copy()
    scales[3] *= value
    number = table.schema.names.index("contextual_1_scale")
    table = table.set_column(number, table.schema.field(number), pa.array(scales))
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    record = read_json(path.with_name("shard.json"))
    record["files"]["words.arrow"] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    write_json(path.with_name("shard.json"), record)
    found = [damage.text for damage in find_damage(store.path)]
    said = "does not hold the moments" if value == 2 else "contextual_1 that are not finite, or scales"
    assert len(found) == 1 + (value != 2) and said in found[0]


def test_verify_finds_a_flipped_bit_of_a_scale(make, cli):
    store = make(dtype="int8")
    path = store.path / "shards" / "000000" / "words.arrow"
    with pa.memory_map(str(path)) as source:
        data = source.read_buffer()
        batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
        at = batch["static_scale"].buffers()[1].address - data.address
    content = bytearray(path.read_bytes())
    content[at + 2] ^= 1
    path.write_bytes(content)
    assert cli("verify", store.path).returncode == 3
    assert cli("verify", store.path, "--repair").returncode == 0


# --- the same bytes -------------------------------------------------------------------------------


def test_killed_runs_and_any_workers_give_the_same_bytes(long_text, tiny, tmp_path, cli):
    arguments = [long_text(1500), "--model", tiny(), "--shard-size", 20000, "--dtype", "int8", "--no-index"]
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert cli("run", *arguments, "-o", alone, "--workers", 4).returncode == 0
    process = start("run", *arguments, "-o", out, "--workers", 1)
    wait_for(lambda: committed(out) >= 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert committed(out) < committed(alone)
    assert cli("run", *arguments, "-o", out, "--workers", 1).returncode == 0
    assert arrow_digests(out) == arrow_digests(alone)


def test_the_stored_type_belongs_to_the_store(store, tiny, cli):
    text = store.path.parent / "text.txt"
    result = cli("run", text, "-o", store.path, "--model", tiny(), "--dtype", "float16")
    assert result.returncode == 2
    assert "int8" in result.stderr and "float16" in result.stderr


# --- what it keeps --------------------------------------------------------------------------------


def test_stats_and_the_end_of_a_run_say_what_int8_keeps(store, exact, tiny, tmp_path, cli):
    found = {each.column: each for each in totals(store).int8}
    assert list(found) == list(store.config.columns)
    for name, fidelity in found.items():
        before, after = (all_of(each, name).astype(np.float64) for each in (exact, store))
        lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        cosine_N = (before * after).sum(axis=1) / lengths
        assert fidelity.rows == store.n_rows  # shards are smaller than a sample
        assert fidelity.cosine == pytest.approx(cosine_N.mean(), abs=2e-6)
        assert fidelity.worst == pytest.approx(cosine_N.min(), abs=2e-6)
        assert 0.9 < fidelity.neighbours <= 1
    printed = json.loads(cli("stats", store.path, "--json").stdout)
    assert printed["dtype"] == "int8"
    assert [each["column"] for each in printed["int8"]] == list(found)
    assert re.search(r"^int8 +static: cosine 0\.999\d\d to float32, ", cli("stats", store.path).stdout, re.M)
    assert totals(exact).int8 is None
    (tmp_path / "a.txt").write_text(LINES)
    result = cli("run", tmp_path / "a.txt", "-o", tmp_path / "out", "--model", tiny(), "--dtype", "int8")
    assert re.search(r"^int8 +\w+: cosine 0\.999.*; the worst of 3 columns$", result.stderr, re.M)


def test_a_store_whose_commits_do_not_tell_is_read(make):
    store = make(dtype="int8")
    for path in store.path.glob("shards/*/shard.json"):
        content = read_json(path)
        del content["int8"]
        write_json(path, content)
    assert totals(ctxbatch.open(store.path)).int8 == ()


# --- object storage -------------------------------------------------------------------------------


def test_a_store_on_object_storage_is_the_same(bucket, store, tiny, tmp_path, cli):
    url, copy = f"{bucket({})}/out", tmp_path / "copy"
    options = ("--model", tiny(), "--precision", "fp32", "--layers", "3,1", "--shard-size", 2000)
    result = cli("run", store.path.parent / "text.txt", "-o", url, *options, "--dtype", "int8")
    assert result.returncode == 0, result.stderr
    assert cli("verify", url).returncode == 0
    assert json.loads(cli("stats", url, "--json").stdout)["int8"] == totals(store).as_dict()["int8"]
    assert cli("pull", url, copy).returncode == 0
    assert arrow_digests(copy) == arrow_digests(store.path)
