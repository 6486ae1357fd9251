"""Finds words by Unicode's rule, the same words whatever the model.

The word boundaries of Unicode Standard Annex 29, with ICU's dictionaries for scripts that are written
without spaces, cut a text into cells. A word is a cell that can be seen and that a wordpiece touches. So
marks, joiners and soft hyphens go with their word.

Array names end in the letters of their shape: S sentences, C characters, N words or cells.
"""

import functools
import socket
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

import icu4py
import numpy as np
import numpy.typing as npt
import regex
from icu4py.breakers import WordBreaker
from tokenizers import Encoding

from ctxbatch.arrays import Ints, Mask
from ctxbatch.errors import StoreError
from ctxbatch.text.words import LongEncoding, Pieces, Words, can_be_seen, letters_and_digits

# The version of the rule, which stores keep beside those of `versions`.
RULE = 1
# Boundaries are the same in all locales.
_LOCALE = "en"
# No word crosses it, and it changes none beside it: with "\n", a "\r" before it would be one cell.
_APART = "\v"


class UnicodeWords:
    """The rule.

    Args:
        with_punctuation: Whether a cell without a letter or digit is a word too.
    """

    def __init__(self, *, with_punctuation: bool) -> None:
        self._counting = can_be_seen() if with_punctuation else letters_and_digits()

    def words(self, pieces: Pieces, _encodings: Sequence[Encoding | LongEncoding]) -> Words:
        """Return the words of some sentences."""
        tokenised_S = np.flatnonzero(np.diff(pieces.bounds_S))
        if not len(tokenised_S):
            return Words.none()
        start_N, end_N = _cells(pieces, tokenised_S)
        counts = np.flatnonzero(pieces.hold(self._counting, start_N, end_N))
        start_N, end_N = start_N[counts], end_N[counts]
        first_N, n_pieces_N = pieces.of_spans(start_N, end_N)
        sentence_N = np.searchsorted(pieces.text_start_S, start_N, side="right") - 1
        base_N = pieces.text_start_S[sentence_N]
        words = Words.found(sentence_N, start_N - base_N, end_N - base_N, first_N, n_pieces_N)
        return words.take(n_pieces_N > 0).numbered()


def cells(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each cell of a text begins and ends: words, marks, white space."""
    start = 0
    for cell in WordBreaker(text, _LOCALE):
        yield start, start + len(cell)
        start += len(cell)


def without_marks(text: str) -> str:
    """Return the only word of a text, without the punctuation beside it; a text of several words as it is."""
    words = [text[start:end] for start, end in cells(text) if any(map(str.isalnum, text[start:end]))]
    return words[0] if len(words) == 1 else text


def versions() -> dict[str, str]:
    """Return the versions of what the rule rests on, by name."""
    return {"icu": str(icu4py.icu_version), "unicode": unicodedata.unidata_version}


def check_rule(rule: int) -> None:
    """Check that words are found by this version of the rule.

    Raises:
        StoreError: They are not.
    """
    if rule != RULE:
        raise StoreError(
            f"the store's words are those of word rule {rule}, and this program has {RULE}: install a newer "
            "ctxbatch"
        )


def check_versions(stored: Mapping[str, str]) -> None:
    """Check that this machine finds the words that a store's other shards have.

    Raises:
        StoreError: It has another ICU or Unicode; the message names the machine.
    """
    for name, version in versions().items():
        if stored.get(name) != version:
            raise StoreError(
                f"{socket.gethostname()} finds words by {name} {version}, and the store's were found by "
                f"{name} {stored.get(name)}: install the same icu4py and Python on all machines"
            )


# --- cells of many sentences ----------------------------------------------------------------------


def _cells(pieces: Pieces, chosen_S: Ints) -> tuple[Ints, Ints]:
    """Return where the cells of some sentences begin and end, in all characters."""
    kind_C = _kinds()[np.minimum(pieces.code_points_C, _N_PLAIN)]
    is_plain_S = ~np.logical_or.reduceat(kind_C & _OTHERWISE > 0, pieces.text_start_S[chosen_S])
    start_N, end_N = _cells_of(pieces, chosen_S[is_plain_S], _plain_lengths)
    if is_plain_S.all():
        return start_N, end_N
    others_start_N, others_end_N = _cells_of(pieces, chosen_S[~is_plain_S], _lengths)
    start_N = np.concatenate([start_N, others_start_N])
    order = np.argsort(start_N, kind="stable")
    return start_N[order], np.concatenate([end_N, others_end_N])[order]


def _cells_of(pieces: Pieces, chosen_S: Ints, measure: Callable[[str], Ints]) -> tuple[Ints, Ints]:
    """Return the cells of sentences, found in all of them together by their lengths."""
    texts = [pieces.texts_S[number] for number in chosen_S.tolist()]
    length_N = measure(_APART.join(texts))
    start_N = np.cumsum(length_N) - length_N
    # Where the sentences stand in the joined text, and where among all characters.
    text_start_S = pieces.text_start_S[chosen_S]
    size_S = pieces.text_start_S[chosen_S + 1] - text_start_S
    joined_S = np.cumsum(size_S + 1) - size_S - 1
    sentence_N = np.searchsorted(joined_S, start_N, side="right") - 1
    is_text_N = start_N < (joined_S + size_S)[sentence_N]
    start_N = (start_N + (text_start_S - joined_S)[sentence_N])[is_text_N]
    return start_N, start_N + length_N[is_text_N]


def _lengths(text: str) -> Ints:
    """Return the lengths of a text's cells in code points, by ICU."""
    return np.fromiter(map(len, WordBreaker(text, _LOCALE)), np.int64)


def _plain_lengths(text: str) -> Ints:
    """Return what `_lengths` does, but for white space, of a text of plain characters, ten times as fast."""
    kind_C = _kinds()[np.frombuffer(text.encode("utf-32-le"), np.uint32)]
    inside_C = kind_C & _IN_WORDS > 0
    joins_C = np.zeros(len(kind_C) + 1, np.bool_)  # each character with the one before it
    joins_C[1:-1] = inside_C[1:] & inside_C[:-1]
    for inner, outer in ((_BETWEEN_LETTERS, _LETTER), (_BETWEEN_DIGITS, _DIGIT)):
        is_outer_C = kind_C & outer > 0
        middle = 1 + np.flatnonzero((kind_C[1:-1] & inner > 0) & is_outer_C[:-2] & is_outer_C[2:])
        joins_C[middle] = joins_C[middle + 1] = True
    lengths_N: Ints = np.diff(np.flatnonzero(~joins_C))
    return lengths_N


# Plain characters are below this: those of Latin, Greek and Cyrillic with their punctuation.
_N_PLAIN = 0x2070
# Kinds of plain characters, as rules WB5 to WB13 have them; what is otherwise is for ICU.
_LETTER, _DIGIT, _BETWEEN_LETTERS, _BETWEEN_DIGITS, _IN_WORDS, _OTHERWISE = 1, 2, 4, 8, 16, 32
_PLAIN = regex.compile(r"[\p{Latin}\p{Greek}\p{Cyrillic}\p{Common}--[\p{M}\p{Cf}]]", regex.V1)


@functools.cache
def _kinds() -> npt.NDArray[np.uint8]:
    """Return the kind of each plain character, and of all others at the end.

    ICU itself is asked, because another library can know another version of Unicode.
    """
    plain = [*map(str, _PLAIN.findall("".join(map(chr, range(_N_PLAIN)))))]
    in_words = _are_words(plain, "a{}")
    kinds = np.full(_N_PLAIN + 1, _OTHERWISE, np.uint8)
    kinds[[*map(ord, plain)]] = (
        _IN_WORDS * in_words
        + _LETTER * (in_words & _are_words(plain, "{}.a"))
        + _DIGIT * (in_words & _are_words(plain, "{}.0"))
        + _BETWEEN_LETTERS * (~in_words & _are_words(plain, "a{}a"))
        + _BETWEEN_DIGITS * (~in_words & _are_words(plain, "0{}0"))
    )
    return kinds


def _are_words(characters: Sequence[str], form: str) -> Mask:
    """Return for each character whether ICU finds a single cell in a form that holds it."""
    length_N = _lengths(_APART.join(map(form.format, characters)))
    size = len(form.format("a"))
    whole_N = (np.cumsum(length_N) - length_N)[length_N == size]
    return np.isin(np.arange(len(characters)) * (size + 1), whole_N)
