"""Trends of words through the layers agree with their definitions, spelled out pair by pair in numpy."""

import json
import shutil

import numpy as np
import pytest

from ctxbatch import InputError, StoreError
from ctxbatch.analysis import group_sums, layer_rows, layers
from ctxbatch.cli import layers as layers_command
from ctxbatch.store.reader import Store
from tests.helpers.layered import LAYERS, TEXT, assert_fits
from tests.helpers.oracle import asinh, log_ratio
from tests.helpers.stores import rows_of

WORDS = ("want", "bank", "The")
KINDS = ("contextual", "log_ratio", "asinh", "difference")


@pytest.fixture(scope="module")
def store(make):
    return make()


def cosine(a, b):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms else 0.0


def vector(row, kind, layer, floor=1e-3, delta=0.1):
    static, contextual = row["static"], row["static" if layer == 0 else f"contextual_{layer}"]
    static, contextual = static.astype(np.float64), contextual.astype(np.float64)
    if kind == "log_ratio":
        return log_ratio(contextual, static, floor)
    return {
        "contextual": contextual,
        "asinh": asinh(contextual, static, delta),
        "difference": contextual - static,
    }[kind]


def cosines(vectors):
    """The cosine of each pair of vectors; a zero vector has 0 with all."""
    vectors_ND = np.array(vectors)
    norms_N = np.linalg.norm(vectors_ND, axis=1)
    unit_ND = vectors_ND / np.where(norms_N, norms_N, 1)[:, None]
    return unit_ND @ unit_ND.T


def expected(rows, word, kind, layer, of=vector):
    """The definitions, over all pairs; the random similarity over all known rows, as they are few."""
    rows = [row for row in rows if row["known"]]
    every = [of(row, kind, layer) for row in rows]
    inside = np.array([row["sentence_id"] for row in rows])
    is_own = np.array([row["word"].casefold() == word.casefold() for row in rows])
    vectors = [each for each, own in zip(every, is_own, strict=True) if own]
    pairs = cosines(vectors)[~np.eye(len(vectors), dtype=bool)]
    sentences = []
    for sentence in set(inside[is_own]):
        members = [every[n] for n in np.flatnonzero(inside == sentence)]
        sentences.append(np.mean([cosine(each, np.mean(members, axis=0)) for each in members]))
    random = cosines(every)[inside[:, None] != inside]
    return {
        "self_similarity": np.mean(pairs) if len(pairs) else None,
        "random_similarity": np.mean(random),
        "self_similarity_above_random": np.mean(pairs) - np.mean(random) if len(pairs) else None,
        "intra_sentence_similarity": np.mean(sentences),
        "mean_norm": None if kind == "contextual" else np.mean([np.linalg.norm(each) for each in vectors]),
        "defined_share": np.mean([each != 0 for each in vectors]) if kind == "log_ratio" else None,
    }


def assert_agrees(measures, wanted):
    for name, value in wanted.items():
        assert measures[name] == (None if value is None else pytest.approx(value, abs=1e-5)), name


def test_every_measure_is_the_mean_that_its_definition_says(store, cli):
    found = cli("layers", store.path, *WORDS, "--json")
    assert (found.returncode, found.stderr) == (0, "")
    content = json.loads(found.stdout)
    assert content == layers.measure(store, WORDS).as_dict() | {
        "layers": [0, 1, 2, 3],
        "kinds": list(KINDS),
        "trends": content["trends"],
    }
    rows = rows_of(store)
    assert content["baseline_rows"] == sum(row["known"] for row in rows) > 100
    assert content["unknown_rows"] == sum(not row["known"] for row in rows) > 0
    assert len(store.commits) > 2
    for word, trend in zip(WORDS, content["trends"], strict=True):
        assert trend["words"] == [word.casefold()]
        own = [row for row in rows if row["word"].casefold() == word.casefold()]
        assert trend["occurrences"] == trend["measured_occurrences"] == len(own) >= 2
        assert trend["sentences"] == trend["measured_sentences"] == len({r["sentence_id"] for r in own})
        places = [(each["layer"], each["kind"]) for each in trend["measures"]]
        assert places == [(0, "contextual"), *((layer, kind) for layer in (1, 2, 3) for kind in KINDS)]
        for measures in trend["measures"]:
            assert_agrees(measures, expected(rows, word, measures["kind"], measures["layer"]))


def test_a_shift_has_the_stores_own_parameters_and_the_others_the_defaults(make):
    store = make(shift="asinh", delta=0.5, layers=(2,))
    found = layers.measure(store, ["bank"])
    assert (found.delta, found.floor) == (0.5, 1e-3)
    for measures in found.as_dict()["trends"][0]["measures"]:
        rows = rows_of(store)
        of = lambda row, kind, layer: vector(row, kind, layer, delta=0.5)  # noqa: E731 (short)
        assert_agrees(measures, expected(rows, "bank", measures["kind"], measures["layer"], of))


def test_half_floats_are_measured_in_single_precision(make):
    store = make(dtype="float16")
    rows = rows_of(store)
    for measures in layers.measure(store, ["the"]).as_dict()["trends"][0]["measures"]:
        assert_agrees(measures, expected(rows, "the", measures["kind"], measures["layer"]))


def test_without_static_vectors_the_stored_shift_is_measured_and_the_rest_named(make, cli):
    store = make(vectors=("contextual", "shift"), shift="log_ratio")
    found = cli("layers", store.path, "bank", "--json")
    assert found.returncode == 0
    assert found.stderr == (
        f"ctxbatch: {store.path} holds no static vectors, so these are not measured: "
        "layer 0, asinh, difference; use --vectors static,contextual for all measures\n"
    )
    rows = rows_of(store)
    (trend,) = json.loads(found.stdout)["trends"]
    kinds = ("contextual", "log_ratio")
    assert [(m["layer"], m["kind"]) for m in trend["measures"]] == [(n, k) for n in (1, 2, 3) for k in kinds]
    columns = {"contextual": "contextual", "log_ratio": "shift"}
    of = lambda row, kind, layer: row[f"{columns[kind]}_{layer}"].astype(np.float64)  # noqa: E731 (short)
    for measures in trend["measures"]:
        assert_agrees(measures, expected(rows, "bank", measures["kind"], measures["layer"], of))


@pytest.mark.parametrize(
    ("vectors", "left_out"),
    [
        (("static",), "contextual above layer 0, log_ratio, asinh, difference"),
        (("static", "shift"), "contextual above layer 0, log_ratio, asinh"),
        (("shift",), "contextual, log_ratio, asinh"),
        (("contextual",), "layer 0, log_ratio, asinh, difference"),
        (("static", "contextual"), None),
    ],
)
def test_any_vectors_are_measured_as_far_as_they_go(vectors, left_out, make, tmp_path, capsys, caplog):
    store = make(vectors=vectors, layers=None if vectors == ("static",) else LAYERS)
    layers_command.layers(str(store.path), "the", "bank", plot=str(tmp_path / "a.svg"))
    assert len(caplog.messages) == (left_out is not None)
    assert left_out is None or f"are not measured: {left_out};" in caplog.messages[0]
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert_fits(capsys.readouterr().out)


def test_raw_rows_of_the_embedding_matrix_alone_are_refused_and_beside_others_no_layer(make):
    with pytest.raises(InputError, match=r"only raw rows of the embedding matrix, .*: run with --vectors"):
        layers.measure(make(vectors=("static",), static="lookup", layers=None), ["bank"])
    assert layers.measure(make(static="lookup"), ["bank"]).layers == (1, 2, 3)


def test_a_word_that_is_not_there_is_named(store, cli):
    found = cli("layers", store.path, "bank", "Zebra")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        f"ctxbatch: the word 'zebra' does not occur in {store.path}: name words that do\n"
    )


def test_a_word_that_occurs_once_has_no_self_similarity_and_a_sentence_of_one_word_is_like_itself(make, cli):
    store = make("Nobody.\n")
    found = cli("layers", store.path, "nobody")
    assert found.returncode == 0, found.stderr
    assert "nobody: 1 occurrence, 1 sentence\n" in found.stdout
    (trend,) = layers.measure(store, ["nobody"]).trends
    for measures in trend.measures:
        assert measures.self_similarity is measures.self_similarity_above_random is None
        assert measures.random_similarity is None
        assert measures.intra_sentence_similarity == pytest.approx(1)
    with pytest.raises(InputError, match=r"no word of .* occurs 5 times.*name the words"):
        layers.measure(store)


def test_zero_vectors_score_zero(make):
    store = make(shift="log_ratio", floor=1e9, layers=(1,))  # no dimension is that large
    (trend,) = layers.measure(store, ["bank"]).trends
    (measures,) = [each for each in trend.measures if each.kind == "log_ratio"]
    assert measures.self_similarity == measures.random_similarity == 0
    assert measures.intra_sentence_similarity == measures.mean_norm == measures.defined_share == 0


def test_words_are_named_once_whatever_their_case(store):
    found = layers.measure(store, ["Bank", "the", "BANK"])
    assert [trend.words for trend in found.trends] == [("bank",), ("the",)]


def test_without_words_a_sample_is_measured_the_same_every_time(make, cli, monkeypatch):
    store = make(TEXT * 4)
    once, again = (cli("layers", store.path, "--json").stdout for _ in range(2))
    assert once == again
    content = json.loads(once)
    (sample,) = content["trends"]
    words = [row["word"].casefold() for row in rows_of(store)]
    frequent = sorted({word for word in words if words.count(word) >= 5})
    assert sample["words"] == frequent
    assert content["eligible_words"] == len(frequent)
    assert sample["occurrences"] == sum(words.count(word) for word in frequent)
    of_words = [layers.measure(store, [word]).trends[0].measures for word in frequent]
    for number, measures in enumerate(sample["measures"]):
        for name in ("self_similarity", "self_similarity_above_random", "mean_norm", "defined_share"):
            alone = [getattr(each[number], name) for each in of_words]
            assert measures[name] == (pytest.approx(np.mean(alone)) if alone[0] is not None else None)
    found = cli("layers", store.path).stdout
    assert f"sample: mean of {len(frequent)} words that occur 5 times or more\n" in found

    monkeypatch.setattr(layer_rows, "SAMPLE_WORDS", 9)
    monkeypatch.setattr(layer_rows, "SAMPLE_OCCURRENCES", 6)
    monkeypatch.setattr(layer_rows, "SENTENCES", 4)
    monkeypatch.setattr(layer_rows, "BASELINE_ROWS", 50)
    found = layers.measure(store)
    (sample,) = found.trends
    assert found == layers.measure(store)
    assert len(sample.words) == 9 < found.eligible_words
    assert 45 <= sample.measured_occurrences <= 54 < sample.occurrences
    assert (sample.measured_sentences, found.baseline_rows) == (4, 50)
    lines = list(layers_command._lines(found))
    assert f"sample: mean of 9 of {len(frequent)} words that occur 5 times or more" in lines
    assert any("54 of" in line and "; 4 of " in line for line in lines)


def test_occurrences_of_a_sample_are_of_their_own_words(make, monkeypatch):
    store = make(TEXT * 4)
    monkeypatch.setattr(layer_rows, "SAMPLE_OCCURRENCES", 6)
    _, sample = layer_rows.sampled_subject(store, layers.open_postings(store), None)
    of_rows = [word.casefold() for word in store.words_at(sample.of_words.positions_N)]
    assert of_rows == [sample.words[group] for group in sample.of_words.group_N]
    assert len(set(sample.of_words.positions_N.tolist())) == len(of_rows)


def test_a_large_group_is_added_up_block_by_block(store, monkeypatch):
    whole = layers.measure(store, ["the", "bank"])
    monkeypatch.setattr(group_sums, "_BLOCK_ROWS", 3)
    for one, other in zip(whole.trends, layers.measure(store, ["the", "bank"]).trends, strict=True):
        for each, same in zip(one.measures, other.measures, strict=True):
            assert each.self_similarity == pytest.approx(same.self_similarity)
            assert each.intra_sentence_similarity == pytest.approx(same.intra_sentence_similarity)
            assert each.mean_norm == (None if same.mean_norm is None else pytest.approx(same.mean_norm))


def test_tables_fit_a_terminal(store, cli):
    shown = cli("layers", store.path, "bank", "the").stdout
    assert_fits(shown)
    lines = shown.splitlines()
    tables = [number for number, line in enumerate(lines) if line.startswith("layer")]
    assert len(tables) == 5
    for number in tables:
        assert [line.split()[0] for line in lines[number + 1 : number + 5]] == ["0", "1", "2", "3"]
    first = layers.measure(store, ["bank"]).trends[0].measures[0]
    shown = lines[tables[1] + 1].split()
    assert shown[1] == f"{first.self_similarity:.3f}"
    assert shown[2] == "–"  # noqa: RUF001 (a dash for nothing)


def test_an_unfinished_store_is_measured_as_far_as_it_is_and_one_without_rows_refused(make, cli):
    store = make()
    planned = len(store.manifest.shards)
    shutil.rmtree(store.path / "shards" / "000000")
    found = cli("layers", store.path, "bank")
    assert found.returncode == 0
    assert f"is unfinished ({planned - 1} of {planned} shards), and only these are measured" in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_store_without_rows_is_refused_and_told_from_one_that_is_unfinished(make, cli):
    store = make(words=("zebra",))
    for arguments in (("layers", store.path, "zebra"), ("senses", store.path, "zebra")):
        found = cli(*arguments)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr.splitlines()[-1] == (
            f"ctxbatch: {store.path} is empty: none of the text matches its selection "
            f"({store.config.kept}); run again with another -o and a wider selection or other text"
        )
    planned = len(store.manifest.shards)
    shutil.rmtree(store.path / "shards" / "000000")
    message = rf"is unfinished \({planned - 1} of {planned} shards\) and holds no rows yet: run its"
    with pytest.raises(StoreError, match=message):
        layers.measure(Store(store.path), ["zebra"])


# --- stores that keep some occurrences --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "left_out", "remedy"),
    [
        ({"words": ("The", "bank")}, ("random", "above", "intra"), "without --words for them"),
        ({"top_salient": 1}, ("random", "above", "intra"), "without --top-salient for them"),
        (
            {"words": ("the", "bank"), "sample": 0.9},
            ("random", "above", "intra"),
            "without --words and --sample for them",
        ),
        ({"sample": 0.7}, ("intra",), "without --sample for it"),
    ],
)
def test_what_needs_all_words_is_left_out_and_said_where_some_are_kept(options, left_out, remedy, make, cli):
    store = make(TEXT * 4, **options)
    rows = rows_of(store)
    words = [row["word"].casefold() for row in rows]
    word = max(words, key=words.count)
    found = cli("layers", store.path, word, "--json")
    assert found.returncode == 0
    (note,) = found.stderr.splitlines()
    assert note.startswith(f"ctxbatch: {store.path} holds {store.config.kept}: no ")
    assert note.endswith(remedy)
    content = json.loads(found.stdout)
    n_words = len(options["words"]) if "words" in options else None
    assert content["selection"] == {
        "words": n_words,
        "sample": options.get("sample"),
        "top_salient": options.get("top_salient"),
    }
    assert (content["baseline_rows"] == 0) == ("random" in left_out)
    (trend,) = content["trends"]
    assert trend["measured_sentences"] == 0 < trend["sentences"]
    names = {"random": "random_similarity", "above": "self_similarity_above_random"}
    missing = {{**names, "intra": "intra_sentence_similarity"}[name]: None for name in left_out}
    for measures in trend["measures"]:
        wanted = expected(rows, word, measures["kind"], measures["layer"]) | missing
        assert_agrees(measures, wanted)


def test_of_a_frequent_word_a_sample_is_measured_and_said(make, monkeypatch):
    store = make(TEXT * 4)
    monkeypatch.setattr(layer_rows, "NAMED_OCCURRENCES", 7)
    found = layers.measure(store, ["the", "nobody"])
    assert found == layers.measure(store, ["the", "nobody"])
    the, nobody = found.trends
    own = [row for row in rows_of(store) if row["word"].casefold() == "the"]
    assert (the.measured_occurrences, the.occurrences) == (7, len(own))
    assert the.sentences == the.measured_sentences == len({row["sentence_id"] for row in own})
    assert nobody.measured_occurrences == nobody.occurrences <= 7
    lines = list(layers_command._lines(found))
    assert any(line.startswith(f"the: 7 of {len(own)} occurrences, {the.sentences} sent") for line in lines)


def test_wordpieces_as_rows_are_told(make, cli):
    found = cli("layers", make(pool="none").path, "unbelievable")
    assert found.returncode == 0
    assert "ctxbatch: rows are wordpieces (--pool none)" in found.stderr
