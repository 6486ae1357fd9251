"""The evaluation of senses reads instances, scores vectors and applies its rule as it says."""

import itertools
import json
import sys

import numpy as np
import pytest

from ctxbatch.errors import InputError
from ctxbatch.model import shift
from scripts.evaluation import sense_scores, senses
from scripts.evaluation.default_rule import Key, decide
from scripts.evaluation.instances import read_instances
from scripts.evaluation.marked_words import encode
from scripts.evaluation.measures import Measure
from scripts.evaluation.sense_scores import Instances
from scripts.evaluation.vector_kinds import KINDS, STATES, vectors_of
from tests.scripts.test_evidence import write_json

XML = """<corpus lang="en">
<lexelt item="bank-n">
<instance id="bank-n.1">
<answer instance="bank-n.1" senseid="money"/>
<context>
<s> Profits at Smith & Sons </s> <@> rose , said <wf pos="DT">the</wf>
"(<head>Banks</head>)" of AT&amp;T </s>
</context>
</instance>
</lexelt>
<lexelt item='line'><instance id="2"><answer senseid='cord'></answer>
<context><head pos="NN"> line </head></context></instance></lexelt>
</corpus>
"""
GOOD = {"word": "a", "text": "b a", "start": 2, "end": 3, "sense": "x"}


# --- instances ------------------------------------------------------------------------------------


def test_published_xml_is_read_with_bare_ampersands_and_tags_that_are_none(tmp_path):
    path = tmp_path / "some.xml"
    path.write_text(XML)
    first, second = read_instances(path)
    assert first.text == 'Profits at Smith & Sons rose , said the "(Banks)" of AT&T'
    assert first.text[slice(*first.span)] == "Banks"
    assert (first.word, first.sense, first.place) == ("bank", "money", f"{path}:3")
    assert (second.word, second.text, second.span, second.sense) == ("line", "line", (0, 4), "cord")


def test_without_a_lexelt_the_word_is_the_name_of_the_file(tmp_path):
    path = tmp_path / "bank.xml"
    path.write_text("\n".join(XML.split("\n")[2:9]))
    assert [each.word for each in read_instances(path)] == ["bank"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "line is not JSON"),
        ("[1]", "must be an object with word, text, start, end, sense"),
        ({"sense": 1}, "sense is 1, it must be a string"),
        ({"end": 2.0}, "end is 2.0, it must be a whole number"),
        ({"end": 4}, "2 to 4 is no word of a text of 3 characters"),
        ({"start": 1, "end": 2}, "1 to 2 is no word"),
    ],
)
def test_a_bad_line_of_json_is_told_with_its_place(line, wrong, tmp_path):
    path = tmp_path / "some.jsonl"
    second = line if isinstance(line, str) else json.dumps({**GOOD, **line})
    path.write_text(f"{json.dumps(GOOD)}\n{second}\n")
    with pytest.raises(InputError, match=f"some.jsonl:2: .*{wrong}"):
        read_instances(path)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", "holds no instances"),
        (XML.replace("senseid='cord'", ""), "some.xml:11: an instance must have"),
        (XML.replace(" line ", " "), "some.xml:11: the <head> marks nothing"),
    ],
)
def test_bad_xml_is_told(content, wrong, tmp_path):
    path = tmp_path / "some.xml"
    path.write_text(content)
    with pytest.raises(InputError, match=wrong):
        read_instances(path)


# --- scores ---------------------------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch):
    """Senses of 24 instances of which two are counted, their vectors, and what is drawn."""
    monkeypatch.setattr(sense_scores, "FEWEST", 8)
    rng = np.random.default_rng(1)
    names = ["a"] * 12 + ["b"] * 9 + ["c"] * 3
    vectors = rng.normal(size=(24, 3)).astype(np.float32) + [[len(set(names[:k]))] * 3 for k in range(24)]
    vectors[5] = 0
    return names, vectors, Instances(names, 60, seed=1)


def cosine(a, b):
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / size if size else 0.0


def test_precision_is_a_mean_within_each_counted_sense_and_over_senses(scored):
    names, vectors, found = scored
    hits = []
    for k, name in enumerate(names):
        others = sorted((j for j in range(24) if j != k), key=lambda j: -cosine(vectors[k], vectors[j]))
        hits.append(np.mean([names[j] == name for j in others[:5]]))
    assert found.hits(vectors) == pytest.approx(hits)
    expected = (np.mean(hits[:12]) + np.mean(hits[12:21])) / 2
    assert found.precision(found.hits(vectors), found.all_once)[0] == pytest.approx(expected)
    for draws, value in zip(found.draws_RK, found.precision(np.array(hits), found.draws_RK), strict=True):
        means = [np.average(hits[s], weights=draws[s]) for s in (slice(12), slice(12, 21)) if draws[s].sum()]
        assert value == pytest.approx(np.mean(means))


def test_auc_of_pairs_counts_a_pair_as_often_as_both_are_drawn(scored):
    names, vectors, found = scored
    pairs = list(itertools.combinations(range(24), 2))
    scores = np.array([round(cosine(vectors[i], vectors[j]), 6) for i, j in pairs])
    same = np.array([names[i] == names[j] for i, j in pairs])
    wins = np.greater.outer(scores[same], scores[~same]) + np.equal.outer(scores[same], scores[~same]) / 2
    of_pairs = found.pair_cosines(vectors)
    assert of_pairs == pytest.approx(scores, abs=2e-6)
    assert found.auc(of_pairs, found.all_once)[0] == pytest.approx(wins.mean(), abs=1e-3)
    for draws, value in zip(found.draws_RK, found.auc(of_pairs, found.draws_RK), strict=True):
        weights = np.array([draws[i] * draws[j] for i, j in pairs])
        both = np.outer(weights[same], weights[~same])
        assert value == pytest.approx((wins * both).sum() / both.sum(), abs=1e-3)


def test_pairs_are_drawn_once_each_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(sense_scores, "MOST_PAIRS", 50)
    first, second = sense_scores.draw_pairs(20, np.random.default_rng(1))
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 50
    assert (first < second).all()


def test_standardised_vectors_have_mean_0_and_deviation_1_over_all_rows(tiny, tmp_path):
    texts = ["the old bank stood by the river", "all in one line", "I want an apple", "a door of the bank"]
    found = encode(texts, tmp_path, str(tiny()), precision="fp32", workers=1)
    rows = [np.array([k]) for k in range(found.store.n_rows)]
    contextual, static = (
        np.concatenate(list(found.store.vectors(name))) for name in ("contextual_2", "static")
    )
    plain = vectors_of(found, 2, [rows], "plain")
    assert plain["difference"][0] == pytest.approx(contextual - static, abs=1e-6)
    assert plain["asinh"][0] == pytest.approx(shift.asinh(contextual, static, np, delta=0.1), abs=1e-5)
    for kind, (vectors,) in vectors_of(found, 2, [rows], "standardised").items():
        varies = plain[kind][0].std(axis=0) > 1e-5
        assert vectors.mean(axis=0)[varies] == pytest.approx(0, abs=1e-4), kind
        assert vectors.std(axis=0)[varies] == pytest.approx(1, abs=1e-3), kind


# --- the rule -------------------------------------------------------------------------------------


def measure(**more):
    """A measure by which all vectors are equal, but for those named; intervals are .01 to each side."""
    values = dict.fromkeys(itertools.product(STATES, KINDS, range(1, 7)), 0.5)
    for name, value in more.items():
        state, kind, layer = name.split("__")
        states = STATES if state == "both" else (state,)
        layers = range(1, 7) if layer == "all" else (int(layer),)
        values |= dict.fromkeys(itertools.product(states, (kind,), layers), value)
    figures = {Key(*key): value for key, value in values.items()}
    noise = {key: np.linspace(-0.005, 0.005, 400) for key in figures}
    chance = np.random.default_rng(1)
    return Measure("m", figures, lambda key: figures[key] + chance.permutation(noise[key]))


def choices(precision=None, auc=None, other=None):
    found = decide(precision or measure(), auc or measure(), other, 6)
    return {decision.what: decision.choice for decision in found}


def test_where_nothing_is_better_the_rule_keeps_what_is_simple():
    found = choices(other=measure())
    expected = {"shift": "difference", "layer": "4", "standardise": "no"}
    assert found == expected | {"same word": "difference", "other words": "difference"}
    assert choices()["other words"].startswith("open: difference")


def test_a_shift_must_be_better_plain_and_standardised():
    assert choices(measure(plain__asinh__3=0.6))["shift"] == "difference"
    assert choices(measure(both__asinh__3=0.6))["shift"] == "asinh"
    assert choices(measure(both__asinh__3=0.6, both__log_ratio__2=0.55))["shift"] == "asinh"
    assert choices(measure(both__asinh__3=0.6, both__log_ratio__2=0.65))["shift"] == "log_ratio"


def test_the_last_layer_must_be_better():
    assert choices(measure(plain__difference__6=0.505))["layer"] == "4"
    assert choices(measure(plain__difference__6=0.55))["layer"] == "6"
    assert choices(measure(plain__difference__2=0.9))["layer"] == "4"


def test_a_search_is_standardised_if_it_finds_more_and_its_pairs_are_not_worse():
    better = {"standardised__difference__4": 0.55}
    assert choices(measure(standardised__difference__2=0.55))["standardise"] == "no"
    assert choices(measure(**better))["standardise"] == "yes"
    assert choices(measure(**better), measure(standardised__difference__4=0.45))["standardise"] == "no"


def test_another_vector_takes_the_shifts_place_from_a_margin_up_both_standardised():
    assert choices(measure(both__contextual__1=0.515))["same word"] == "difference"
    assert choices(measure(standardised__contextual__1=0.55))["same word"] == "contextual"
    assert choices(measure(plain__contextual__1=0.55))["same word"] == "difference"
    other = measure(both__contextual__1=0.55, both__asinh__2=0.56)
    assert choices(other=other)["other words"] == "asinh"


def test_the_rule_says_what_it_would_choose_if_it_compared_plain():
    """Whether a search is standardised decides nothing here."""
    *_, found = decide(measure(), measure(), measure(standardised__contextual__1=0.55), 6)
    assert (found.choice, found.plain) == ("contextual", "difference")
    *_, found = decide(measure(), measure(), measure(plain__contextual__1=0.55), 6)
    assert (found.choice, found.plain) == ("difference", "contextual")
    *_, found = decide(measure(), measure(), measure(both__contextual__1=0.55), 6)
    assert (found.choice, found.plain) == ("contextual", None)
    better = measure(standardised__difference__4=0.55, standardised__contextual__1=0.6)
    _, _, state, same = decide(better, measure(), None, 6)[:4]
    assert (state.choice, same.choice, same.plain) == ("yes", "contextual", "difference")


# --- the whole ------------------------------------------------------------------------------------


def test_the_whole_on_a_tiny_model(tiny, tmp_path, monkeypatch, capsys):
    """Two senses that stand in different texts, and an instance whose word no window holds."""
    path = tmp_path / "some.jsonl"
    forms = [("the old {} by the river {}", "river"), ("I want a {} of {} apples", "money")]
    texts = [(form.format("bank", n), sense) for n in range(31) for form, sense in forms]
    lines = [(text, text.index("bank"), text.index("bank") + 4, sense) for text, sense in texts]
    lines.append(("x" * 60, 0, 60, "river"))
    names = ("text", "start", "end", "sense")
    path.write_text(
        "".join(json.dumps({"word": "bank", **dict(zip(names, each, strict=True))}) + "\n" for each in lines)
    )
    pairs = write_json(tmp_path / "pairs.jsonl")
    with pairs.open("a") as stream:
        both = {"lemma": "line", "s1": "one line", "span1": [4, 8], "s2": "two lines", "span2": [4, 9]}
        stream.write(json.dumps({**both, "label": 1}) + "\n")
    arguments = [str(path), "--model", str(tiny()), "--pairs", str(pairs)]
    monkeypatch.setattr(sys, "argv", ["senses", *arguments, "--resamples", "100", "--workers", "1"])
    assert senses.main() == 0
    *printed, last = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in printed if str(tiny()) not in line) <= 110
    assert "(d) a search for other words goes by: " in "\n".join(printed)
    found = json.loads(last)
    assert found["words"] == {"bank": 62}
    assert found["missing"] == [f"{path}:63"]
    assert [len(each["figures"]) for each in found["measures"].values()] == [3 * 4 * 2] * 4
    assert list(found["measures"])[3] == "AUC of the 4 spelt differently"
    for figure in found["measures"]["precision@5"]["figures"]:
        assert figure["value"] > 0.9
    for each in found["measures"]["precision@5"]["comparisons"]:
        assert each["interval"][0] <= each["more"] <= each["interval"][1]
    monkeypatch.setattr(sys, "argv", ["senses", *arguments[:3], "--resamples", "100", "--json"])
    assert senses.main() == 0
    assert json.loads(capsys.readouterr().out)["decisions"][-1]["choice"].startswith("open")


def test_a_word_of_one_sense_is_refused(tiny, tmp_path, monkeypatch):
    path = tmp_path / "some.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n")
    monkeypatch.setattr(sys, "argv", ["senses", str(path), "--model", str(tiny()), "--workers", "1"])
    with pytest.raises(InputError, match="'a' has too few instances in the store: it needs two senses"):
        senses.main()
