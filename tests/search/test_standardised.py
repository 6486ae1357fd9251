"""Search, index, senses and layers by standardised vectors equal an oracle that standardises by hand."""

import json

import numpy as np
import pytest

import ctxbatch
from ctxbatch import Filters, StoreError
from ctxbatch.analysis.senses import find_senses
from ctxbatch.execution.repair import find_damage, repair_store
from ctxbatch.files import write_json
from ctxbatch.sealed import read_json
from ctxbatch.search import index_build
from ctxbatch.search.index import IndexOptions
from tests.helpers.stores import store_maker

pytestmark = pytest.mark.usefixtures("quick_indexes")

LINES = [f"I want {n} cards and the bank of the river {n % 7}.\n" for n in range(160)]
COLUMNS = ["contextual_3", "shift_3", "static", "difference_1", "log_ratio_3@0.001"]


@pytest.fixture(scope="module")
def make(tiny, tmp_path_factory):
    return store_maker(tiny(), lambda: tmp_path_factory.mktemp("standardised"), "".join(LINES), shift="asinh")


@pytest.fixture(scope="module")
def store(make):
    return make()


def by_hand(stores, name):
    """Standardised unit vectors of all rows of several stores, in float64."""
    vectors = np.concatenate([view for store in stores for view in store.vectors(name)]).astype(np.float64)
    deviation = vectors.std(axis=0)
    scale = np.where(deviation > 1e-3 * np.median(deviation), deviation, 1)
    standardised = (vectors - vectors.mean(axis=0)) / scale
    return standardised / np.linalg.norm(standardised, axis=1, keepdims=True)


def same_hits(scores, hits, own):
    """Check that hits are the best rows but one's own, up to ties."""
    scores = np.delete(scores, own)
    assert np.allclose([hit.score for hit in hits], np.sort(scores)[::-1][: len(hits)], atol=1e-3)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_search_by_a_row_finds_what_the_oracle_finds(name, store):
    units = by_hand([store], name)
    searcher = ctxbatch.searcher(store, name, standardise=True)
    assert searcher.column == f"{name}-standardised"
    for position in (5, 400):
        hits = searcher.search(int(store.row_ids(np.array([position]))[0]), 10, Filters(unknown=True))
        same_hits(units @ units[position], hits, position)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_sentence_of_the_store_finds_its_own_row(name, store):
    searcher = ctxbatch.searcher(store, name, standardise=True)
    answer = searcher.ask(["I want 3 cards and the [bank] of the river 3."], 1)[0]
    assert answer.column == f"{name}-standardised"
    assert answer.hits[0].word == "bank"
    assert answer.hits[0].score > 0.999


def test_several_stores_are_standardised_by_all_their_rows(make):
    stores = [make(lines="".join(LINES[::2])), make(lines="".join(LINES[1::2]))]
    units = by_hand(stores, "shift_3")
    searcher = ctxbatch.searcher(stores, "shift", standardise=True)
    hits = searcher.search(int(stores[0].row_ids(np.array([7]))[0]), 200, Filters(unknown=True))
    same_hits(units @ units[7], hits, 7)
    assert {hit.store for hit in hits} == {str(store.path) for store in stores}


@pytest.mark.parametrize("name", ["contextual_3", "difference_1"])
def test_an_index_freezes_its_moments_is_checked_and_rebuilt(name, make):
    store = make()
    column = store.config.column(name, standardise=True)
    report = index_build.build(store, column, IndexOptions(factory="IVF4,Flat"))
    facts_file = store.path / "index" / f"{name}-standardised.json"
    assert report.column == read_json(facts_file)["column"] == f"{name}-standardised"
    searcher = ctxbatch.searcher(store, name, standardise=True)
    assert not searcher.unindexed(column)
    units = by_hand([store], name)
    hits = searcher.search(int(store.row_ids(np.array([5]))[0]), 10, Filters(unknown=True))
    same_hits(units @ units[5], hits, 5)
    assert not list(find_damage(store.path))
    content = read_json(facts_file)
    write_json(facts_file, {**content, "standardiser": "AAAA"})
    with pytest.raises(StoreError, match=rf"ctxbatch index \S+ --on {name} --standardise"):
        ctxbatch.searcher(store, name, standardise=True)
    (store.path / "index" / f"{name}-standardised.faiss").write_bytes(b"nothing")
    assert repair_store(store.path).indexes == (f"{name}-standardised",)
    assert ctxbatch.searcher(store, name, standardise=True).search("I want the [bank].", 3)


def test_indexes_of_other_moments_are_set_aside_and_those_of_equal_ones_used(make, caplog):
    caplog.set_level("INFO")
    one, other = make(lines="".join(LINES[:100])), make(lines="".join(LINES[60:]))
    column = one.config.column("contextual", standardise=True)
    for store in (one, other):
        index_build.build(store, column, IndexOptions(factory="IVF4,Flat"))
    searcher = ctxbatch.searcher([one, other], "contextual", standardise=True)
    units = by_hand([one, other], "contextual_3")
    hits = searcher.search(int(one.row_ids(np.array([7]))[0]), 10, Filters(unknown=True))
    same_hits(units @ units[7], hits, 7)
    assert "standardised by all their rows" in caplog.text
    assert not searcher.unindexed(column)
    caplog.clear()
    twin = make(lines="".join(LINES[:100]))
    index_build.build(twin, column, IndexOptions(factory="IVF4,Flat"))
    ctxbatch.searcher([one, twin], "contextual", standardise=True)
    assert not caplog.text


def test_commands_take_standardise_and_say_what_it_means(make, cli):
    selected = make(sample=0.9, salience=True)
    rows = cli("search", selected.path, "I want the [bank] of the river.", "--standardise", "--json")
    assert rows.returncode == 0, rows.stderr
    assert json.loads(rows.stdout.splitlines()[0])["query_column"] == "shift_3-standardised"
    assert "keeps only a sample of 90%: these rows standardise its vectors" in rows.stderr
    built = cli("index", selected.path, "--on", "asinh", "--standardise")
    assert "shift_3-standardised" in built.stdout
    grouped = cli("senses", selected.path, "bank", "--standardise", "--on", "difference", "--json")
    assert json.loads(grouped.stdout)["column"] == "difference_3-standardised"
    measured = cli("layers", selected.path, "bank", "--standardise")
    assert "standardised" in measured.stdout.splitlines()[0]


def test_layers_of_standardised_vectors_are_those_of_the_oracle(store):
    found = ctxbatch.measure_layers(store, ["bank"], standardise=True)
    words = store.words.to_table(columns=["word"])["word"].to_pylist()
    mine = np.array([word == "bank" for word in words])
    by_place = {(each.layer, each.kind): each for each in found.trends[0].measures}
    names = {(3, "contextual"): "contextual_3", (3, "asinh"): "shift_3", (1, "difference"): "difference_1"}
    for place, name in names.items():
        units = by_hand([store], name)[mine]
        n = len(units)
        mean = ((units @ units.T).sum() - n) / (n * (n - 1))
        assert by_place[place].self_similarity == pytest.approx(mean, abs=1e-3)


def test_senses_group_standardised_vectors(store):
    found = find_senses(store, "bank", n_groups=2, standardise=True)
    assert found.column == "contextual_3-standardised"
    assert found.grouped == len(LINES)


def test_among_other_words_a_search_goes_by_contextual_vectors_unless_it_is_told(store, make, cli):
    searcher = ctxbatch.searcher(store)
    others = Filters(other_words=True)
    assert searcher.column == searcher.column_for(Filters()) == "shift_3"
    assert searcher.column_for(others) == "contextual_3"
    query = "I want 3 cards and the [bank] of the river 3."
    plain, among = (searcher.ask([query], 5, filters)[0] for filters in (Filters(), others))
    assert (plain.column, among.column) == ("shift_3", "contextual_3")
    expected = ctxbatch.searcher(store, "contextual").ask([query], 5, others)[0]
    assert among.hits == expected.hits
    for on in ("shift", "asinh_3"):
        assert ctxbatch.searcher(store, on).column_for(others) == "shift_3"
    assert ctxbatch.searcher(store, layer=1).column_for(others) == "contextual_1"
    only_shift = make(vectors=("shift",))
    assert ctxbatch.searcher(only_shift).column_for(others) == "shift_3"
    said = cli("search", store.path, query, "--other-words")
    assert "among other words the search goes by contextual_3" in said.stderr
    said = cli("search", store.path, query, "--other-words", "--on", "shift", "--json")
    assert json.loads(said.stdout.splitlines()[0])["query_column"] == "shift_3"
    assert "goes by" not in said.stderr


def test_stores_that_hold_other_kinds_and_layers_are_searched_together_on_what_both_have(make):
    one, other = (
        make(lines="".join(LINES[::2])),
        make(lines="".join(LINES[1::2]), vectors=("static", "contextual"), layers=(1, 3), shift=None),
    )
    for on in ("asinh_3", "contextual_3", "static", "difference_1"):
        units = np.concatenate([np.concatenate([*store.vectors(on)]) for store in (one, other)])
        units = units.astype(np.float64) / np.linalg.norm(units, axis=1, keepdims=True)
        for standardise in (False, True):
            expected = by_hand([one, other], on) if standardise else units
            searcher = ctxbatch.searcher([one, other], on, standardise=standardise)
            hits = searcher.search(int(one.row_ids(np.array([7]))[0]), 20, Filters(unknown=True))
            same_hits(expected @ expected[7], hits, 7)
    with pytest.raises(ctxbatch.InputError, match=rf"{other.path}: the store holds no asinh_2"):
        ctxbatch.searcher([make(layers=(2,)), other], "asinh_2")


@pytest.mark.parametrize(
    "on", ["static-standardised-standardised", "asinh_3@0.0", "asinh_3@1e-45", "log_ratio_3@1e300", "stat"]
)
def test_names_of_no_vectors_are_refused_in_one_line(on, store, cli):
    for command in (["search", store.path, "The [bank]."], ["senses", store.path, "bank"]):
        result = cli(*command, "--on", on)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr


def test_a_scanner_reads_a_stored_shift_by_any_of_its_names(store):
    names = ["asinh_3", "shift", "asinh_3@0.1", "contextual", "row_id"]
    table = store.scanner(columns=names).to_table()
    assert table.column_names == names
    expected = np.concatenate([*store.vectors("shift_3")]).astype(np.float32)
    for name in names[:3]:
        got = np.concatenate([chunk.flatten().to_numpy() for chunk in table[name].chunks])
        assert np.array_equal(got.reshape(expected.shape), expected)
