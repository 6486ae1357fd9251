"""Which words are typical of some texts against others: log-odds with a prior.

The measure is that of Monroe, Colaresi and Quinn, "Fightin' Words" (2008), equations 16 and 22: the
difference of two log-odds over its standard deviation, smoothed by how frequent a word is in all texts.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

# Standard deviations that a word has to be more frequent by; chance alone reaches this once in forty words.
_CLEAR = 1.96
# Different texts of a group that it has to be in: every text has words of its own.
_FEWEST = 2
# Occurrences that the prior of all words together weighs as.
_PRIOR = 100.0
# Letters with their marks: vowel signs, accents by themselves, joiners; apostrophes between letters.
_LETTERS = r"\p{L}[\p{L}\p{M}\p{Join_Control}]*"
_WORD = regex.compile(rf"{_LETTERS}(?:'{_LETTERS})*")


def typical_words(groups: Sequence[Sequence[str]], n: int, without: str = "") -> list[tuple[str, ...]]:
    """Name up to n words typical of each group of texts against the others, most typical first.

    Words are casefolded runs of letters, with apostrophes between them. They count once a text, and a text
    once however often a group repeats it. With a single group, or a single word, nothing is typical.

    Args:
        groups: The texts of each group.
        n: How many words.
        without: A word that is not named, casefolded; nor are contractions of it.
    """
    left_out = _plain(without)
    counts = [Counter(word for text in set(texts) for word in _words(text, left_out)) for texts in groups]
    every: Counter[str] = sum(counts, Counter())
    return [_typical(own, every, n) for own in counts]


def _words(text: str, without: str) -> set[str]:
    words = _WORD.findall(_plain(text.casefold()))
    return {word for word in words if without not in (word, *word.split("'"))}


def _plain(text: str) -> str:
    """One spelling of letters with accents, and of apostrophes."""
    return unicodedata.normalize("NFC", text).replace("’", "'")  # noqa: RUF001 (the other apostrophe)


def _typical(own: Counter[str], every: Counter[str], n: int) -> tuple[str, ...]:
    own_total, total = own.total(), every.total()
    if own_total == total or len(every) == 1:  # no other texts, or no other words, to be more frequent than
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
