"""Finds words typical of some texts compared with others, by log-odds with a prior.

The measure is that of Monroe, Colaresi and Quinn, "Fightin' Words" (2008), equations 16 and 22: the
difference of two log-odds, divided by its standard deviation and smoothed by the frequency of the word in all
texts.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from ctxbatch.text.unicode_words import cells
from ctxbatch.text.word_key import word_key

# The score, in standard deviations, that a typical word must reach; by chance, one word in forty reaches it.
_CLEAR = 1.96
# In how many different texts of its group a typical word must occur: every text has words of its own.
_FEWEST = 2
# The weight of the prior of all words together, in occurrences.
_PRIOR = 100.0


def typical_words(groups: Sequence[Sequence[str]], n: int, without: str = "") -> list[tuple[str, ...]]:
    """Return up to n words typical of each group of texts compared with the others, most typical first.

    Words are the keys of words with a letter, found as those of stores are. A word counts once a text, and a
    text once a group. With a single group, or a single word, no word is typical.

    Args:
        groups: The texts of each group.
        n: The largest number of words to return.
        without: A word, or several, to leave out, together with contractions.
    """
    left_out = frozenset(_words(without))
    counts = [Counter(word for text in set(texts) for word in _counted(text, left_out)) for texts in groups]
    every: Counter[str] = sum(counts, Counter())
    return [_typical(own, every, n) for own in counts]


def _counted(text: str, without: frozenset[str]) -> set[str]:
    return {word for word in _words(text) if without.isdisjoint((word, *word.split("'")))}


def _words(text: str) -> Iterator[str]:
    for start, end in cells(text):
        word = word_key(text[start:end])
        if any(map(str.isalpha, word)):
            yield word


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
