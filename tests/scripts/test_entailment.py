"""The evaluation of entailment reads pairs of sentences, groups and scores them as it says."""

import json
import sys

import numpy as np
import pytest

from ctxbatch.errors import InputError
from scripts.evaluation import entailment, entailment_scores
from scripts.evaluation.entailment_scores import make_folds, predict, spearmans
from scripts.evaluation.sentence_pairs import JUDGMENTS, SentencePair, groups_of, read_sentence_pairs

HEAD = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
GOOD = "1\tI want an apple\tI want an orange\t3.5\tNEUTRAL"


def write(path, *lines, head=HEAD, end="\n"):
    path.write_text(end.join([head, *lines]) + end, encoding="utf-8", newline="")
    return path


# --- pairs ----------------------------------------------------------------------------------------


def test_columns_are_found_by_their_names_in_any_order(tmp_path):
    head = "\ufeffentailment_label\textra\tsentence_B\tsentence_A\trelatedness_score"
    path = write(tmp_path / "some.tsv", "CONTRADICTION\tx\tb \ta\t1", "NEUTRAL\t\td\tc\t5.0", head=head)
    first, second = read_sentence_pairs(path)
    assert first == SentencePair(("a", "b"), 1.0, "CONTRADICTION", f"{path}:2")
    assert second.texts == ("c", "d")


def test_line_ends_of_windows_are_read(tmp_path):
    path = write(tmp_path / "some.tsv", GOOD, GOOD.replace("3.5", "4"), end="\r\n")
    assert [pair.judgment for pair in read_sentence_pairs(path)] == ["NEUTRAL", "NEUTRAL"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("", "1 fields, the line of names has 5"),
        (GOOD + "\tmore", "6 fields"),
        (GOOD.replace("3.5", "much"), "relatedness_score is 'much', it must be a number from 1 to 5"),
        (GOOD.replace("3.5", "nan"), "relatedness_score is 'nan'"),
        (GOOD.replace("3.5", "5.1"), "relatedness_score is '5.1'"),
        (GOOD.replace("NEUTRAL", "MAYBE"), "entailment_judgment is 'MAYBE', it must be NEUTRAL, ENTAIL"),
        (GOOD.replace("I want an orange", " "), "sentence_B is empty"),
    ],
)
def test_a_bad_line_is_told_with_its_place(line, wrong, tmp_path):
    path = write(tmp_path / "some.tsv", GOOD, line, GOOD)
    with pytest.raises(InputError, match=f"some.tsv:3: {wrong}"):
        read_sentence_pairs(path)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "some.tsv:1: no column sentence_A; the first line must name sentence_A, sentence_B, rel"),
        (GOOD.encode(), "some.tsv:1: no column sentence_A"),
        (HEAD.encode() + b"\n", "some.tsv holds no pairs"),
        (f"{HEAD}\n{GOOD}\n{GOOD}\n".encode(), "all pairs have one relatedness"),
        (f"{HEAD}\n{GOOD}\n".encode() + b"\xff\n", "some.tsv:3: the line is no UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_ranked_is_told(content, wrong, tmp_path):
    path = tmp_path / "some.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=wrong):
        read_sentence_pairs(path)


def test_pairs_that_share_a_sentence_are_of_one_group_even_through_others():
    texts = [("a", "b"), ("c", "d"), ("e", "e"), ("d", "f"), ("b", "g"), ("g", "f")]
    pairs = [SentencePair(each, 1.0, "NEUTRAL", "") for each in texts]
    assert len(set(groups_of(pairs)[[0, 1, 3, 4, 5]].tolist())) == 1
    assert sorted(set(groups_of(pairs).tolist())) == [0, 1]
    assert len(set(groups_of(pairs[:5]).tolist())) == 3


def test_folds_keep_groups_together_and_are_the_seeds():
    rng = np.random.default_rng(1)
    groups, judgments = rng.integers(0, 40, 200), rng.choice(JUDGMENTS, 200).tolist()
    folds = make_folds(judgments, groups, 5, seed=1)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4]
    assert all(len(set(folds[groups == group].tolist())) <= 1 for group in range(40))
    assert (make_folds(judgments, groups, 5, seed=1) == folds).all()
    assert not (make_folds(judgments, groups, 5, seed=2) == folds).all()
    with pytest.raises(InputError, match="--folds 41 does not fit: give 2 or more, and at most 40"):
        make_folds(judgments, groups, 41, seed=1)
    with pytest.raises(InputError, match="all pairs have one judgment"):
        make_folds(["NEUTRAL"] * 200, groups, 5, seed=1)


# --- scores ---------------------------------------------------------------------------------------


def test_spearman_of_resamples_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 9, 50) / 10, rng.random(50).round(1)
    draws = rng.multinomial(50, np.full(50, 1 / 50), size=40)
    expected = [
        stats.spearmanr(*(np.repeat(values, row) for values in (one, other))).statistic for row in draws
    ]
    assert spearmans(one, other, draws) == pytest.approx(expected)
    assert spearmans(one, np.ones(50), draws[:2]).tolist() == [0, 0]


def test_predictions_come_from_the_other_folds_scaled_by_them():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    features = rng.normal(size=(600, 4)) * [1, 10, 100, 0.1]
    judgments = np.array(JUDGMENTS)[(features[:, 1] > 0).astype(int) + (features[:, 3] > 0.05)]
    folds = np.arange(600) % 3
    found = predict(features, judgments, folds)
    for number in range(3):
        rest, mine = features[folds != number], features[folds == number]
        scaled = [(some - rest.mean(axis=0)) / rest.std(axis=0) for some in (rest, mine)]
        regression = LogisticRegression(C=entailment_scores._INVERSE_PENALTY, max_iter=1000)
        expected = regression.fit(scaled[0], judgments[folds != number]).predict(scaled[1])
        assert (found[folds == number] == expected).all()
    assert (found == judgments).mean() > 0.6
    with pytest.raises(InputError, match="all pairs outside a fold have one judgment"):
        predict(features[:4], np.array(["NEUTRAL", "NEUTRAL", "NEUTRAL", "ENTAILMENT"]), np.arange(4))


def test_features_are_differences_without_sign_and_products():
    first, second = np.array([[1.0, 2.0]]), np.array([[3.0, -1.0]])
    assert entailment_scores.features_of(first, second).tolist() == [[2, 3, 3, -2]]


# --- the whole ------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """Pairs that have the same words, or no word in common; and one whose second sentence has no word."""
    lines = []
    for n in range(40):
        apple, bank = f"I want an apple {n}", f"the old bank stood by the river {n} {n}"
        lines.append(f"{n}\t{apple}\t{apple} apple\t{4 + n % 2}\tENTAILMENT")
        lines.append(f"{n}\t{bank}\tyou think {n}\t{1 + n % 2}\tNEUTRAL")
    return write(tmp_path / "some.tsv", *lines, "x\tI want\t--- ***\t2\tNEUTRAL")


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["entailment", *map(str, arguments)])
    assert entailment.main() == 0
    return capsys.readouterr().out


def test_the_whole_on_a_tiny_model(tiny, pairs, monkeypatch, capsys):
    arguments = (pairs, "--model", tiny(), "--resamples", 100, "--workers", 1)
    *printed, last = run_script(monkeypatch, capsys, *arguments).splitlines()
    assert max(len(line) for line in printed if str(tiny()) not in line) <= 100
    found = json.loads(last)
    assert found["judgments"] == {"ENTAILMENT": 40, "NEUTRAL": 40}
    assert found["missing"] == [f"{pairs}:82"]
    assert f"left out, whose word is not in the store: 1 pair  {pairs}:82" in "".join(printed)
    related, entailed = found["measures"].values()
    assert (related["nothing"], entailed["nothing"]) == (0, 0.5)
    for measure in (related, entailed):
        assert len(measure["figures"]) == 2 * (1 + 2 * 4)
        static = next(each for each in measure["figures"] if each["by"] == "mean" and not each["layer"])
        assert static["value"] > 0.7
        assert static["interval"][0] <= static["value"] <= static["interval"][1]
    shown = " ".join("\n".join(printed).split())
    assert all(" ".join(line.split()) in shown for line in found["conclusions"])
    again = json.loads(run_script(monkeypatch, capsys, *arguments, "--json"))
    assert again["measures"] == found["measures"]


def test_without_scikit_learn_the_extra_is_named(tiny, pairs, monkeypatch, capsys):
    monkeypatch.setattr(entailment.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs scikit-learn: pip install 'ctxbatch\[senses\]'"):
        run_script(monkeypatch, capsys, pairs, "--model", tiny())
