"""All spellings of a word have one key, and no two words."""

import sys
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ctxbatch.text.word_key import word_key

CHARACTERS = [
    c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Co", "Cs")
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
tricky = st.text(
    st.sampled_from(
        "aAeEıİiIßẞſŉ'’ʼ\u0301\u0307\u0323\u0345ᾳΑάΣςσÅﬁ한\u1112\u1161\u00ad\u200b\u200d\u2060 \t\u00a0\u3000"
    ),
    max_size=8,
)


def test_the_key_of_every_character_is_its_own_key():
    assert [c for c in CHARACTERS if word_key(word_key(c)) != word_key(c)] == []


@given(any_text | tricky)
def test_a_key_is_its_own_key(text):
    assert word_key(word_key(text)) == word_key(text)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_every_character_has_the_key_of_its_canonical_equivalent(form):
    assert [c for c in CHARACTERS if word_key(unicodedata.normalize(form, c)) != word_key(c)] == []


@given(any_text | tricky)
def test_canonical_equivalents_have_one_key(text):
    keys = {word_key(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
    assert keys == {word_key(text)}


@given(any_text | tricky)
def test_case_does_not_matter(text):
    assume("\u0345" not in text)  # a mark whose capital is a letter, so that its place among marks counts
    assert word_key(unicodedata.normalize("NFD", text).casefold()) == word_key(text)


@pytest.mark.parametrize(
    "spellings",
    [
        ("café", "cafe\u0301", "CAFÉ", "Cafe\u0301", "ca\u00adfé", "ca\u200bfe\u200d\u0301"),
        ("don't", "don’t", "DON'T", "donʼt"),
        ("İstanbul", "I\u0307stanbul", "i\u0307stanbul", "İSTANBUL"),
        ("straße", "STRASSE", "strasse", "Straße", "STRAẞE"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ("New York", "new\tyork", " New   York\n", "NEW\u00a0YORK", "New\u3000York"),
        ("می\u200cخواهم", "میخواهم"),
        ("unbelievable", "un\u00adbe\u00adliev\u00adable", "\ufeffunbelievable\u2060"),
        ("❤", "❤\ufe0f"),
        ("ŉ", "ʼn", "'N"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ],
)
def test_spellings_of_one_word_have_one_key(spellings):
    assert len({*map(word_key, spellings)}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("resume", "résumé"),
        ("Işık", "Işik"),
        ("İstanbul", "Istanbul", "ıstanbul"),
        ("well-known", "well known", "wellknown"),
        ("its", "it's"),
        ("New York", "NewYork"),
        ("U.S.", "U.S", "US"),
        ("ﬁn", "²", "2"),
        ("हूँ", "हूं", "हू"),
        ("か", "が", "カ"),
    ],
)
def test_different_words_have_different_keys(words):
    assert len({*map(word_key, words)}) == len(words)


def test_a_key_drops_all_that_is_ignorable_by_default():
    dropped = "\u00ad\u034f\u061c\u115f\u17b4\u180b\u200b\u200c\u200d\u200e\u2060\u3164\ufe0f\ufeff\uffa0"
    assert word_key("a" + "a".join(dropped) + "a") == "a" * (len(dropped) + 1)
    assert word_key(dropped) == ""
