"""Records are split into sentences where sentences end: not after abbreviations, and in quotations too."""

import time

import pytest

from ctxbatch.corpus.records import Record
from ctxbatch.text.sentence_rules import RULES
from ctxbatch.text.sentences import split_sentences


def split(text, lang="en", rules=RULES):
    return [sentence.text for sentence in split_sentences(Record(0, 0, 0, None, text), lang, rules)]


@pytest.mark.parametrize(
    ("lang", "marked"),
    [
        ("en", "Ms. Smith came.|She left."),
        ("en", "I saw Ms. Smith in 2018.|In 2018 Ms. Smith left Apt. B.|It took 5 ms.|Then it stopped."),
        ("en", "Mr. and Mrs. Smith had fruit, e.g. this.|He has e.g. two."),
        ("en", "The U.S. troops left.|J. K. Rowling wrote it.|She came at 5 p.m. on Monday.|He saw."),
        ("en", "See vol. 3 and ch. 5, eq. 2.|It is in rm. 7."),
        ("en", "1. First item.|2. Second item."),
        ("en", '"I came," he said.|"You left."'),
        ("en", 'He said, "Go away!" and left.|She stayed.'),
        ("en", 'He said: "I came.|You left.|We stayed."|Then he left.'),
        ("en", "“I came. |You left,” he said. |“Well?”".replace(" |", "|")),
        ("en", "‘I don’t know.|You left,’ he said."),
        ("de", "Am 21. Oktober 2014 kam er.|Er blieb."),
        ("de", "Er kam vom 21. Oktober, sie am 3. Mai.|Der 2. Weltkrieg und die 4. Klasse im 19. Jh."),
        ("de", "Er mag z. B. Anna.|Dr. Müller sah Abb. 3, bzw. Anna.|Er belegte Platz 3.|Dann ging er."),
        ("de", "Es ist unglaublich.|5.000 Leute kamen.|Vgl. Abschn. 5 und Seite 3."),
        ("de-at", "„Ich kam.|Du gingst“, sagte er."),
        ("cs", "Dne 21. října 2014 přišel.|Zůstal."),
        ("fr", "M. Dupont est venu.|Il mesure 2 m.|Elle reste."),
        ("ru", "«Уйди!|Сейчас же!» — сказал он.|Она осталась."),
        ("hi", "वह आया।|डॉ. शर्मा गए।|क्या?"),
        ("ar", "هل جاء؟|نعم.|جاء د. أحمد... ثم ذهب."),
        ("zh", "他来了。|“走吧！”她说。|但B.C.的警方走了！"),
        ("ja", "彼は来た。|「行け！」と言った。|彼女は残った。"),
    ],
)
def test_sentences_end_where_a_reader_ends_them(lang, marked):
    expected = marked.split("|")
    text = ("" if lang in ("zh", "ja") else " ").join(expected)
    assert split(text, lang) == expected


def test_without_rules_sentences_are_those_of_sentencex():
    assert split("I saw Ms. Smith.", rules=None) == ["I saw Ms.", "Smith."]


def test_a_paragraph_ends_a_sentence_whatever_it_ends_in():
    assert split("I saw Ms.\n\nSmith left.") == ["I saw Ms.", "Smith left."]


@pytest.mark.parametrize(
    "part",
    [
        'He said, "Go. Now." She saw Ms. Smith. ',
        '"I came. ',
        "“I came. ",
        "'a. 'b ",
        "« “ ‘ „ a. ",
        "1. ",
        "- ... ",
        "a\u00a0b.\u2028\x00 ",
        "。”",
        "er ging. 5 ",
    ],
)
def test_time_grows_with_the_text_alone(part):
    def seconds(n):
        text = part * (n // len(part))
        begun = time.process_time()
        split(text, "de")
        return time.process_time() - begun

    seconds(1000)
    assert seconds(200_000) < 8 * max(seconds(50_000), 0.01)
