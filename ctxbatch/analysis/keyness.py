"""Finds words typical of some texts compared with others, by log-odds with a prior.

The measure is that of Monroe, Colaresi and Quinn, "Fightin' Words" (2008), equations 16 and 22: the
difference of two log-odds, divided by its standard deviation and smoothed by the frequency of the word in all
texts.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

# The score, in standard deviations, that a typical word must reach; by chance, one word in forty reaches it.
_CLEAR = 1.96
# In how many different texts of its group a typical word must occur: every text has words of its own.
_FEWEST = 2
# The weight of the prior of all words together, in occurrences.
_PRIOR = 100.0
# Letters with vowel signs, separate accents and joiners; apostrophes only between letters.
_LETTERS = r"\p{L}[\p{L}\p{M}\p{Join_Control}]*"
_WORD = regex.compile(rf"{_LETTERS}(?:'{_LETTERS})*")


def typical_words(groups: Sequence[Sequence[str]], n: int, without: str = "") -> list[tuple[str, ...]]:
    """Return up to n words typical of each group of texts compared with the others, most typical first.

    Words are casefolded runs of letters, with apostrophes between them. A word counts once a text, and a text
    once a group. With a single group, or a single word, no word is typical.

    Args:
        groups: The texts of each group.
        n: The largest number of words to return.
        without: A casefolded word to leave out, together with its contractions.
    """
    left_out = _plain(without)
    counts = [Counter(word for text in set(texts) for word in _words(text, left_out)) for texts in groups]
    every: Counter[str] = sum(counts, Counter())
    return [_typical(own, every, n) for own in counts]


def _words(text: str, without: str) -> set[str]:
    words = _WORD.findall(_plain(text.casefold()))
    return {word for word in words if without not in (word, *word.split("'"))}


def _plain(text: str) -> str:
    """Return a text with one spelling of accented letters and of apostrophes."""
    return unicodedata.normalize("NFC", text).replace("’", "'")  # noqa: RUF001 (the other apostrophe)


def _typical(own: Counter[str], every: Counter[str], n: int) -> tuple[str, ...]:
    own_total, total = own.total(), every.total()
    if own_total == total or len(every) == 1:  # no other texts, or no other words, to compare with
        return ()
    scored = []
    for word, count in own.items():
        prior = _PRIOR * every[word] / total
        here, there = count + prior, every[word] - count + prior
        odds_here = math.log(here / (own_total + _PRIOR - here))
        odds_there = math.log(there / (total - own_total + _PRIOR - there))
        score = (odds_here - odds_there) / math.sqrt(1 / here + 1 / there)
        if count >= _FEWEST and score >= _CLEAR:
            scored.append((-score, word))
    return tuple(word for _, word in sorted(scored)[:n])
