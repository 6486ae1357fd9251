"""What is asked for is found wherever a slow and simple search finds it."""

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icu4py.breakers import WordBreaker

from ctxbatch.text import targets
from ctxbatch.text.word_key import word_key
from tests.helpers.models import TEXT
from tests.helpers.tokenizers import maker_of, rows_in, sentences_of, train

PARTS = [
    *"aAbéßıİi1.,:;'’-_ \t\n\u00a0",
    *("e\u0301", "\u0301", "\u0307", "\u00ad", "\u200b", "\u200d", "\u0600", "ŉ", "ﬁ", "ss", "I"),
    *("New York", "new", "york", "U.S.", "U.S", "don't", "well-known", "co\u00adop"),
    *("汉", "中文", "字", "カ", "ひ", "ไทย", "ก", "한", "국", "שָׁ", "״", "😀", "👩\u200d👧", "🇩"),
]
texts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=14).map("".join)
relaxed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


@st.composite
def texts_and_words(draw):
    """Return some sentences, and words to ask for: parts of them in other spellings, and others."""
    sentences = draw(st.lists(texts, min_size=1, max_size=4))
    words = draw(st.lists(st.sampled_from(PARTS) | texts, max_size=2))
    for _ in range(draw(st.integers(1, 4))):
        sentence = draw(st.sampled_from(sentences))
        begin = draw(st.integers(0, len(sentence) - 1))
        part = sentence[begin : draw(st.integers(begin + 1, len(sentence)))]
        spell = draw(st.sampled_from(SPELLINGS))
        words.append(spell(part))
    return sentences, [key for key in map(word_key, words) if key]


SPELLINGS = (
    str,
    str.upper,
    str.lower,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: text.replace("'", "’").replace(" ", "\t"),
    lambda text: "\u00ad".join(text),
)


@pytest.fixture(scope="module")
def tokenizer():
    return train("roberta", TEXT.splitlines())


def occurrences(text: str, keys: set[str], is_word) -> list[tuple[str, int, int]]:
    """Return what is found in a text: at each cell the longest run of cells with one of the keys."""
    ends, end = [], 0
    for cell in WordBreaker(text, "en"):
        ends.append(end := end + len(cell))
    places = [*zip([0, *ends[:-1]], ends, strict=True)]
    found, number = [], 0
    while number < len(places):
        start = places[number][0]
        fitting = [
            last
            for last in range(number, len(places))
            if (last == number or not text[start].isspace())
            and word_key(text[start : places[last][1]]) in keys
            and word_key(text[start : places[number][1]])
            and word_key(text[slice(*places[last])])
        ]
        end = fitting[-1] if fitting else number
        stretch = text[start : places[end][1]]
        if fitting and is_word(stretch):
            found.append((stretch, start, places[end][1]))
        number = end + 1
    return found


def has_letter(text):
    return any(map(str.isalnum, text))


def can_be_seen(text):
    return any(c.isprintable() and c != " " for c in text)


def found_by(maker, sentences):
    return [[row[:3] for row in rows] for rows in rows_in(maker, sentences)]


@pytest.mark.parametrize("keep_punctuation", [False, True])
@relaxed
@given(case=texts_and_words())
def test_rows_are_those_of_a_slow_search(keep_punctuation, case, tokenizer):
    sentences, keys = case
    is_word = can_be_seen if keep_punctuation else has_letter
    maker = maker_of(tokenizer, words=tuple(sorted({*keys})), keep_punctuation=keep_punctuation)
    assert found_by(maker, sentences) == [occurrences(text, {*keys}, is_word) for text in sentences]


@relaxed
@given(case=texts_and_words())
def test_no_occurrence_is_in_a_sentence_that_is_not_read(case, tokenizer):
    sentences, keys = case
    maker = maker_of(tokenizer, words=tuple(sorted({*keys})))
    found = found_by(maker, sentences)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets.Targets, "may_be_in", lambda *_: True)
        assert found_by(maker, sentences) == found


def test_of_two_that_overlap_the_first_is_found_and_of_two_that_begin_together_the_longest(tokenizer):
    text = "in New York City Hall and New York, York City; new-york U.S.A. U.S. a.b.c"
    words = ("New York", "New York City", "York City", "City Hall", "U.S.", "b.c", "a.b")
    maker = maker_of(tokenizer, words=tuple(sorted(map(word_key, words))))
    (found,) = found_by(maker, [text])
    assert [word for word, *_ in found] == ["New York City", "New York", "York City", "U.S."]


def test_a_zero_width_space_parts_words(tokenizer):
    maker = maker_of(tokenizer, words=("glued", "new york", "newyork", "word"))
    (found,) = found_by(maker, ["a\u200bword\u200bglued New \u200bYork New\u200bYork New\u200b York"])
    phrases = ["New \u200bYork", "New\u200bYork", "New\u200b York"]
    assert [word for word, *_ in found] == ["word", "glued", *phrases]


def test_a_sentence_without_the_words_is_not_read(tokenizer):
    maker = maker_of(tokenizer, words=("don't", "new york"))
    texts = ["Don’t go.", "new\u00adyork", "Yorkshire new", "a new\u200b york", "NEW\nYORK", "do nothing"]
    (buffer,) = maker.buffers(sentences_of(texts))
    assert buffer.read_S.tolist() == [True, False, False, True, True, False]
