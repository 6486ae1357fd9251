"""The evaluations measure what they say: vectors, AUC, thresholds and cosines equal plain computations."""

import itertools
import json
import os
import random
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from ctxbatch.errors import InputError
from ctxbatch.model.hub import find_model
from scripts.evaluation import (
    article,
    wic,
)
from scripts.evaluation.pairs import Pair, read_pairs
from scripts.evaluation.separating import aucs, best_threshold, cross_validated, draw, make_folds
from scripts.evaluation.wic_cosines import Split
from scripts.evaluation.wic_report import tables
from tests.helpers.models import make_model
from tests.helpers.oracle import asinh, log_ratio
from tests.helpers.running import ROOT

TOO_LONG = "x" * 60  # for a tiny model's window
# lemma, first sentence, second sentence, label; the marked words stand between brackets
MARKED = [
    ("bank", "the old [bank] stood by the river", "a [bank] of eight twenty ones", 0),
    ("door", "its [door] was never locked", "  the [door] was never in one line", 1),
    ("want", "I [want] an apple.", "I [want] an adventure?", 1),
    ("want", "I [want] an apple.", "nobody [wanted] what lay inside", 0),
    ("land", "in [no-man's-land] (at 3.14)", "the [land] by the river", 0),
    ("think", "Don't you [think] that?", "unbelievable to [think]\nof, at all", 1),
    ("résumé", "the [résumé] of Zoë", "café crème: [résumé], façade", 1),
    ("line", "all in one [line]", "one two three [lines] in the middle", 0),
    ("line", "all in one [line]", "and at the end a [line]", 1),
    ("speech", "quoted [speech], she said", "[speech] is not the same", 1),
    ("one", "[one] two three four", "not the same [one]", 0),
    ("long", f"a [{TOO_LONG}] stood", f"the {TOO_LONG} was [long]", 1),
]
# lemma, place of the words, first sentence, second sentence, label: as published
PUBLISHED = [
    ("river", "5-1", "the bank stood by the river .", "the river was old .", "T"),
    ("want", "1-1", "I want an apple .", "nobody wanted an orange .", "F"),
    ("apple", "3-0", "I want an apple .", "apple by apple it lay inside .", "T"),
    ("have", "1-2", "you don't think", "I do n't think", "F"),
    ("same", "4-3", "it is not the same", "all in the same line .", "T"),
    ("one", "0-1", "one two three .", "no one said that .", "F"),
]


def run(name, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"scripts.evaluation.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def last_line(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def unmarked(text):
    begin, end = text.index("["), text.index("]") - 1
    return text.replace("[", "").replace("]", ""), [begin, end]


def write_json(path):
    lines = []
    for lemma, first, second, label in MARKED:
        (s1, span1), (s2, span2) = unmarked(first), unmarked(second)
        fields = {"lemma": lemma, "pos": "n", "s1": s1, "span1": span1, "s2": s2, "span2": span2}
        lines.append(json.dumps({**fields, "label": label}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_wic(folder):
    data, gold = folder / "dev.data.txt", folder / "dev.gold.txt"
    data.write_text("".join(f"{lemma}\tN\t{place}\t{a}\t{b}\n" for lemma, place, a, b, _ in PUBLISHED))
    gold.write_text("".join(f"{label}\n" for *_, label in PUBLISHED))
    return data, gold


# --- word in context ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return write_json(folder / "pairs.jsonl"), *write_wic(folder)


@pytest.fixture(scope="module")
def evaluated(files, tiny):
    """Pairs as JSON lines, with thresholds from files as published, and a picture."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    more = ("--threshold-from", *files[1:], "--plot", files[0].parent / "auc.png", "--workers", 1)
    return run("wic", files[0], "--model", tiny(), *more)


def plain_cosines(oracle, pairs):
    """The cosine of every pair whose words are there, by kind and layer."""
    found = {}
    for pair in pairs:
        sides = []
        for text, (begin, end) in zip(pair.texts, pair.spans, strict=True):
            lead = len(text) - len(text.lstrip())
            rows, _ = oracle.rows(text.strip(), keep_punctuation=True)
            sides.append([r for r in rows if r.char_start + lead < end and r.char_end + lead > begin])
        if not all(sides):
            continue
        for layer in (1, 2, 3):
            vectors = {"static": [], "contextual": [], "log_ratio": [], "asinh": [], "difference": []}
            for rows in sides:
                n = sum(row.n_pieces for row in rows)
                s = sum(row.static * row.n_pieces for row in rows) / n
                c = sum(row.contextual[layer] * row.n_pieces for row in rows) / n
                shifts = (log_ratio(c, s, 1e-3), asinh(c, s, 0.1), c - s)
                for kind, vector in zip(vectors, (s, c, *shifts), strict=True):
                    vectors[kind].append(vector.astype(np.float64))
            for kind, (a, b) in vectors.items():
                cosine = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
                found.setdefault((kind, layer), []).append((round(float(cosine), 5), pair.same))
    return found


def plain_auc(scored):
    """The share of (same, different) pairs of pairs in the right order; equal ones count half."""
    wins = [(a > b) + (a == b) / 2 for a, a_same in scored for b, b_same in scored if a_same and not b_same]
    return sum(wins) / len(wins)


def plain_threshold(scored):
    """The first of all thresholds that make a difference, from the lowest up, that is right most often."""
    values = sorted({score for score, _ in scored})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    thresholds = [-np.inf, *middles, np.inf]
    return max(thresholds, key=lambda t: sum((score >= t) == same for score, same in scored))


def figure(report, kind, layer):
    return report["static"] if kind == "static" else report["layers"][str(layer)][kind]


def test_figures_equal_a_plain_computation(evaluated, files, oracle):
    report = last_line(evaluated)
    own = plain_cosines(oracle(), read_pairs([str(files[0])]))
    other = plain_cosines(oracle(), read_pairs([str(file) for file in files[1:]]))
    assert len(own) == len(other) == 15
    assert report["pairs"] == len(MARKED) - 1
    assert list(report["layers"]) == ["1", "2", "3"]
    for (kind, layer), scored in own.items():
        found, threshold = figure(report, kind, layer), plain_threshold(other[kind, layer])
        right = [(score >= threshold) == same for score, same in scored]
        assert found["auc"] == pytest.approx(plain_auc(scored), abs=1e-5), (kind, layer)
        assert found["interval"][0] <= found["auc"] <= found["interval"][1]
        assert found["accuracy"] == pytest.approx(np.mean(right), abs=1e-5), (kind, layer)
        expected = pytest.approx(threshold, abs=1e-4) if np.isfinite(threshold) else None
        assert found["threshold"] == expected, (kind, layer)
        if "more" in found:
            above = found["auc"] - figure(report, "contextual", layer)["auc"]
            assert found["more"] == pytest.approx(above, abs=2e-6)


def test_what_is_printed_says_what_was_done(evaluated, files):
    words = " ".join(evaluated.stdout.split())
    assert "thresholds from the 6 pairs of" in words
    assert "which share 2 of 9 lemmas" in words
    assert "left out, whose word is not in the store: 1 pair" in evaluated.stdout
    assert "best of all, chosen on these pairs:" in evaluated.stdout
    assert "resamples of the 9 lemmas, not corrected for the 9 comparisons with contextual" in words
    ours = [line for line in evaluated.stdout.splitlines()[:-1] if str(files[0].parent) not in line]
    assert max(map(len, ours)) <= 100
    assert last_line(evaluated)["missing"] == [f"{files[0]}:12: long"]
    assert (files[0].parent / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_without_another_split_thresholds_are_cross_validated_and_the_output_says_so():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    pairs = [Pair(str(k // 3), ("a", "b"), ((0, 1), (0, 1)), bool(rng.integers(2)), "") for k in range(60)]
    columns = [("static", 0), *((kind, 1) for kind in ("contextual", "log_ratio", "asinh", "difference"))]
    scores = {column: np.round(rng.random(60) + [pair.same / 3 for pair in pairs], 6) for column in columns}
    options = Namespace(folds=3, seed=1, resamples=100, model="m", precision="fp32")
    facts = wic.evaluate(options, Split(pairs, [], scores), None)
    assert "thresholds cross-validated, 3 folds, no lemma in two of them" in tables(facts)
    split = Split(pairs, [], scores)
    folds = make_folds(split.same, split.lemmas, 3, seed=1)
    shown = facts["layers"][1]["asinh"]["accuracy"]
    assert shown == cross_validated(scores["asinh", 1], split.same, folds)
    assert "threshold" not in facts["layers"][1]["asinh"]


def test_a_threshold_gets_as_many_right_as_any():
    chance = random.Random(1)
    for _ in range(200):
        scored = [(chance.randrange(6) / 4, chance.random() < 0.5) for _ in range(chance.randrange(1, 9))]
        scores, same = map(np.array, zip(*scored, strict=True))
        assert best_threshold(scores, same) == plain_threshold(scored)


def test_resampled_aucs_are_those_of_the_resamples():
    rng = np.random.default_rng(1)
    scores, same = rng.integers(0, 9, 12) / 8, np.arange(12) % 3 == 0
    draws = draw(same, np.arange(12).astype(str), 50, seed=1)
    assert (draws.sum(axis=1) == 12).all()
    for counts, auc in zip(draws, aucs(scores, same, draws), strict=True):
        drawn = [(scores[k], same[k]) for k in range(12) for _ in range(counts[k])]
        assert auc == pytest.approx(plain_auc(drawn))


def test_pairs_of_a_lemma_are_drawn_together():
    """Or pairs that say the same would count as so many independent ones, and intervals be too narrow."""
    lemmas, same = np.array([*"aaaabbbbcd"] * 5), np.arange(50) % 2 == 0
    draws = draw(same, lemmas, 200, seed=1)
    for lemma in "abcd":
        of_lemma = draws[:, lemmas == lemma]
        assert (of_lemma == of_lemma[:, :1]).all()
    _, firsts = np.unique(lemmas, return_index=True)
    assert (draws[:, firsts].sum(axis=1) == 4).all()
    assert len(np.unique(draws[:, 0])) > 2


def test_cross_validation_tries_thresholds_on_lemmas_it_has_not_seen():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    lemmas = rng.integers(0, 12, 60).astype(str)
    same = rng.random(60) < 0.5
    scores = rng.random(60) + same / 3
    folds = make_folds(same, lemmas, 4, seed=1)
    assert sorted(np.concatenate([fold for _, fold in folds])) == list(range(60))
    right = 0
    for rest, fold in folds:
        assert not {lemmas[k] for k in rest} & {lemmas[k] for k in fold}
        threshold = plain_threshold([(scores[k], same[k]) for k in rest])
        right += sum((scores[k] >= threshold) == same[k] for k in fold)
    assert cross_validated(scores, same, folds) == pytest.approx(right / 60)
    with pytest.raises(InputError, match="--folds 13 does not fit: of 12 lemmas"):
        make_folds(same, lemmas, 13, seed=1)


GOOD = {"lemma": "a", "s1": "a b", "span1": [0, 1], "s2": "b a", "span2": [2, 3], "label": 1}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "pairs.jsonl:2: the line is not JSON"),
        ("", "pairs.jsonl:2: the line is not JSON"),
        ("[1]", "pairs.jsonl:2: the line must be an object with lemma, s1"),
        ({"span2": None}, r"pairs.jsonl:2: span2 is None, it must be \[begin, end\]"),
        ({"span1": [1, 9]}, r"pairs.jsonl:2: span1 is \[1, 9\].* within the 3 characters of s1"),
        ({"span1": [1, 2]}, r"pairs.jsonl:2: span1 \[1, 2\] marks nothing but white space"),
        ({"s1": 3}, "pairs.jsonl:2: s1 is 3, it must be a string"),
        ({"label": "T"}, "pairs.jsonl:2: label is 'T', it must be 0 or 1"),
        ({}, "pairs.jsonl: all pairs have one label"),
    ],
)
def test_a_bad_line_of_json_is_told_with_its_place(line, wrong, tmp_path):
    path = tmp_path / "pairs.jsonl"
    second = line if isinstance(line, str) else json.dumps({**GOOD, **line})
    path.write_text(f"{json.dumps(GOOD)}\n{second}\n")
    with pytest.raises(InputError, match=wrong):
        read_pairs([str(path)])


@pytest.mark.parametrize(
    ("data", "gold", "wrong"),
    [
        ("a\tN\t0-1\ta b", "T", "data.txt:2: 4 fields, there must be 5"),
        ("a\tN\t0:1\ta b\tb a", "T", "data.txt:2: '0:1' must be the indexes of two words"),
        ("a\tN\t0-2\ta b\tb a", "T", "data.txt:2: word 2 of 'b a', which has words 0 to 1"),
        ("a\tN\t0-1\ta b\tb a", "X", "gold.txt:2: 'X' must be T or F"),
        ("a\tN\t0-1\ta b\tb a", "T\nF", "data.txt has 2 lines and .*gold.txt has 3"),
        ("a\tN\t0-1\ta b\tb \udcff", "T", "data.txt:2: the line is no UTF-8 text"),
    ],
)
def test_a_bad_line_of_files_as_published_is_told_with_its_place(data, gold, wrong, tmp_path):
    paths = tmp_path / "data.txt", tmp_path / "gold.txt"
    paths[0].write_text(f"a\tN\t0-1\ta b\tb a\r\n{data}\n", "utf-8", "surrogateescape", "")
    paths[1].write_text(f"F\n{gold}\n")
    with pytest.raises(InputError, match=wrong):
        read_pairs([str(path) for path in paths])


def test_words_are_counted_from_0_between_white_space(files):
    pairs = read_pairs([str(file) for file in files[1:]])
    words = [[text[slice(*span)] for text, span in zip(p.texts, p.spans, strict=True)] for p in pairs]
    assert words[:4] == [["river", "river"], ["want", "wanted"], ["apple", "apple"], ["don't", "n't"]]


def test_mistakes_are_one_line_of_the_command(tmp_path, files):
    pytest.importorskip("sklearn")
    result = run("wic", files[1])
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"wic: {files[1]} needs its gold file after it, a T or F a line; JSON lines end in .jsonl"
    ]
    with pytest.raises(InputError, match=r"nowhere.jsonl cannot be read: No such file"):
        read_pairs([str(tmp_path / "nowhere.jsonl")])


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"sklearn is not installed: pip install 'ctxbatch\[plot,senses\]'"):
        wic.check(Namespace(plot=None))


# --- the article ----------------------------------------------------------------------------------


def test_the_article_on_a_tiny_model_with_token_type_1_equals_a_plain_computation(
    tiny, oracle, monkeypatch, capsys
):
    arguments = ["--model", str(tiny()), "--token-type", "1", "--salience-head", "4"]
    monkeypatch.setattr(sys, "argv", ["article", *arguments])
    assert article.main() == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    outputs = [see(oracle(), text) for text in ("I want an apple.", "I want an orange.")]
    rows = {(row["layer"], row["kind"]): row for row in report["rows"]}
    assert len(rows) == 3 * 5
    assert [layer for layer, kind in rows if kind == "asinh"] == [1, 2, 3]
    for layer in (1, 2, 3):
        states = [[output.hidden_states[k][0, 2].numpy() for k in (0, layer)] for output in outputs]
        vectors = {
            "contextual": [c for _, c in states],
            "log_ratio/0": [log_ratio(c, s, 0) for s, c in states],
            "log_ratio/0.001": [log_ratio(c, s, 1e-3) for s, c in states],
            "asinh": [asinh(c, s, 0.1) for s, c in states],
            "difference": [c - s for s, c in states],
        }
        for kind, (a, b) in vectors.items():
            for name, n in (("first_ten", 10), ("all", None)):
                x, y = a[:n], b[:n]
                cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
                assert rows[layer, kind][name][0] == pytest.approx(cosine, abs=1e-4), (layer, kind, name)
    received = outputs[0].attentions[0][0, 3].sum(dim=0).tolist()[1:5]  # of the words, without the stop
    words = ["I", "want", "an", "apple"]
    salience = dict(report["salience"])
    assert list(salience) == words
    assert [salience[word] for word in words[:3]] == pytest.approx(received[:3], abs=1e-4)
    assert report["salient"] == max(salience, key=salience.get)


@torch.no_grad()
def see(oracle, text):
    """Hidden states and attentions of a sentence whose tokens are all of type 1."""
    ids = torch.tensor([oracle.tokenizer(text)["input_ids"]])
    types = torch.ones_like(ids)
    return oracle.model(ids, token_type_ids=types, output_hidden_states=True, output_attentions=True)


def test_models_without_a_second_token_type_are_refused(tiny, tmp_path):
    one = make_model(tmp_path / "one", "roberta", type_vocab_size=1)
    for number, folder in enumerate([tiny("distilbert"), one]):
        with pytest.raises(
            InputError, match=r"--token-type 1: .* has no second token type; leave the option"
        ):
            article.with_token_type_1(find_model(str(folder), None), tmp_path / str(number))


def test_without_the_articles_model_the_shift_tells_sentences_apart_on_real_weights(tmp_path):
    result = run("article", HF_HOME=str(tmp_path))
    assert "bert-base-uncased, the article's model, is not on this machine" in result.stderr
    report = last_line(result)
    assert report["model"] == "all-MiniLM-L6-v2"
    rows = {(row["layer"], row["kind"]): row["all"] for row in report["rows"]}
    assert rows[6, "contextual"] == pytest.approx([0.922, 0.864, 0.826], abs=0.005)
    assert rows[6, "log_ratio/0.001"] == pytest.approx([0.673, 0.600, 0.582], abs=0.005)
