"""Words typical of some texts are those that the others lack, in any spelling and script."""

import pytest

from ctxbatch.analysis import keyness
from ctxbatch.analysis.keyness import typical_words


def test_words_typical_of_a_group_are_those_that_the_others_lack():
    money = [f"{start} {n}." for n in range(20) for start in ("The bank lent money", "Money in the Bank")]
    river = [f"{start} {n}." for n in range(20) for start in ("The river has a bank", "A river is a bank")]
    assert typical_words([money, river], 2, "bank") == [("money", "in"), ("a", "river")]
    assert typical_words([money], 2) == [()]
    assert typical_words([["one"], ["two"]], 2) == [(), ()]


def test_a_repeated_text_says_no_more_than_one():
    assert typical_words([["The bank lent money."] * 40, ["The river has a bank."] * 40], 3) == [(), ()]
    money = [f"The bank lent money {n}." for n in range(20)]
    river = [f"The river has a bank {n}." for n in range(20)]
    once = typical_words([money, river], 3, "bank")
    assert once == typical_words([money + money[:1] * 40, river * 3], 3, "bank")
    assert once[0] == ("lent", "money")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में", {"हिन्दी", "में"}),
        ("cafe\u0301 café", {"café"}),
        ("\u0646\u0627\u0645\u0647\u200c\u0647\u0627", {"\u0646\u0627\u0645\u0647\u0647\u0627"}),
        ("I don't, and you don’t: 'tis", {"i", "don't", "and", "you", "tis"}),  # noqa: RUF001 (as people type it)
        ("the 3rd 'quoted' so\u00adft 22 --", {"the", "3rd", "quoted", "soft"}),
        ("我喜欢北京", {"我", "喜欢", "北京"}),
        ("ฉันรักภาษาไทย", {"ฉัน", "รัก", "ภาษา", "ไทย"}),
        ("the bank's Bank", {"the"}),
    ],
)
def test_words_keep_their_marks_and_apostrophes(text, words):
    assert keyness._counted(text, frozenset({"bank"})) == words
