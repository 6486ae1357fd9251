"""Occurrences of a word are grouped by sense, the same way every time, and can be read."""

import csv
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from wcwidth import wcswidth

from ctxbatch import InputError, RunConfig, StoreError
from ctxbatch.analysis import clustering, layers, senses
from ctxbatch.analysis.clustering import cluster
from ctxbatch.analysis.keyness import typical_words
from ctxbatch.analysis.senses import find_senses
from ctxbatch.search.exact import normalised
from ctxbatch.store.columns import StoredColumn
from tests.helpers.models import set_tokenizer_option
from tests.helpers.running import command
from tests.helpers.stores import make_store, rows_of

PLANTED = Path(__file__).parents[1] / "data" / "senses.tsv"
TWO_SENSES = ("bank", "bat", "spring", "crane", "match", "seal", "plant")
ONE_SENSE = ("bread", "window", "chair", "river")


def tiny_store(folder, tiny, text, **options):
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return make_store(folder / "out", [folder / "text.txt"], RunConfig(model=str(tiny()), **options))


def directions(n, n_senses, seed=0, spread=0.3):
    """n vectors around so many directions, in turns."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(n_senses, 24))
    return normalised(centres[np.arange(n) % n_senses] + spread * random.normal(size=(n, 24)))


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["shift", "contextual", "static"])
def test_every_occurrence_is_in_one_group_and_named_by_its_row(store, on):
    found = find_senses(store, "The", n_groups=3, on=on, layer=1 if on != "static" else None)
    expected = [row["row_id"] for row in rows_of(store) if row["word"].casefold() == "the"]
    assert sorted(row for group in found.groups for row in group.row_ids) == expected
    assert found.grouped == found.occurrences == len(expected)
    assert [group.number for group in found.groups] == [1, 2, 3]
    sizes = [group.size for group in found.groups]
    assert sizes == [len(group.row_ids) for group in found.groups] == sorted(sizes, reverse=True)
    assert sum(group.share for group in found.groups) == pytest.approx(1, abs=1e-3)


def test_lines_are_the_most_central_occurrences_and_no_sentence_twice(store):
    found = find_senses(store, "want", n_groups=2, n_lines=4)
    vectors = {row["row_id"]: row["contextual_3"] for row in rows_of(store)}
    for group in found.groups:
        members_ND = normalised(np.array([vectors[row] for row in group.row_ids]))
        cosines = members_ND @ normalised(members_ND.mean(axis=0, keepdims=True))[0]
        scores = [line.score for line in group.lines]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == pytest.approx(cosines.max(), abs=1e-4)
        assert len({line.text for line in group.lines}) == len(group.lines)
        assert {line.row_id for line in group.lines} <= set(group.row_ids)


def test_repeated_runs_give_equal_output(store, cli):
    first, second = (cli("senses", store.path, "the", "--json") for _ in range(2))
    assert first.returncode == 0
    assert first.stdout == second.stdout
    assert find_senses(store, "the") == find_senses(store, "the")


@pytest.mark.parametrize("n_senses", [2, 3, 5, 10])
def test_the_silhouette_finds_how_many_directions_there_are(n_senses):
    found = cluster(directions(200, n_senses))
    assert found.best == (n_senses, found.silhouette)
    group_N, score_N = found.assign(directions(200, n_senses))
    assert len(set(zip(group_N.tolist(), (np.arange(200) % n_senses).tolist(), strict=True))) == n_senses
    assert (score_N > 0.8).all()


def test_vectors_that_nothing_parts_are_one_group():
    found = cluster(directions(100, 1, spread=1))
    assert (len(found.means_KD), found.silhouette) == (1, None)
    assert found.best is not None
    assert found.best[1] < clustering.ONE_GROUP


def test_an_outlier_is_no_sense():
    vectors_ND = directions(40, 1)
    vectors_ND[7] = -vectors_ND[7]
    assert len(cluster(vectors_ND).means_KD) == 1
    assert len(cluster(vectors_ND, 2).means_KD) == 2


def test_two_tokens_of_one_sentence_are_an_outlier_too():
    vectors_ND, sentence_N = directions(31, 1), np.arange(31)
    vectors_ND[[7, 8]] *= -1
    assert len(cluster(vectors_ND).means_KD) == 2
    sentence_N[8] = sentence_N[7]
    assert len(cluster(vectors_ND, None, sentence_N).means_KD) == 1


def test_occurrences_are_of_one_sentence_where_their_texts_are_equal(tiny, tmp_path, monkeypatch):
    store = tiny_store(tmp_path, tiny, "I want what I want.\nI want what I want.\nI want one.\nI want two.\n")
    given = []
    monkeypatch.setattr(senses, "cluster", lambda *of: given.append(of[2].tolist()) or cluster(*of))
    find_senses(store, "want")
    assert given == [[0, 0, 0, 0, 1, 2]]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_occurrences_can_be_grouped(n, tiny, tmp_path):
    text = "".join(f"I want {thing}.\n" for thing in ("one", "two apples", "an old orange", "three")[:n])
    store = tiny_store(tmp_path, tiny, text)
    assert sum(group.size for group in find_senses(store, "want").groups) == n
    for k in range(1, n + 1):
        found = find_senses(store, "want", n_groups=k)
        assert len(found.groups) == k
        assert (found.silhouette is None) == (k in (1, n))


def test_occurrences_that_do_not_differ_are_one_group(tiny, tmp_path):
    store = tiny_store(tmp_path, tiny, "I want an apple.\n" * 12)
    found = find_senses(store, "want")
    assert [group.size for group in found.groups] == [12]
    assert len(found.groups[0].lines) == 1
    with pytest.raises(InputError, match="--groups 2 must be 1 to 1"):
        find_senses(store, "want", n_groups=2)


def test_of_many_occurrences_a_sample_is_grouped_and_the_others_join(store, monkeypatch):
    whole = find_senses(store, "the", n_groups=2)
    monkeypatch.setattr(senses, "SAMPLE", 30)
    monkeypatch.setattr(senses, "_BLOCK", 7)
    found = find_senses(store, "the", n_groups=2)
    assert (found.sampled, found.grouped) == (30, whole.grouped)
    assert sum(len(group.row_ids) for group in found.groups) == whole.grouped
    assert found == find_senses(store, "the", n_groups=2)


def test_zero_vectors_are_in_no_group_and_counted(store, monkeypatch):
    zero = [row["row_id"] for row in rows_of(store) if row["word"] == "want"][:2]
    take = StoredColumn.take

    def with_zeros(column, positions):
        vectors = take(column, positions)
        vectors[np.isin(store.row_ids(positions), zero)] = 0
        return vectors

    monkeypatch.setattr(StoredColumn, "take", with_zeros)
    found = find_senses(store, "want", n_groups=2)
    assert found.zero == 2
    assert found.grouped == found.occurrences - 2
    assert not {row for group in found.groups for row in group.row_ids} & set(zero)
    monkeypatch.setattr(
        StoredColumn, "take", lambda column, positions: np.zeros_like(take(column, positions))
    )
    with pytest.raises(InputError, match="every contextual_3 vector of 'want' is zero"):
        find_senses(store, "want")


def test_wordpieces_of_one_occurrence_are_joined(corpus, tiny, tmp_path):
    store = make_store(tmp_path / "out", [corpus], RunConfig(model=str(tiny()), pool="none"))
    found = find_senses(store, "unbelievableness", n_groups=1, n_lines=2)
    rows = [row for row in rows_of(store) if row["word"] == "unbelievableness"]
    occurrences = {(row["sentence_id"], row["word_index"]) for row in rows}
    assert found.occurrences == len(occurrences) < len(rows)
    (group,) = found.groups
    assert list(group.row_ids) == [row["row_id"] for row in rows]
    assert all(line.text[line.char_start : line.char_end] == line.word for line in group.lines)


def test_where_sentences_share_their_only_other_word_nothing_is_typical(tiny, tmp_path):
    store = tiny_store(tmp_path, tiny, "Spring water.\nWater spring.\n" * 6)
    found = find_senses(store, "spring", n_groups=2)
    assert [group.typical for group in found.groups] == [(), ()]
    texts = [[f"Spring water {n}." for n in range(6)], [f"Water spring {n}." for n in range(6)]]
    assert typical_words(texts, 8, "spring") == [(), ()]


def test_occurrences_that_the_model_does_not_know_are_in_no_group_and_counted(tiny, tmp_path, cli):
    store = tiny_store(tmp_path, tiny, "The old bank 字.\nA bank of the river, 字.\n" * 3)
    found = find_senses(store, "bank", n_groups=1)
    assert (found.occurrences, found.unknown, found.grouped) == (6, 0, 6)
    for refused in (cli("senses", store.path, "字"), cli("layers", store.path, "字")):
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            "ctxbatch: the model does not know '字': its vectors are those of any unknown text\n"
        )


def test_spellings_of_one_word_of_which_the_model_knows_one(tmp_path, cased, cli):
    """The cased model knows the letters of bank, but no K."""
    text = "The bank was old.\nThe banK was old.\nOld was the bank.\n"
    (tmp_path / "text.txt").write_text(text)
    store = make_store(tmp_path / "out", [tmp_path / "text.txt"], RunConfig(model=str(cased)))
    known = [row["row_id"] for row in rows_of(store) if row["word"] == "bank"]
    found = find_senses(store, "BANK", n_groups=1)
    assert (found.occurrences, found.unknown, found.grouped) == (3, 1, 2)
    assert [*found.groups[0].row_ids] == known
    assert "2 occurrences on" in (shown := cli("senses", store.path, "bank", "--groups", 1).stdout)
    assert "1 that the model does not know left out" in shown.replace("\n", " ")
    assert "know" not in cli("senses", store.path, "old", "--groups", 1).stdout
    (trend,) = layers.measure(store, ["bank"]).trends
    assert (trend.occurrences, trend.unknown_occurrences, trend.measured_occurrences) == (2, 1, 2)
    shown = cli("layers", store.path, "bank").stdout
    assert f"left out: 1 of {store.n_rows} rows, of words that the model does not know\n" in shown
    assert "bank: 2 occurrences, 2 sentences, 1 that the model does not know left out\n" in shown


@pytest.fixture(scope="module")
def cased(tiny, tmp_path_factory):
    """A model that tells upper from lower case, and knows no K."""
    folder = tmp_path_factory.mktemp("cased") / "model"
    shutil.copytree(tiny(), folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    for name in ("T", "O"):  # in the place of letters that the text has not
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary[name] = vocabulary.pop({"T": "😀", "O": "汉"}[name])
    path.write_text(json.dumps(tokenizer))
    set_tokenizer_option(folder, "do_lower_case", False)
    return folder


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"word": "xylophone"}, "has no word 'xylophone'"),
        ({"word": "want to"}, "'want to' is not one word"),
        ({"word": ""}, "'' is not one word"),
        ({"n_groups": 0}, "--groups 0 must be 1 to "),
        ({"n_groups": 1000}, "--groups 1000 must be 1 to "),
        ({"n_lines": -1}, "-n -1 must be 0 or more"),
        ({"layer": 2}, "the store holds no contextual_2"),
        ({"on": "sense"}, "the store holds no sense"),
    ],
)
def test_what_cannot_be_grouped_is_refused(store, arguments, message):
    with pytest.raises(InputError, match=message):
        find_senses(store, **{"word": "want", **arguments})


def test_a_mistake_is_told_in_one_line(store, cli):
    result = cli("senses", store.path, "want to")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "ctxbatch: 'want to' is not one word: name a single word of the store\n"


def test_an_unfinished_store_is_refused(corpus, tiny, tmp_path):
    store = make_store(tmp_path / "out", [corpus], RunConfig(model=str(tiny()), shard_size=2000))
    shutil.rmtree(store.path / "shards" / "000001")
    with pytest.raises(StoreError, match="is unfinished"):
        find_senses(type(store)(store.path), "want")


def assert_fits(shown, columns, store):
    lines = shown.splitlines()
    assert all(wcswidth(line) <= columns for line in lines)
    joined = " ".join(lines)
    assert f"the: {find_senses(store, 'the').occurrences} occurrences on contextual_3 in 3 groups" in joined
    assert len([line for line in lines if re.match(r"[123]: ", line)]) == 3


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_output_fits_the_terminal(store, cli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = cli("senses", store.path, "the", "--groups", 3, "-n", 2)
    assert result.returncode == 0
    assert_fits(result.stdout, columns, store)


def test_no_library_warns_on_the_terminal(store):
    result = subprocess.run(
        command("senses", store.path, "the", "--groups", 3, "-n", 2),
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert_fits(result.stdout, 80, store)
    assert "Warning" not in result.stderr


def test_json_is_one_object_with_a_list_of_groups(store, cli):
    result = cli("senses", store.path, "want", "--groups", 2, "-n", 1, "--on", "contextual", "--json")
    content = json.loads(result.stdout)
    assert result.stderr == ""
    found = find_senses(store, "want", n_groups=2, n_lines=1, on="contextual")
    assert content == found.as_dict() | {"groups": content["groups"]}
    assert (content["word"], content["silhouette"], content["best"]) == ("want", found.silhouette, None)
    assert [group["number"] for group in content["groups"]] == [1, 2]
    for group, expected in zip(content["groups"], found.groups, strict=True):
        assert tuple(group["row_ids"]) == expected.row_ids
        assert group["lines"][0]["text"] == expected.lines[0].text
    assert replace(found, best=(8, 0.3)).as_dict()["best"] == {"groups": 8, "silhouette": 0.3}


def test_groups_by_a_log_ratio_with_positions_in_it_come_with_a_warning(store, tiny, tmp_path, cli):
    stored = tiny_store(tmp_path, tiny, "The cat saw the dog.\n" * 3, shift="log_ratio")
    for asked in ((stored.path, "the", "--on", "shift"), (store.path, "the", "--on", "log_ratio")):
        assert "by position more than by sense: use --on contextual" in cli("senses", *asked).stderr
    assert cli("senses", store.path, "the", "--on", "shift").stderr == ""
    assert cli("senses", store.path, "the").stderr == ""


def test_missing_scikit_learn_is_told_in_one_line(store, tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError('No module named sklearn')\n")
    result = subprocess.run(
        command("senses", store.path, "the"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "pip install 'ctxbatch[senses]'" in line


# --- planted senses, on real weights --------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A store of every word's sentences; ``doc_id`` is the sense."""
    config = RunConfig(
        model="all-MiniLM-L6-v2", layers=(-1,), precision="fp32", shift="asinh", id_field="sense"
    )
    return make_store(tmp_path_factory.mktemp("planted") / "out", [PLANTED], config)


def purity(store, found):
    """The share of occurrences that are of their group's most frequent sense."""
    senses = [
        Counter(doc for _, doc in store.documents_at(store.positions(np.array(group.row_ids))))
        for group in found.groups
    ]
    return sum(max(each.values()) for each in senses) / found.grouped


def test_the_planted_text_has_each_word_once_in_its_sentences_and_in_no_other():
    with PLANTED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for word in TWO_SENSES:
        held = [row for row in rows if word in re.findall(r"\w+", row["text"].casefold())]
        assert held == [row for row in rows if row["word"] == word]
        assert min(Counter(row["sense"] for row in held).values()) >= 10


@pytest.mark.parametrize("on", ["contextual", "shift"])
def test_two_planted_senses_are_told_apart(planted, on):
    reached = {word: purity(planted, find_senses(planted, word, n_groups=2, on=on)) for word in TWO_SENSES}
    assert np.mean(list(reached.values())) >= 0.9, reached
    assert min(reached.values()) >= 0.8, reached
    assert reached["bank"] == reached["spring"] == 1, reached


def test_the_silhouette_tells_two_senses_from_one(planted):
    found = {word: find_senses(planted, word) for word in TWO_SENSES}
    assert {word: len(each.groups) for word, each in found.items()} == dict.fromkeys(TWO_SENSES, 2)
    reached = {word: purity(planted, each) for word, each in found.items()}
    assert np.mean(list(reached.values())) >= 0.9, reached
    assert reached["bank"] == reached["spring"] == 1, reached
    for word in ONE_SENSE:
        assert len(find_senses(planted, word).groups) == 1, word
