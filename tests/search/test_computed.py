"""A store of static and contextual vectors answers by every shift, as a store that holds it does."""

import json

import duckdb
import numpy as np
import pytest

import ctxbatch
from ctxbatch import Filters, InputError, RunConfig
from ctxbatch.analysis.senses import find_senses
from ctxbatch.formulas import ShiftFormula
from ctxbatch.search import index_build
from ctxbatch.search.index import IndexOptions
from tests.helpers.stores import make_store, store_maker

pytestmark = pytest.mark.usefixtures("quick_indexes")

SHIFTS = {"log_ratio": "log_ratio_{}@0.001", "asinh": "asinh_{}@0.1", "difference": "difference_{}"}
LINES = "".join(f"I want {n} cards and the bank of the river {n % 7}.\n" for n in range(120))


@pytest.fixture(scope="module")
def make(tiny, tmp_path_factory):
    return store_maker(tiny(), lambda: tmp_path_factory.mktemp("computed"), LINES, dtype="float32")


@pytest.fixture(scope="module")
def plain(make):
    """A store of static and contextual vectors, but no shift."""
    return make(vectors=("static", "contextual"))


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_computed_shift_equals_the_stored_one(kind, plain, make):
    stored = make(shift=kind)
    for layer in (3, 1):
        name = SHIFTS[kind].format(layer)
        assert plain.config.column(kind, layer) == name
        assert stored.config.column(kind, layer) == f"shift_{layer}"
        for on in (f"{kind}_{layer}", name):
            got, expected = (np.concatenate([*store.vectors(on)]) for store in (plain, stored))
            assert np.abs(got - expected).max() < 1e-6
        ids = plain.row_ids()[::7]
        assert np.abs(plain.take(name, ids) - stored.take(f"shift_{layer}", ids)).max() < 1e-6


def test_half_floats_are_widened_before_the_shift(make):
    half, full = (
        make(vectors=("static", "contextual"), dtype="float16"),
        make(vectors=("static", "contextual")),
    )
    for kind in ("asinh", "difference"):
        got, expected = (np.concatenate([*store.vectors(kind)]) for store in (half, full))
        assert got.dtype == np.float32
        assert np.abs(got - expected).max() < 1e-2


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("filters", [Filters(), Filters(same_word=True), Filters(other_words=True)])
def test_a_search_by_a_computed_shift_finds_what_one_by_the_stored_shift_finds(kind, filters, plain, make):
    stored = make(shift=kind)
    queries = ["I want the [card].", "The [river] of 3.", int(plain.row_ids()[40])]
    for layer in (3, 1):
        got, expected = (
            ctxbatch.searcher(store, kind, layer).ask(queries, 10, filters) for store in (plain, stored)
        )
        for answer, right in zip(got, expected, strict=True):
            assert [hit.row_id for hit in answer.hits] == [hit.row_id for hit in right.hits]
            scores = [[hit.score for hit in each.hits] for each in (answer, right)]
            assert np.allclose(*scores, atol=1e-5)


def test_a_word_without_marks_is_the_same_for_every_vector(plain):
    chosen = {
        ctxbatch.searcher(plain, on).ask(["I want the card of the bank."])[0].word
        for on in ("contextual", "asinh_1", "difference_3")
    }
    assert len(chosen) == 1


def test_a_scanner_computes_shifts_as_it_reads(make):
    store = make(vectors=("static", "contextual"), dtype="float16")
    names = ["difference_1", "word", "asinh_3", "static"]
    table = store.scanner(columns=names).to_table()
    assert table.schema.names == names
    for name in ("difference_1", "asinh_3"):
        expected = np.concatenate([*store.vectors(name)])
        got = table[name].combine_chunks().flatten().to_numpy().reshape(expected.shape)
        assert np.array_equal(got, expected)
    words = store.scanner(columns=["word", "log_ratio_1"])  # noqa: F841 (DuckDB finds it by its name)
    counted = duckdb.sql("SELECT count(*), max(len(log_ratio_1)) FROM words").fetchall()
    assert counted == [(store.n_rows, 32)]
    with pytest.raises(InputError, match="the store holds no asinh_9"):
        store.scanner(columns=["asinh_9"])


def test_parameters_are_part_of_the_name(plain, make):
    assert plain.config.column("asinh", delta=0.5) == "asinh_3@0.5"
    assert plain.config.column("log_ratio", 1, floor=0.0) == "log_ratio_1@0.0"
    stored = make(shift="asinh", delta=0.5)
    assert stored.config.column("asinh") == "shift_3"  # of the store's own delta
    assert stored.config.column("asinh", delta=0.1) == "asinh_3@0.1"
    wide, narrow = (np.concatenate([*plain.vectors("asinh", delta=delta)]) for delta in (0.5, 0.01))
    assert not np.allclose(wide, narrow)


@pytest.mark.parametrize(
    ("on", "options", "message"),
    [
        ("asinh_9", {}, "the store holds no asinh_9: it has static, contextual_3, contextual_1; a shift is"),
        ("asinh", {"floor": 0.1}, "--floor belongs to log_ratio and cannot be used with asinh"),
        ("difference", {"delta": 0.1}, "--delta belongs to asinh and cannot be used with difference"),
        (
            "contextual",
            {"delta": 0.1},
            "--delta and --floor belong to shifts and cannot be used with --on cont",
        ),
        ("asinh", {"delta": -1.0}, "--delta -1.0 must be a number from 1e-09 to"),
        ("log_ratio", {"floor": float("nan")}, "--floor nan must be a number from 0 to"),
        ("static", {"layer": 1}, "--layer cannot be used with --on static"),
        ("shape", {}, "the store holds no shape_3: it has static, contextual_3, contextual_1"),
        *((f"asinh_3@{odd}", {}, f"the store holds no asinh_3@{odd}") for odd in ("x", "..", "0.10")),
        *((f"asinh_3@{odd}", {}, f"--delta {odd} must be a number from") for odd in ("nan", "inf")),
        ("contextual_3@0.5", {}, "the store holds no contextual_3@0.5"),
        ("difference_3@0.5", {}, "the store holds no difference_3@0.5"),
        ("static_3", {}, "the store holds no static_3"),
        ("asinh_3@0.1", {"delta": 0.2}, "--layer, --delta and --floor cannot be used with --on asinh_3@0.1"),
    ],
)
def test_vectors_that_a_store_cannot_give_are_refused_in_one_line(on, options, message, plain):
    with pytest.raises(InputError) as refused:
        ctxbatch.searcher(plain, on, **options)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_store_of_contextual_vectors_alone_has_no_shift(make):
    with pytest.raises(InputError, match="a shift is computed where static vectors and contextual ones"):
        make(vectors=("contextual",)).config.column("difference")


def test_a_stored_shift_is_searched_whatever_its_parameter(make, cli, monkeypatch):
    with monkeypatch.context() as of_before:
        of_before.setattr(ShiftFormula, "check", lambda _self: None)
        store = make(shift="asinh", delta=1e-12)
    assert store.config.columns[-1] == "shift_1"
    for on in ([], ["--on", "shift"], ["--on", "asinh"], ["--on", "asinh_1@1e-12"]):
        found = cli("search", store.path, "I want the [card].", *on, "--json")
        assert found.returncode == 0, found.stderr
        assert len(found.stdout.splitlines()) == 10
    with pytest.raises(InputError, match="--delta 2e-12 must be a number from 1e-09 to"):
        store.config.column("asinh", delta=2e-12)


def test_an_index_on_a_computed_shift_names_it_is_checked_and_rebuilt(make, cli, monkeypatch):
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    store = make(vectors=("static", "contextual"))
    column = store.config.column("difference", 1)
    report = index_build.build(store, column, IndexOptions(factory="IVF4,Flat"))
    facts = json.loads((store.path / "index" / "difference_1.json").read_text())
    assert (report.column, facts["column"]) == (column, "difference_1")
    searcher = ctxbatch.searcher(store, "difference", 1)
    assert not searcher.unindexed(column)
    got = [hit.row_id for hit in searcher.search("I want the [card].", 5)]
    exact = ctxbatch.searcher(make(vectors=("static", "contextual")), "difference", 1)
    assert got == [hit.row_id for hit in exact.search("I want the [card].", 5)]
    path = store.path / "index" / "difference_1.faiss"
    path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    assert "rebuild it with `ctxbatch index" in cli("verify", store.path).stdout
    odd = ["asinh_1@..", "asinh_1@nan", "shift_1"]  # anybody may have put such files there
    assert index_build.rebuild(store, [*odd, "difference_1"]) == ("difference_1",)
    assert cli("verify", store.path).returncode == 0


def test_stores_with_other_stored_shifts_are_searched_together_by_a_computed_one(make):
    one, other = make(shift="asinh"), make(shift="difference", layers=(1,))
    hits = ctxbatch.searcher([one, other], "log_ratio", 1).search("I want the [card].", 20)
    assert {hit.store for hit in hits} == {str(one.path), str(other.path)}
    first = ctxbatch.searcher([one, other], "shift_1").search("I want the [card].", 20)  # that of the first
    by_name = ctxbatch.searcher([one, other], "asinh_1").search("I want the [card].", 20)
    assert first == by_name


def test_layers_take_a_delta_and_a_floor(plain, make, cli):
    default, other = (
        ctxbatch.measure_layers(plain, ["want"], delta=delta, floor=0.5) for delta in (None, 1.0)
    )
    assert (default.delta, default.floor, other.delta) == (0.1, 0.5, 1.0)
    norms = [
        {each.kind: each.mean_norm for each in found.trends[0].measures if each.layer == 3}
        for found in (default, other)
    ]
    assert norms[0]["asinh"] != pytest.approx(norms[1]["asinh"])
    assert norms[0]["difference"] == norms[1]["difference"]
    with pytest.raises(InputError, match="--delta -1 must be a number from 1e-09 to"):
        ctxbatch.measure_layers(plain, ["want"], delta=-1)
    with pytest.raises(InputError, match="--floor and --delta need a store of static and contextual vectors"):
        ctxbatch.measure_layers(make(vectors=("shift",)), ["want"], delta=1.0)
    assert "asinh, delta 1.0" in cli("layers", plain.path, "want", "--delta", "1").stdout


def test_senses_and_the_command_line_take_any_shift(plain, cli):
    assert find_senses(plain, "want", 2, on="asinh", layer=1).column == "asinh_1@0.1"
    query = ["search", plain.path, "I want the [card].", "--json", "-k", "3"]
    rows = [
        json.loads(line) for line in cli(*query, "--on", "difference", "--layer", "1").stdout.splitlines()
    ]
    assert len(rows) == 3
    other = cli(*query, "--on", "asinh_1", "--delta", "0.01")
    assert other.returncode == 0, other.stderr
    failed = cli(*query, "--on", "asinh_7")
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert cli("senses", plain.path, "want", "--on", "difference", "--groups", "2").returncode == 0


def test_a_search_by_log_ratio_says_what_rounding_costs_it(tiny, text, tmp_path, cli):
    query = ("I want an [apple].", "-k", "1", "--on")
    for precision, cost in (
        ("fp32", ""),
        (
            "bf16",
            "log_ratio keeps 88% of the ten nearest rows of fp32 at bf16, difference 99%: measured with ",
        ),
    ):
        out = tmp_path / precision
        make_store(out, [text], RunConfig(model=str(tiny()), precision=precision, shard_size=300))
        assert cli("search", out, *query, "log_ratio").stderr.startswith(f"ctxbatch: {cost}" if cost else "")
        assert cli("search", out, *query, "log_ratio").stderr.count("\n") == bool(cost)
        assert cli("search", out, *query, "difference").stderr == ""
