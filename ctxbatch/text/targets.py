"""Finds the words that are asked for, as people write them: ``don't``, ``well-known``, ``New York``.

What is asked for is found where it stands between two word boundaries, in any spelling of one key. If it
spans several words, these are one word where it stands. Of two that overlap, it is the one that begins first;
of several that begin together, the longest. Array names end in the letters of their shape: N words, T phrases
that are found.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import regex

from ctxbatch.arrays import Ints, Mask
from ctxbatch.corpus.units import Tokens
from ctxbatch.text.unicode_words import cells
from ctxbatch.text.word_key import folded, word_key
from ctxbatch.text.words import Pieces, Words, WordTexts

# No word ends between two of these. ICU cuts between a Korean syllable and any other letter.
_INSIDE = (
    r"[[\p{Word_Break=ALetter}\p{Word_Break=Hebrew_Letter}\p{Word_Break=Numeric}"
    r"\p{Word_Break=ExtendNumLet}]--[\uac00-\ud7a3]]"
)
_RUN = regex.compile(rf"{_INSIDE}[{_INSIDE}\p{{Word_Break=Extend}}]*", regex.V1)
# Written without spaces: what is one word alone can be several words in a text.
_WITHOUT_SPACES = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Line_Break=Complex_Context}]", regex.V1)
# Parts words, and is seen no more than what their keys leave out.
_ZERO_WIDTH_SPACE = "\u200b"
# A mark that is a letter when casefolded, so that runs of letters are other ones.
_IOTA_MARK = "\u0345"
# In no key.
_BARRIER = "\n"
# A longer beginning of a phrase is not looked up.
_LOOKED_UP = 32
Place = tuple[int, int]


class Targets:
    """The words whose occurrences are wanted.

    Args:
        keys: The keys of the words, as `ctxbatch.text.word_key.word_key` returns them.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = frozenset(keys)
        # One run of letters of each key, and the keys that have none, by their first characters.
        self._runs: set[str] = set()
        self._others: dict[str, list[str]] = defaultdict(list)
        for key in self._keys:
            if runs := _RUN.findall(key):
                self._runs.add(max(runs, key=len))
            else:
                self._others[key[0]].append(key)
        self._beginnings = _beginnings(self._keys)

    def may_be_in(self, text: str, tokens: Tokens | None = None) -> bool:
        """Return True if a sentence may hold one of the words, judging by its characters alone.

        ``tokens`` are its words, where the source says what they are.
        """
        if tokens is not None:
            keys = (word_key(text[start:end]) for start, end in tokens.places)
            return any(key[:_LOOKED_UP] in self._beginnings for key in keys)
        if _IOTA_MARK in text or self._is_in(folded(text)):
            return True
        return _ZERO_WIDTH_SPACE in text and self._is_in(folded(text.replace(_ZERO_WIDTH_SPACE, " ")))

    def _is_in(self, text: str) -> bool:
        if not self._runs.isdisjoint(_RUN.findall(text)):
            return True
        if not self._others:
            return False
        text = " ".join(text.split())
        return any(key in text for first in self._others.keys() & {*text} for key in self._others[first])

    def among(self, texts: WordTexts) -> Mask:
        """Mark the wanted words by their surface texts: shape (N,)."""
        return texts.where(lambda text: word_key(text) in self._keys)


class Phrases:
    """Those of the wanted words that can span several words.

    Args:
        keys: The keys of all that are wanted.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = frozenset(keys)
        self._can_span = any(map(_can_span_words, self._keys))
        self._longest = max(map(len, self._keys), default=0)
        self._beginnings = _beginnings(self._keys)

    def join(self, words: Words, pieces: Pieces, given: Mapping[int, Tokens]) -> tuple[Words, Ints]:
        """Return words with those of each phrase as one.

        Args:
            words: The words of some sentences.
            pieces: Their wordpieces.
            given: The words of sentences whose source says what they are.

        Returns:
            The words, and for each the first of ``words`` that it is made of: shape (N,). A phrase has the
            number of this one in its sentence.
        """
        every_N = np.arange(len(words))
        if not self._keys:
            return words, every_N
        found = [
            (number, *place)
            for number in np.unique(words.sentence_N).tolist()
            # Words that a source gives, as "do" and "n't", can be any word together.
            if self._can_span or number in given
            for place in self._places(pieces.texts_S[number], given.get(number))
        ]
        if not found:
            return words, every_N
        sentence_T, start_T, end_T = np.array(found, np.int64).reshape(-1, 3).T
        start_N = pieces.text_start_S[words.sentence_N] + words.char_start_N
        base_T = pieces.text_start_S[sentence_T]
        from_T = np.searchsorted(start_N, base_T + start_T)
        to_T = np.searchsorted(start_N, base_T + end_T)
        first_T, n_pieces_T = pieces.of_spans(base_T + start_T, base_T + end_T)
        held = np.flatnonzero((from_T < to_T) & (n_pieces_T > 0))
        from_T, to_T = from_T[held], to_T[held]
        changed = Words(*(getattr(words, name).copy() for name in Words.__slots__))
        changed.char_start_N[from_T], changed.char_end_N[from_T] = start_T[held], end_T[held]
        changed.first_N[from_T], changed.n_pieces_N[from_T] = first_T[held], n_pieces_T[held]
        changed.token_N[from_T] = -1
        ends_N = np.zeros(len(words) + 1, np.int64)
        ends_N[from_T + 1] += 1
        ends_N[to_T] -= 1
        kept = np.flatnonzero(np.cumsum(ends_N)[:-1] == 0)
        return changed.take(kept), every_N[kept]

    def _places(self, text: str, tokens: Tokens | None) -> Iterator[Place]:
        """Yield where phrases stand in a sentence, from left to right."""
        if tokens is not None and tokens.marked:  # they are what is wanted, not the text
            return
        keys, places = _keyed(text, [*cells(text)] if tokens is None else tokens.places)
        begin = 0
        while begin < len(keys):
            end = self._end_of_longest(keys, begin)
            if end > begin + 1:
                yield places[begin][0], places[end - 1][1]
            begin = max(end, begin + 1)

    def _end_of_longest(self, keys: Sequence[str], begin: int) -> int:
        """Return the end of the longest phrase that begins at a cell; ``begin`` if none does."""
        longest, key = begin, ""
        if not keys[begin].strip():
            return begin
        for number in range(begin, len(keys)):
            key += keys[number]
            if len(key) > self._longest or key[:_LOOKED_UP] not in self._beginnings:
                break
            if key in self._keys and keys[number]:
                longest = number + 1
        return longest


def _keyed(text: str, spans: Sequence[Place]) -> tuple[list[str], list[Place]]:
    """Return the keys of the stretches of a text, and their places; each run of white space is one space."""
    keys: list[str] = []
    places: list[Place] = []
    in_space = False
    for place, key in _stretches(text, spans):
        if in_space:
            key = key.removeprefix(" ")
        if key:
            in_space = key.endswith(" ")
        keys.append(key)
        places.append(place)
    return keys, places


def _stretches(text: str, spans: Sequence[Place]) -> Iterator[tuple[Place, str]]:
    """Yield the places and keys of spans and of what is between them."""
    before = 0
    for start, end in spans:
        if between := text[before:start]:
            yield (before, start), _BARRIER if between.strip() else " "
        key = word_key(text[start:end])
        # Marks and joiners belong to the white space that they follow.
        yield (start, end), f" {key}" if text[start].isspace() else key
        before = end


def _can_span_words(key: str) -> bool:
    return len([*cells(key)]) > 1 or _WITHOUT_SPACES.search(key) is not None


def _beginnings(keys: frozenset[str]) -> frozenset[str]:
    """Return the beginnings of keys that are looked up."""
    return frozenset(key[:size] for key in keys for size in range(1, min(len(key), _LOOKED_UP) + 1))
