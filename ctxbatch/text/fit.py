"""Measures how well a model's vocabulary fits a text.

Array names end in the letters of their shape: C characters of all sentences one after another, P wordpieces,
N words.
"""

import functools
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import regex

from ctxbatch.arrays import Ints, Mask
from ctxbatch.text.words import Pieces, Words, can_be_seen, cumulated

# A word of more wordpieces than this is spelled rather than known.
FEW_PIECES = 6
# A model fits a text if no more than this share of it does not.
_MUCH = 0.05
# Less is shown as 0.0 %.
_SHOWN = 0.0005
# What Unicode's names call scripts that have another name.
_SCRIPTS = {"Cjk": "Han", "Ideographic": "Han", "Fullwidth": "Latin", "Halfwidth": "Katakana"}


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
        scripts: For each script, the words in it that are unknown or long, or have bare characters; by their
            first letter.
    """

    unknown_pieces: int = 0
    unknown_words: int = 0
    long_words: int = 0
    characters: int = 0
    bare_characters: int = 0
    control_tokens: int = 0
    scripts: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """All counts by name, without the scripts."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "scripts"}


@dataclass(frozen=True, slots=True)
class FitShares:
    """How much of a text does not fit a model's vocabulary: shares from 0 to 1.

    ``unknown_pieces`` is that of wordpieces, ``long_words`` of words, ``bare_characters`` of characters; for
    what they are, see `Fit`. ``script`` is that of most words that do not fit, ``None`` if all do.
    """

    unknown_pieces: float
    long_words: float
    bare_characters: float
    script: str | None

    @classmethod
    def of(cls, counts: Mapping[str, float], scripts: Mapping[str, float]) -> "FitShares":
        """Return the shares of what is counted, by the names of `Fit`, among ``words`` and ``wordpieces``."""
        most = max(scripts, key=lambda script: (scripts[script], script), default=None)
        return cls(
            _share(counts["unknown_pieces"], counts["wordpieces"]),
            _share(counts["long_words"], counts["words"]),
            _share(counts["bare_characters"], counts["characters"]),
            most,
        )

    def __str__(self) -> str:
        return ", ".join(self._parts(_SHOWN)) or "the model knows the text"

    def warning(self, model: str) -> str | None:
        """Return what to say of a model that does not fit the text; ``None`` if it does."""
        if not (parts := self._parts(_MUCH)):
            return None
        return (
            f"{model} does not fit this text, mostly {self.script or 'symbols'}: {', '.join(parts)}; take a "
            "--model that was trained on this language, or a multilingual one"
        )

    def _parts(self, above: float) -> list[str]:
        shares = {
            "of wordpieces are unknown": self.unknown_pieces,
            f"of words take more than {FEW_PIECES} wordpieces": self.long_words,
            "of characters are in no wordpiece": self.bare_characters,
        }
        return [f"{share:.1%} {what}" for what, share in shares.items() if share > above]


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def measure(pieces: Pieces, words: Words, read_S: Mask, unknown_P: Mask, control_tokens: int) -> Fit:
    """Return how some sentences fit a vocabulary.

    Args:
        pieces: Their wordpieces.
        words: Their words.
        read_S: Which sentences are tokenised.
        unknown_P: Which pieces stand for unknown text.
        control_tokens: Counted by who knows them.
    """
    seen_C = can_be_seen(int(pieces.code_points_C.max(initial=0)))[pieces.code_points_C]
    if not read_S.all():
        seen_C = seen_C & np.repeat(read_S, np.diff(pieces.text_start_S))
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
        if (script := _script(chr(code_point))) is not None:
            scripts[script] += int(count)
    return dict(sorted(scripts.items()))


@functools.lru_cache(maxsize=4096)
def _script(character: str) -> str | None:
    """Return the script of a letter; ``None`` for what is no letter, or of no script whose name it bears."""
    name = unicodedata.name(character, "").split(" ")[0].title()
    if not name.isalpha() or not character.isalpha():
        return None
    script = _SCRIPTS.get(name, name)
    try:
        return script if regex.match(rf"\p{{Script={script}}}", character) else None
    except regex.error:  # no script has this name
        return None
