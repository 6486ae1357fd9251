"""Measures how well a model's vocabulary fits a text.

Array names end in the letters of their shape: C characters of all sentences one after another, P wordpieces,
N words.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ctxbatch.arrays import Ints, Mask
from ctxbatch.text.words import Pieces, Words, can_be_seen, cumulated

# A word of more wordpieces than this is spelled rather than known.
FEW_PIECES = 6
# What Unicode's names call scripts that have another name.
_SCRIPTS = {"CJK": "Han", "FULLWIDTH": "Latin", "HALFWIDTH": "Katakana"}


@dataclass(frozen=True, slots=True)
class Fit:
    """What in some sentences does not fit a model's vocabulary.

    Args:
        unknown_pieces: Wordpieces that are the model's token for unknown text.
        unknown_words: Words with such a piece.
        long_words: Words of more than `FEW_PIECES` wordpieces.
        characters: Characters that can be seen.
        bare_characters: Those of them that are in no wordpiece: the tokenizer drops them.
        control_tokens: Places where the text spells a control token of the model, such as ``[SEP]``.
        scripts: For each script, the words in it that are unknown or long, or have bare characters.
    """

    unknown_pieces: int = 0
    unknown_words: int = 0
    long_words: int = 0
    characters: int = 0
    bare_characters: int = 0
    control_tokens: int = 0
    scripts: Mapping[str, int] = field(default_factory=dict)


def measure(pieces: Pieces, words: Words, unknown_P: Mask, control_tokens: int) -> Fit:
    """Return how some sentences fit a vocabulary.

    Args:
        pieces: Their wordpieces.
        words: Their words.
        unknown_P: Which pieces stand for unknown text.
        control_tokens: Counted by who knows them.
    """
    seen_C = can_be_seen(int(pieces.code_points_C.max(initial=0)))[pieces.code_points_C]
    bare_C = seen_C & ~_covered(pieces)
    unknown_N = words.count_pieces(unknown_P) > 0
    long_N = words.n_pieces_N > FEW_PIECES
    start_N = pieces.text_start_S[words.sentence_N] + words.char_start_N
    bare_before_C = cumulated(bare_C)
    n_bare_N = bare_before_C[start_N + words.char_end_N - words.char_start_N] - bare_before_C[start_N]
    unfit_N = unknown_N | long_N | (n_bare_N > 0)
    return Fit(
        unknown_pieces=int(np.count_nonzero(unknown_P)),
        unknown_words=int(np.count_nonzero(unknown_N)),
        long_words=int(np.count_nonzero(long_N)),
        characters=int(np.count_nonzero(seen_C)),
        bare_characters=int(bare_before_C[-1]),
        control_tokens=control_tokens,
        scripts=_scripts(pieces.code_points_C[start_N[unfit_N]]),
    )


def _covered(pieces: Pieces) -> Mask:
    """Mark the characters that a wordpiece covers: shape (C,)."""
    n, base_P = len(pieces.code_points_C) + 1, pieces.base_P
    begins_C = np.bincount(pieces.char_start_P + base_P, minlength=n)
    ends_C = np.bincount(pieces.char_end_P + base_P, minlength=n)
    covered_C: Mask = np.cumsum(begins_C - ends_C)[:-1] > 0
    return covered_C


def _scripts(first_N: Ints) -> dict[str, int]:
    """Return the scripts of words by their first characters."""
    scripts: Counter[str] = Counter()
    for code_point, count in zip(*np.unique(first_N, return_counts=True), strict=True):
        name = unicodedata.name(chr(code_point), "")
        if name and chr(code_point).isalpha():
            script = name.split()[0]
            scripts[_SCRIPTS.get(script, script.title())] += int(count)
    return dict(sorted(scripts.items()))
