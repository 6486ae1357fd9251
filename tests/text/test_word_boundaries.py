"""Words are between Unicode's boundaries for any text, whatever the tokenizer."""

import itertools
import unicodedata
from collections.abc import Iterator

import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icu4py.breakers import WordBreaker

from tests.helpers.models import TEXT
from tests.helpers.tokenizers import KINDS, maker_of, rows_in, train

NASTY = [
    "भीड़ को लोगों के लिए है। क्षत्रिय हूँ १२३",
    unicodedata.normalize("NFD", "Crème brûlée, naïve façade, Ångström Việt Nam, ŷẑ"),
    "q\u0323\u0307 q\u0307\u0323 a\u0301\u0301\u0301\u0301 e\u20dd\u0301 \u0301 x \u0301y",
    "בְּרֵאשִׁית בָּרָא אֱלֹהִים צה״ל ג׳ירפה",
    "بِسْمِ اللَّهِ الرَّحْمَٰنِ می\u200cخواهم ـــ ﷺ ١٢٣٫٤",
    "มหาวิทยาลัยเชียงใหม่ abcมหา123 น้ำใจ",
    "我喜欢学习中文abc東京タワーはｶﾀｶﾅ　全角ＡＢＣ１２３",
    "한국어를 배워요 3월 K팝 " + unicodedata.normalize("NFD", "한국어"),
    "🚨BREAKING 👩‍👩‍👧‍👦family 🇩🇪🇫🇷flags 👍🏽ok 1️⃣one ❤️x \U0001f468\u200d\U0001f4bbcoder",
    "£760 €16bn 1,000,000.50 3.14.15 1:30 10% 5° H₂O x² ½ Ⅳ №5 ①",
    "don't isn’t rock'n'roll 'n' l’été well-known U.S.A. e.g. C++ C# @user #tag a_b __init__ foo@bar.com",
    "FF\x0cand fun\x97TOO a\u200bb next\x85line \x00nul \x1c \ufeffbom \u2028sep \u2060wj a\u00adb \ufffd",
    "İstanbul Işık ŉ ﬁnal ǅ ß ẞ ſ K Å Ω ℌ 𝕳𝖊𝖑𝖑𝖔 𐐀𐐨 ﬀ",
    "ខ្ញុំស្រឡាញ់ ຂ້ອຍຮັກ ကျွန်တော် བོད་སྐད་ தமிழ் ಕನ್ನಡ മലയാളം ಠ_ಠ ქართული հայերեն አማርኛ ᠮᠣᠩᠭᠣᠯ",
    "a [SEP] b[MASK]c <s>d</s> <mask> [UNK]<unk> ▁x Ġy ##z <0xE2> Ċ",
    "x" * 300 + " " + "ü" * 120 + " " + "汉" * 60,
]
# What texts are made of: letters, marks, joiners, digits, signs and spaces of many scripts.
PARTS = [
    *"aZéßıİŉœ'’.,:;_-–!?@#$£%/\\\"«»[]<>()|~^ \t\u00a0\u3000\n\r",
    *["0", "9", "٣", "१", "1,000", "3.14", "1:2", "½", "²", "Ⅳ", "①"],
    *("e\u0301", "n\u0303", "o\u0302\u0323", "\u0301", "\u0323", "\u20dd", "\ufe0f", "\u3099"),
    *("\u00ad", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u200f", "\u061c", "\x0c", "\x85", "\x97"),
    *("कि", "भीड़", "हूँ", "्", "த", "ி", "ബ", "ാ", "บ้าน", "น้ำ", "ก", "ា", "ខ្ញុំ", "ກ", "မြန်"),
    *("汉", "中文", "カ", "タワー", "ひら", "ｶﾞ", "한", "국어", "\u1112\u1161\u11ab", "Ａ", "１"),
    *("שָׁ", "א", "״", "بِ", "ـ", "لا", "ﷺ", "Ж", "ё", "ж\u0306", "Σ", "ς", "ά", "ა", "ጽ", "𐐀", "𝕳", "ﬁ"),
    *("😀", "👩\u200d👧", "👍🏽", "🇩", "🇩🇪", "1️⃣", "❤️", "\ufffd", "\x00", "\U000e0001"),
    *("[SEP]", "[MASK]", "<s>", "</s>", "▁", "Ġ", "##"),
]
texts_of_parts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=14).map("".join)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def makers():
    seen = [line for line in (*TEXT.splitlines(), *NASTY) if "😀" not in line]
    return {kind: maker_of(train(kind, seen)) for kind in KINDS}


@pytest.fixture(scope="module")
def with_punctuation():
    """A byte-level tokenizer's, which has a piece for every character."""
    return maker_of(train("roberta", TEXT.splitlines()), keep_punctuation=True)


def cells(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the cells that ICU finds in a text, and their places."""
    end = 0
    for cell in WordBreaker(text, "en"):
        start, end = end, end + len(cell)
        yield str(cell), start, end


def words_in(text: str) -> list[tuple[str, int, int]]:
    return [each for each in cells(text) if any(map(str.isalnum, each[0]))]


def seen_in(text: str) -> list[tuple[str, int, int]]:
    return [each for each in cells(text) if any(c.isprintable() and c != " " for c in each[0])]


def found(maker, texts):
    return [[row[:3] for row in rows] for rows in rows_in(maker, texts)]


# --- the same whatever the tokenizer --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nasty_texts_have_the_same_words_with_every_tokenizer(kind, makers):
    assert found(makers[kind], NASTY) == [words_in(text) for text in NASTY]


@settings(relaxed, max_examples=120)
@given(texts=st.lists(texts_of_parts, min_size=1, max_size=8))
def test_any_texts_have_the_same_words_with_every_tokenizer(texts, makers):
    expected = [words_in(text) for text in texts]
    for kind, maker in makers.items():
        assert found(maker, texts) == expected, kind
    for text, words in zip(texts, expected, strict=True):
        assert all(text[start:end] == word for word, start, end in words)
        assert_marks_are_in_words(text, words)


@settings(relaxed, max_examples=60)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=6))
def test_any_characters_have_the_same_words_with_every_tokenizer(texts, makers):
    expected = [words_in(text) for text in texts]
    for kind, maker in makers.items():
        assert found(maker, texts) == expected, kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_letter_and_digit_of_unicode_is_a_word_alone(kind, makers):
    letters = [letter for letter in map(chr, range(0x110000)) if letter.isalnum()]
    lines = ["\n".join(letters[k : k + 400]) for k in range(0, len(letters), 400)]
    rows = itertools.chain.from_iterable(found(makers[kind], lines))
    assert [word for word, *_ in rows] == letters


def assert_marks_are_in_words(text, words):
    """Check that a mark behind a letter or digit, or behind its marks, is in its word."""
    ends = {place: end for _, start, end in words for place in range(start, end)}
    for place, character in enumerate(text):
        base = place
        while base > 0 and unicodedata.category(text[base])[0] == "M":
            base -= 1
        if base < place and text[base].isalnum():
            assert ends[base] > place, (text, character)


def test_no_mark_of_unicode_is_outside_its_word(with_punctuation):
    # ICU takes two Vietnamese marks for ideographs.
    codes = {*range(0x110000)} - {0x16FF0, 0x16FF1}
    marks = [chr(code) for code in sorted(codes) if unicodedata.category(chr(code))[0] == "M"]
    texts = [f"x{mark}y z{mark}{mark} 1{mark}" for mark in marks]
    for text, words in zip(texts, found(with_punctuation, texts), strict=True):
        assert [word for word, *_ in words] == text.split(" ")


# --- the boundaries -------------------------------------------------------------------------------


@settings(relaxed, max_examples=150)
@given(texts=st.lists(texts_of_parts, min_size=1, max_size=6))
def test_words_of_many_sentences_are_icus_of_one(texts, with_punctuation):
    assert found(with_punctuation, texts) == [seen_in(text) for text in texts]


@pytest.mark.parametrize("end", ["\r", "\n", "\u200d", "'", "1,", "🇩", "Thai ไ", "_", "\u0600", "中"])
@pytest.mark.parametrize("begin", ["\n", "a", "'b", "1", "\u0301", "🇪", "ทย", "_c", "文", "½"])
def test_no_word_crosses_sentences(end, begin, with_punctuation):
    texts = [f"a {end}", begin, f"b {end}", f"{begin} é"]
    assert found(with_punctuation, texts) == [seen_in(text) for text in texts]


ASCII_KINDS = "a1_:,;.'\"- \n"


@pytest.mark.parametrize(("characters", "length"), [(ASCII_KINDS, 4), ("a1:.'", 6)])
def test_words_of_short_ascii_texts_are_icus(characters, length, with_punctuation):
    """The package finds them without ICU."""
    texts = ["".join(each) for each in itertools.product(characters, repeat=length)]
    lines = ["\n".join(texts[k : k + 2000]) for k in range(0, len(texts), 2000)]
    for line, words in zip(lines, found(with_punctuation, lines), strict=True):
        assert words == seen_in(line)


CONTEXTS = "a%b 1%2 a%1 1%a %a a% %% a%%b é%ж _%_ % ж%ц '%' a.% %.a a%.b 1%.2 a'% x%’s"


def test_words_beside_every_character_of_the_scripts_of_europe_are_icus(with_punctuation):
    """The package finds them without ICU, except beside marks and what cannot be seen."""
    texts = [CONTEXTS.replace("%", chr(code)) for code in range(0x2100)]
    for text, words in zip(texts, found(with_punctuation, texts), strict=True):
        assert words == seen_in(text)


@settings(relaxed, max_examples=200)
@given(text=st.text(st.characters(max_codepoint=0x2100), max_size=60))
def test_words_of_any_text_in_the_scripts_of_europe_are_icus(text, with_punctuation):
    (words,) = found(with_punctuation, [text])
    assert words == seen_in(text)


# The rules of Unicode Standard Annex 29, section 4.1.1; in each, a boundary is not where "×" stands.
PROPERTIES = {
    name: regex.compile(rf"\p{{Word_Break={name}}}")
    for name in (
        *("CR", "LF", "Newline", "Extend", "ZWJ", "Format", "WSegSpace", "ALetter", "Hebrew_Letter"),
        *("MidLetter", "MidNumLet", "MidNum", "Single_Quote", "Double_Quote", "Numeric", "ExtendNumLet"),
        "Regional_Indicator",
    )
}
LETTERS = ("ALetter", "Hebrew_Letter")
BETWEEN_LETTERS = ("MidLetter", "MidNumLet", "Single_Quote")
BETWEEN_DIGITS = ("MidNum", "MidNumLet", "Single_Quote")
INSIDE = (*LETTERS, "Numeric", "ExtendNumLet")
IGNORED = ("Extend", "Format", "ZWJ")
LINE_ENDS = ("CR", "LF", "Newline")


def words_by_the_rules(text: str) -> list[tuple[str, int, int]]:
    kinds = [next((n for n, p in PROPERTIES.items() if p.match(c)), "Other") for c in text]
    edges = [0, *(k for k in range(1, len(text)) if is_boundary(text, kinds, k)), len(text)]
    return [(text[a:b], a, b) for a, b in itertools.pairwise(edges) if any(map(str.isalnum, text[a:b]))]


def is_boundary(text: str, kinds: list[str], place: int) -> bool:
    before, after = kinds[place - 1], kinds[place]
    if (before, after) == ("CR", "LF"):  # WB3
        return False
    if before in LINE_ENDS or after in LINE_ENDS:  # WB3a, WB3b
        return True
    if before == "ZWJ" and regex.match(r"\p{Extended_Pictographic}", text[place]):  # WB3c
        return False
    if before == after == "WSegSpace":  # WB3d
        return False
    if after in IGNORED:  # WB4
        return False
    left = [kind for kind in kinds[:place] if kind not in IGNORED][-40:]
    right = [kind for kind in kinds[place:] if kind not in IGNORED]
    a, b = ([""] * 2 + left)[-2:]
    c, d = (right + [""] * 2)[:2]
    joins = (
        (b in LETTERS and c in LETTERS)  # WB5
        or (b in LETTERS and c in BETWEEN_LETTERS and d in LETTERS)  # WB6
        or (a in LETTERS and b in BETWEEN_LETTERS and c in LETTERS)  # WB7
        or (b == "Hebrew_Letter" and c == "Single_Quote")  # WB7a
        or (b == d == "Hebrew_Letter" and c == "Double_Quote")  # WB7b
        or (a == c == "Hebrew_Letter" and b == "Double_Quote")  # WB7c
        or (b in (*LETTERS, "Numeric") and c in (*LETTERS, "Numeric"))  # WB8, WB9, WB10
        or (a == c == "Numeric" and b in BETWEEN_DIGITS)  # WB11
        or (b == d == "Numeric" and c in BETWEEN_DIGITS)  # WB12
        or (b in INSIDE and c == "ExtendNumLet")  # WB13a
        or (b == "ExtendNumLet" and c in INSIDE)  # WB13b
    )
    flags = len([*itertools.takewhile(lambda kind: kind == "Regional_Indicator", reversed(left))])
    return not joins and not (c == "Regional_Indicator" and flags % 2)  # WB15, WB16


# Without the scripts that ICU cuts by dictionaries, Hangul among them.
BY_RULE = [
    part for part in PARTS if not regex.search(r"[\p{Han}\p{Kana}\p{Hira}\p{Hang}\p{LB=SA}\u3099]", part)
]


@settings(relaxed, max_examples=300)
@given(text=st.lists(st.sampled_from(BY_RULE), min_size=1, max_size=12).map("".join))
def test_words_are_those_of_unicodes_rules(text, makers):
    assert found(makers["modernbert"], [text]) == [words_by_the_rules(text)]
