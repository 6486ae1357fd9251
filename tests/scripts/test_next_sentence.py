"""The evaluation of next sentences draws pairs and scores them as it says."""

import json
import sys

import numpy as np
import pytest

from ctxbatch.errors import InputError
from scripts.evaluation import next_sentence
from scripts.evaluation.separating import draw_clusters
from scripts.evaluation.summaries import Summary, summaries

SUBJECTS = ("bank", "river", "apple", "orange", "door", "line")


# --- pairs ----------------------------------------------------------------------------------------


@pytest.fixture
def drawn():
    """Sentences of two documents of one source and one of another, some equal, some without rows."""
    rng = np.random.default_rng(1)
    documents = [("a", "1")] * 90 + [("a", "2")] * 60 + [("b", None)] * 50
    texts = [f"text {n}" for n in rng.integers(0, 12, len(documents))]
    there = rng.random(len(documents)) > 0.1
    return documents, texts, there, next_sentence.draw_pairs(documents, texts, there, seed=1)


def test_pairs_are_neighbours_of_one_document_that_have_rows_and_differ(drawn):
    documents, texts, there, pairs = drawn
    expected, equal = [], 0
    for n in range(len(documents) - 1):
        if documents[n] == documents[n + 1] and there[n] and there[n + 1]:
            equal += texts[n] == texts[n + 1]
            expected += [n] if texts[n] != texts[n + 1] else []
    assert pairs.first_P.tolist() == expected
    assert (pairs.next_P == pairs.first_P + 1).all()
    assert pairs.equal == equal > 0


def test_a_random_sentence_is_of_the_same_source_and_has_the_text_of_neither(drawn):
    documents, texts, there, pairs = drawn
    other_documents = 0
    for first, after, other in zip(pairs.first_P, pairs.next_P, pairs.random_P, strict=True):
        assert there[other]
        assert documents[other][0] == documents[first][0]
        assert texts[other] not in (texts[first], texts[after])
        other_documents += documents[other] != documents[first]
    assert other_documents


def test_chance_is_the_seeds(drawn):
    documents, texts, there, pairs = drawn
    same, other = (next_sentence.draw_pairs(documents, texts, there, seed) for seed in (1, 2))
    assert (same.random_P == pairs.random_P).all()
    assert not (other.random_P == pairs.random_P).all()


def test_blocks_are_of_25_pairs_in_a_row_and_of_one_source(drawn):
    documents, _, _, pairs = drawn
    assert pairs.block_P.tolist() == sorted(pairs.block_P)
    sizes = {}
    for first, block in zip(pairs.first_P, pairs.block_P.tolist(), strict=True):
        sizes.setdefault(block, []).append(documents[first][0])
    assert [*sizes] == list(range(len(sizes)))
    assert all(len(set(sources)) == 1 for sources in sizes.values())
    of_a = [len(sources) for sources in sizes.values() if sources[0] == "a"]
    assert set(of_a[:-1]) == {25}


def test_a_source_without_a_third_text_has_no_pairs():
    documents, texts = [("a", None)] * 6, ["x", "y"] * 3
    pairs = next_sentence.draw_pairs(documents, texts, np.ones(6, bool), seed=1)
    assert [len(each) for each in (pairs.first_P, pairs.random_P, pairs.block_P)] == [0, 0, 0]
    assert len(next_sentence.draw_pairs([("a", None)], ["x"], np.ones(1, bool), seed=1).block_P) == 0


# --- scores ---------------------------------------------------------------------------------------


def test_scores_are_those_of_the_pairs_that_a_resample_takes():
    rng = np.random.default_rng(1)
    after, other = np.round(rng.random((2, 40)), 1)
    draws = draw_clusters(np.repeat(np.arange(8), 5), 50, seed=1)
    key = Summary("mean", "contextual", 3)
    scores = next_sentence.score({key: (after, other)}, draws)
    accuracy, auc = (each.measure for each in scores)
    assert accuracy.values[key] == pytest.approx(np.mean((after > other) + (after == other) / 2))
    wins = np.greater.outer(after, other) + np.equal.outer(after, other) / 2
    assert auc.values[key] == pytest.approx(wins.mean())
    expected = []
    for row in draws:
        taken = np.repeat(np.arange(40), row)
        wins = np.greater.outer(after[taken], other[taken]) + np.equal.outer(after[taken], other[taken]) / 2
        expected.append((np.diag(wins).mean(), wins.mean()))
    of_accuracy, of_auc = zip(*expected, strict=True)
    assert next_sentence.accuracies(after, other, draws) == pytest.approx(of_accuracy)
    assert next_sentence.pair_aucs(after, other, draws) == pytest.approx(of_auc)
    assert accuracy.bounds(key) == pytest.approx(np.quantile(of_accuracy, [0.025, 0.975]))


# --- the whole ------------------------------------------------------------------------------------


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["next_sentence", *map(str, arguments)])
    assert next_sentence.main() == 0
    return capsys.readouterr().out


def test_the_whole_on_a_tiny_model(tiny, tmp_path, monkeypatch, capsys):
    """Each stretch of 45 lines keeps to its subject, which even the static vectors of a line tell."""
    paths = [tmp_path / name for name in ("some.txt", "more.txt")]
    words = [subject for subject in SUBJECTS for _ in range(45)]
    for number, path in enumerate(paths):
        path.write_text("".join(f"the {word} {word} {n} {number}\n" for n, word in enumerate(words)))
    arguments = (*paths, "--model", tiny(), "--resamples", 100, "--workers", 1, "--record", "line")
    *printed, last = run_script(monkeypatch, capsys, *arguments).splitlines()
    assert max(len(line) for line in printed if str(tiny()) not in line) <= 100
    found = json.loads(last)
    assert found["layers"] == [2, 3]
    first, second = found["corpora"]
    assert (first["name"], first["sentences"], first["pairs"], first["blocks"]) == ("some.txt", 270, 269, 11)
    assert second["measures"] != first["measures"]
    for measure in first["measures"].values():
        assert [(each["by"], each["kind"], each["layer"]) for each in measure["figures"]] == [
            (*key,) for key in summaries([2, 3])
        ]
        static = next(each for each in measure["figures"] if each["by"] == "mean" and not each["layer"])
        assert static["value"] > 0.7
        assert static["interval"][0] <= static["value"] <= static["interval"][1]
        assert len(measure["comparisons"]) == 2 * 3 * 3
    shown = "\n".join(printed)
    for line in first["conclusions"]:
        assert " ".join(line.split()) in " ".join(shown.split())
    again = run_script(monkeypatch, capsys, paths[0], *arguments[2:], "--json", "--layers", "3")
    assert [each["layer"] for each in json.loads(again)["corpora"][0]["measures"]["AUC"]["figures"]] == [
        *(0, 3, 3, 3, 3),
        *(0, 3, 3, 3, 3),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "some.txt has 2 pairs of neighbouring sentences that can be compared: 8 blocks of 25 are"),
        (["--resamples", "9"], "--resamples 9 is too few"),
        (["--layers", "2,4"], "--layers 4: .* has layers 1 to 3"),
    ],
)
def test_what_cannot_be_scored_is_refused(options, message, tiny, tmp_path, monkeypatch, capsys):
    path = tmp_path / "some.txt"
    path.write_text("one two\nthree four\nthree four\nfive\n")
    with pytest.raises(InputError, match=message):
        run_script(monkeypatch, capsys, path, "--model", tiny(), "--workers", 1, *options)
