"""The evaluation of splitters counts boundaries and sentences as a reader of its docstring would."""

import json
import sys

import pytest

from ctxbatch.errors import InputError
from scripts.evaluation import sentences


def write(path, gold, spaced=True):
    lines = []
    for sentence in gold:
        lines.append(f"# text = {sentence}")
        tokens = sentence.split(" ") if spaced else list(sentence)
        misc = "_" if spaced else "SpaceAfter=No"
        lines += [f"{n}\t{token}" + "\t_" * 7 + f"\t{misc}" for n, token in enumerate(tokens, 1)]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_boundaries_and_sentences_are_counted():
    gold = sentences.join(["I saw her.", "She left.", "Why?"], " ")
    assert gold == sentences.Text("I saw her. She left. Why?", (0, 11, 21))
    assert sentences.count(gold, [0, 11, 21]) == (2, 2, 2, 3, 3)
    assert sentences.count(gold, [0, 10, 20]) == (2, 2, 2, 3, 3)  # white space before a sentence
    assert sentences.count(gold, [0, 2, 11]) == (1, 2, 2, 3, 0)
    assert sentences.count(gold, [0, 11]) == (1, 2, 1, 3, 1)
    assert sentences.count(gold, [0]) == (0, 2, 0, 3, 0)


def test_sentences_are_joined_as_their_language_is_written(tmp_path):
    spaced = sentences.read_treebank(write(tmp_path / "en.conllu", ["I saw."] * 12))
    assert [len(each.starts) for each in spaced] == [10, 2]
    assert spaced[1].text == "I saw. I saw."
    dense = sentences.read_treebank(write(tmp_path / "zh.conllu", ["他来了。"] * 2, spaced=False))
    assert [each.text for each in dense] == ["他来了。他来了。"]
    (tmp_path / "de.conllu").write_text("1\tEr\n")
    with pytest.raises(InputError, match="no line that begins with '# text ='"):
        sentences.read_treebank(tmp_path / "de.conllu")


def test_splitters_are_compared(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "en_x-ud-test.conllu", ["I saw Ms. Smith there.", "She left at once."] * 20)
    arguments = ["sentences", str(path), "--line", "0.001", "--resamples", "100"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert sentences.main() == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    ours, theirs = rows
    assert (ours["language"], ours["splitter"], theirs["splitter"]) == ("en", "ctxbatch", "sentencex")
    assert (ours["f1"], ours["found"], ours["intervals"]["f1"]) == (1, 1, [1, 1])
    assert theirs["recall"] == 1
    assert theirs["precision"] == pytest.approx(36 / 56)
    assert theirs["found"] == 0.5
