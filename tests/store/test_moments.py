"""The moments of every column are added up exactly, carried by the commits, and standardise vectors."""

import hashlib
import io
import json
import logging
import os

import numpy as np
import pytest

import ctxbatch
from ctxbatch import InputError, StoreError
from ctxbatch.execution.repair import find_damage, repair_store
from ctxbatch.files import write_json
from ctxbatch.sealed import read_json
from ctxbatch.search import index_build
from ctxbatch.search.index import IndexOptions
from ctxbatch.store.anisotropy import measure_anisotropy
from ctxbatch.store.moments import Moments, Standardiser
from tests.helpers.stores import store_maker

pytestmark = pytest.mark.usefixtures("quick_indexes")

LINES = "".join(f"I want {n} cards and the bank of the river {n % 7}.\n" for n in range(120))


@pytest.fixture(scope="module")
def make(tiny, tmp_path_factory):
    return store_maker(tiny(), lambda: tmp_path_factory.mktemp("moments"), LINES, shift="asinh")


@pytest.fixture(scope="module")
def store(make):
    return make()


def all_of(store, name):
    return np.concatenate([*store.vectors(name)])


def without_moments(store):
    """Make a store one of before, whose shards carry no moments."""
    for path in store.path.glob("shards/*/shard.json"):
        content = read_json(path)
        del content["files"]["moments.npy"]
        write_json(path, content)
        (path.parent / "moments.npy").unlink()
    return ctxbatch.open(store.path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_shards_carry_the_moments_of_the_stored_values(dtype, make):
    store = make(dtype=dtype)
    for name in store.config.columns:
        values = all_of(store, name).astype(np.float64)
        moments = store.moments.of(name)
        assert moments.count == len(values) == store.n_rows
        assert np.allclose(moments.sum_D, [sum(column) for column in values.T], rtol=1e-12)
        assert np.allclose(moments.squares_D, [sum(column**2) for column in values.T], rtol=1e-12)
    sums = np.load(store.path / "shards" / "000000" / "moments.npy", allow_pickle=False)
    assert sums.shape == (len(store.config.columns), 2, 32)


def test_one_pass_gives_the_bits_that_the_shards_carry(make):
    stored = make()
    carried = {name: stored.moments.of(name).as_text() for name in stored.config.columns}
    stored = without_moments(stored)
    assert {name: stored.moments.of(name).as_text() for name in stored.config.columns} == carried


@pytest.mark.parametrize("name", ["contextual_3", "shift_1", "static", "difference_3", "log_ratio_1@0.001"])
def test_standardised_vectors_have_mean_0_and_deviation_1(name, store):
    plain = all_of(store, name).astype(np.float64)
    got = np.concatenate([*store.vectors(name, standardise=True)])
    deviation = plain.std(axis=0)
    varies = deviation > 1e-3 * np.median(deviation)
    expected = (plain - plain.mean(axis=0)) / np.where(varies, deviation, 1)
    assert got.dtype == np.float32
    assert np.allclose(got, expected, atol=2e-4)
    assert varies.any() and np.allclose(got[:, varies].std(axis=0), 1, atol=1e-4)


def test_dimensions_that_hardly_vary_are_named_and_not_scaled():
    random = np.random.default_rng(0)
    vectors = random.standard_normal((500, 6)).astype(np.float32)
    vectors[:, 2] = 7
    vectors[:, 4] = 1 + 1e-5 * vectors[:, 4]
    standardiser = Moments.of([vectors[:200], vectors[200:]], 6).standardiser()
    assert standardiser.still == (2, 4)
    got = standardiser.of(vectors)
    assert np.abs(got[:, [2, 4]]).max() < 1e-3
    assert np.allclose(got[:, [0, 1, 3, 5]].std(axis=0), 1, atol=1e-5)


def test_a_standardiser_is_the_same_after_its_text():
    moments = Moments.of([np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)], 4)
    again = Standardiser.from_text(moments.standardiser().as_text(), 4)
    assert again.equals(moments.standardiser())
    assert Moments.from_text(moments.as_text(), 50, 4).as_text() == moments.as_text()
    for text, dimension in (("", 4), ("no base64", 4), (moments.as_text(), 5)):
        with pytest.raises(ValueError):
            Moments.from_text(text, 50, dimension)


def test_computed_moments_are_kept_under_formula_and_parameter(store, caplog):
    caplog.set_level(logging.INFO)
    for on, name in (("difference", "difference_3"), ("log_ratio", "log_ratio_3@0.001")):
        kept = store.path / "index" / f"{name}.moments"
        kept.unlink(missing_ok=True)
        first = np.concatenate([*ctxbatch.open(store.path).vectors(on, standardise=True)])
        assert f"adding up the moments of {name}" in caplog.text
        caplog.clear()
        assert kept.exists()
        again = np.concatenate([*ctxbatch.open(store.path).vectors(on, standardise=True)])
        assert first.tobytes() == again.tobytes()
        assert not caplog.text
    assert not list(find_damage(store.path))


def test_damaged_or_stale_kept_moments_are_told_and_added_up_again(make, caplog):
    store = make(vectors=("static", "contextual"), shift=None)
    right = store.moments.of("difference_3").as_text()
    path = store.path / "index" / "difference_3.moments"
    intact = path.read_bytes()
    path.write_bytes(intact.replace(b'"rows"', b'"Rows"'))
    assert [damage.index for damage in find_damage(store.path)] == ["difference_3"]
    assert ctxbatch.open(store.path).moments.of("difference_3").as_text() == right
    assert f"{path} is damaged" in caplog.text
    assert path.read_bytes() == intact
    path.write_bytes(intact[:-9])
    repair_store(store.path)
    assert not path.exists()
    content = json.loads(intact)
    del content["checksum"]
    write_json(path, {**content, "built_from": {"0": "0" * 64}})
    assert not list(find_damage(store.path))  # of other shards: of no use, but no damage
    assert ctxbatch.open(store.path).moments.of("difference_3").as_text() == right


def test_a_store_that_cannot_be_written_to_is_standardised_all_the_same(make, monkeypatch):
    store = make(vectors=("static", "contextual"), shift=None)

    def refuse(*_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("ctxbatch.store.kept_moments.write_json", refuse)
    assert len(np.concatenate([*store.vectors("difference", standardise=True)])) == store.n_rows
    assert not list(store.path.glob("index/*.moments"))


def resealed(path, raw):
    """Write a file of a shard with a commit record that fits it, as an attacker would."""
    path.write_bytes(raw)
    content = read_json(path.parent / "shard.json")
    facts = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    write_json(path.parent / "shard.json", {**content, "files": {**content["files"], path.name: facts}})


def test_moments_of_a_shard_that_are_none_are_damage(make):
    store = make()
    path = next(store.path.glob("shards/*/moments.npy"))
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(ctxbatch.StoreError, match=r"moments.npy is damaged .*ctxbatch verify"):
        ctxbatch.open(store.path).moments.of("static")
    assert [damage.shard for damage in find_damage(store.path)] == [0]
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    huge = bytearray(intact)
    huge[-8:] = np.float64(np.inf).tobytes()
    for raw in (b"", b"nothing", intact[:-8], intact + b"0", objects.getvalue(), bytes(huge)):
        resealed(path, raw)
        with pytest.raises(ctxbatch.StoreError, match=r"moments.npy is damaged"):
            ctxbatch.open(store.path).moments.of("static")
        assert any("moments.npy" in damage.text for damage in find_damage(store.path))
    other = np.load(io.BytesIO(intact)) + 1
    stream = io.BytesIO()
    np.save(stream, other)
    resealed(path, stream.getvalue())
    assert any("does not hold the moments of" in damage.text for damage in find_damage(store.path))


def test_moments_of_damaged_vectors_do_not_outlive_a_repair(make, cli):
    store = make()
    clean = cli("search", store.path, "I want the [bank].", "--on", "difference", "--standardise").stdout
    right = (store.path / "index" / "difference_3.moments").read_bytes()
    (store.path / "index" / "difference_3.moments").unlink()
    column = store.config.column("difference", standardise=True)
    words = store.path / "shards" / "000000" / "words.arrow"
    raw = words.read_bytes()
    begin, n = len(raw) // 4 * 2 // 2, len(raw) // 8
    words.write_bytes(raw[:begin] + b"\x10\x30" * n + raw[begin + 2 * n :])
    with pytest.raises(StoreError, match=r"words\.arrow is damaged"):
        index_build.build(ctxbatch.open(store.path), column, IndexOptions(factory="IVF4,Flat"))
    assert (store.path / "index" / "difference_3.moments").read_bytes() != right
    assert cli("verify", store.path, "--repair").returncode == 0
    assert (
        cli("search", store.path, "I want the [bank].", "--on", "difference", "--standardise").stdout == clean
    )
    assert (store.path / "index" / "difference_3.moments").read_bytes() == right


def test_kept_moments_that_are_not_those_of_the_rows_are_found(make):
    store = make(vectors=("static", "contextual"), shift=None)
    right = store.moments.of("difference_3")
    path = store.path / "index" / "difference_3.moments"
    content = read_json(path)
    wrong = Moments(right.count, right.sum_D + 1, right.squares_D).as_text()
    write_json(path, {**content, "moments": wrong})
    assert [damage.index for damage in find_damage(store.path)] == ["difference_3"]
    repair_store(store.path)
    assert not path.exists()


def test_a_scanner_says_what_reads_standardised_vectors(store):
    with pytest.raises(InputError, match="standardise=True"):
        store.scanner(columns=["contextual_3-standardised"])


def test_stats_show_how_anisotropic_vectors_are_before_and_after(store, cli):
    found = json.loads(cli("stats", store.path, "--json").stdout)["anisotropy"]
    assert [each["column"] for each in found] == list(store.config.columns)
    by_column = {each["column"]: each for each in found}
    vectors = all_of(store, "contextual_3").astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    n_pairs = len(units) * (len(units) - 1)
    cosines = units @ units.T
    mean = (cosines.sum() - len(units)) / n_pairs
    of_dimension = [(np.outer(u, u).sum() - (u**2).sum()) / n_pairs for u in units.T]
    plain = by_column["contextual_3"]["plain"]
    assert len(units) <= 2_000  # so that all rows are in the sample
    assert plain["mean_cosine"] == pytest.approx(mean, abs=2e-4)
    assert plain["dimension"] == int(np.argmax(of_dimension))
    assert plain["share"] == pytest.approx(max(of_dimension) / mean, abs=2e-3)
    for each in measure_anisotropy(store):
        assert abs(each.standardised.mean_cosine) < 0.1
    assert "contextual_3: random pairs have cosine" in cli("stats", store.path).stdout


def test_moments_added_up_in_other_parts_are_nearly_equal_and_those_of_other_vectors_are_not():
    vectors = np.random.default_rng(0).normal(3, 1, (5000, 8)).astype(np.float32)
    whole = Moments.of([vectors], 8)
    parts = Moments.of([vectors[n : n + 7] for n in range(0, 5000, 7)], 8)
    assert parts.as_text() != whole.as_text()
    assert parts.nearly_equals(whole)
    other = vectors.copy()
    other[17, 3] += 0.01
    assert not Moments.of([other], 8).nearly_equals(whole)
    assert not Moments.of([vectors[1:]], 8).nearly_equals(whole)
