"""The evaluation of words counts what a reader of its docstring would."""

import json
import sys

import pytest

from ctxbatch.errors import InputError
from scripts.evaluation import words

ROWS = [
    ("1-2", "Don't"),
    ("1", "Do"),
    ("2", "n't"),
    ("3", "go"),
    ("3.1", "nowhere"),
    ("4", ","),
    ("5-6", "zum"),
    ("5", "zu"),
    ("6", "dem"),
    ("7", "cafe\u0301"),
    ("8", "!"),
]
TEXT = "Don't go, zum cafe\u0301!"


def write(path, text=TEXT, times=3):
    rows = "".join(f"{number}\t{form}" + "\t_" * 8 + "\n" for number, form in ROWS)
    path.write_text(f"# sent_id = s\n# text = {text}\n{rows}\n" * times, encoding="utf-8")
    return path


def test_gold_words_are_tokens_with_a_letter_or_digit(tmp_path):
    (sentence,) = words.read_treebank(write(tmp_path / "xx.conllu", times=1))
    assert [sentence.text[slice(*place)] for place in sentence.words] == ["Don't", "go", "zum", "cafe\u0301"]


def test_words_and_marks_are_counted():
    sentence = words.Sentence("a cafe\u0301 on", ((0, 1), (2, 7), (8, 10)))
    assert words.marks_cut(sentence, [(0, 1), (2, 7), (8, 10)]) == 0
    assert words.marks_cut(sentence, [(0, 1), (2, 6), (8, 10)]) == 1
    assert words.marks_cut(sentence, [(2, 6), (6, 7)]) == 1
    found = words.evaluate([sentence, sentence], [[(0, 1), (2, 6)], [(0, 1), (2, 7), (8, 9)]])
    assert found == {"gold": 6, "recall": 0.5, "marks_cut": 1}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "has no sentences"),
        ("1\tEr\n", "without '# text ='"),
        ("# text = Er\n1\tSie" + "\t_" * 8 + "\n", "'Sie' does not follow in 'Er'"),
    ],
)
def test_what_is_no_treebank_is_refused(content, complaint, tmp_path):
    path = tmp_path / "de.conllu"
    path.write_text(content)
    with pytest.raises(InputError, match=complaint):
        words.read_treebank(path)


def test_tokenizers_are_compared(tmp_path, tiny, monkeypatch, capsys):
    path = write(tmp_path / "en_x-ud-test.conllu", TEXT)
    monkeypatch.setattr(sys, "argv", ["words", str(path), "--model", str(tiny())])
    assert words.main() == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    trained = ["uncased", "cased", "roberta", "modernbert", "xlm-roberta"]
    assert [row["model"] for row in rows] == [*trained, tiny().name]
    assert {(row["treebank"], row["sentences"], row["gold"], row["recall"]) for row in rows} == {
        ("en", 3, 12, 1.0)
    }
    assert all(row["same"] and row["marks_cut"] == 0 for row in rows)
    # BERT's own words are parted by the apostrophe, and its accent is lost.
    assert [(rows[n]["own_recall"], rows[n]["own_marks_cut"]) for n in (0, -1)] == [(0.5, 3), (0.5, 3)]
