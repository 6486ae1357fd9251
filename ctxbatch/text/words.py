"""Holds the wordpieces of sentences and the words found among them, with exact offsets into their sentence.

Knows no rule of what a word is. Everything per word or per piece is a numpy array; only the tokenizer's own
lists pass through Python.

Array names end in the letters of their shape: S sentences, C characters (code points) of all sentences
one after another, P wordpieces, N words.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Encoding

from ctxbatch.arrays import Ints, Mask

Indexer = npt.NDArray[np.generic] | slice
_N_CODES = sys.maxunicode + 1


@dataclass(frozen=True, slots=True)
class WordTexts:
    """The surface texts of rows as one UTF-8 string with offsets, like Arrow's strings."""

    utf8: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int32]

    def __getitem__(self, row: int) -> str:
        return self.utf8[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def as_arrow(self) -> pa.StringArray:
        """Return the texts as an Arrow array, without a copy."""
        return pa.StringArray.from_buffers(
            len(self.offsets) - 1, pa.py_buffer(self.offsets), pa.py_buffer(self.utf8)
        )

    def take(self, chosen: Indexer) -> "WordTexts":
        """Return the texts of the selected rows."""
        starts, ends = self.offsets[:-1][chosen], self.offsets[1:][chosen]
        return _gather_texts(self.utf8, starts.astype(np.int64), ends.astype(np.int64))

    def where(self, is_meant: Callable[[str], bool]) -> Mask:
        """Mark the texts of which something holds, asking once for each that is different."""
        encoded = self.as_arrow().dictionary_encode()
        meant = np.array([is_meant(text) for text in encoded.dictionary.to_pylist()], np.bool_)
        marked_N: Mask = meant[encoded.indices.to_numpy()]
        return marked_N


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a buffer: their sentence, index in it, characters and pieces (``first_N`` indexes P).

    ``token_N`` is a word's number among the words that its sentence was given, -1 if the tokenizer found it.
    """

    sentence_N: Ints
    index_N: Ints
    char_start_N: Ints
    char_end_N: Ints
    first_N: Ints
    n_pieces_N: Ints
    token_N: Ints

    @classmethod
    def none(cls) -> "Words":
        """Return no words."""
        return cls(*(np.zeros(0, np.int64) for _ in cls.__slots__))

    @classmethod
    def found(
        cls, sentence_N: Ints, char_start_N: Ints, char_end_N: Ints, first_N: Ints, n_pieces_N: Ints
    ) -> "Words":
        """Return words in the order of sentences that no source has given; they are not yet numbered."""
        not_given_N = np.full_like(sentence_N, -1)
        return cls(sentence_N, sentence_N, char_start_N, char_end_N, first_N, n_pieces_N, not_given_N)

    def __len__(self) -> int:
        return len(self.sentence_N)

    def take(self, chosen: Indexer) -> "Words":
        """Return the selected words."""
        return Words(*(getattr(self, name)[chosen] for name in self.__slots__))

    def numbered(self) -> "Words":
        """Return the words, each with its number in its sentence."""
        return replace(self, index_N=count_within(self.sentence_N))

    def without_punctuation(self, pieces: "Pieces") -> "Words":
        """Return the words with a letter or digit, numbered from 0."""
        base_N = pieces.text_start_S[self.sentence_N]
        has_letter_N = pieces.hold(letters_and_digits(), base_N + self.char_start_N, base_N + self.char_end_N)
        return self.take(has_letter_N).numbered()

    def replaced(self, sentences: Sequence[int], other: "Words") -> "Words":
        """Return these words, in some sentences the other ones."""
        mine = self.take(~np.isin(self.sentence_N, sentences))
        order = np.argsort(np.concatenate([mine.sentence_N, other.sentence_N]), kind="stable")
        both = (np.concatenate([getattr(mine, name), getattr(other, name)]) for name in self.__slots__)
        return Words(*(column[order] for column in both))

    def count_pieces(self, marked_P: Mask) -> Ints:
        """Return how many of each word's pieces are marked: shape (N,)."""
        total_P = np.concatenate([[0], np.cumsum(marked_P)])
        counts_N: Ints = total_P[self.first_N + self.n_pieces_N] - total_P[self.first_N]
        return counts_N


@dataclass(frozen=True, slots=True)
class LongEncoding:
    """The encoding of a long text, joined from parts; fields are named as in `tokenizers.Encoding`.

    ``ids`` and ``word_ids`` have shape (P,), ``offsets`` (P, 2).
    """

    ids: npt.NDArray[np.int32]
    word_ids: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, parts: Iterable[tuple[int, Encoding]]) -> "LongEncoding":
        """Join the encodings of parts of a text, each with the character where its part begins."""
        ids, words, offsets = [], [], []
        n_words = 0
        for start, encoding in parts:
            ids.append(np.array(encoding.ids, np.int32))
            words.append(np.array(encoding.word_ids, np.int64) + n_words)
            offsets.append(np.array(encoding.offsets, np.int64).reshape(-1, 2) + start)
            n_words = int(words[-1].max(initial=n_words - 1)) + 1
        return cls(np.concatenate(ids), np.concatenate(words), np.concatenate(offsets))


@dataclass(frozen=True, slots=True)
class Pieces:
    """The wordpieces of some sentences, one after another; offsets leave out white space.

    ``text`` is that of all sentences, one after another, without spaces between them.
    """

    texts_S: Sequence[str]
    text: str
    code_points_C: npt.NDArray[np.uint32]
    text_start_S: Ints
    bounds_S: Ints
    ids_P: npt.NDArray[np.int32]
    char_start_P: Ints
    char_end_P: Ints

    @classmethod
    def of(cls, texts: Sequence[str], encodings: Sequence[Encoding | LongEncoding]) -> "Pieces":
        """Flatten the tokenizer's output for some texts."""
        chain = itertools.chain.from_iterable
        bounds_S = np.concatenate([[0], np.cumsum([len(encoding) for encoding in encodings], dtype=np.int64)])
        n_pieces = int(bounds_S[-1])
        ids_P = np.fromiter(chain(e.ids for e in encodings), np.int32, n_pieces)
        offsets = np.fromiter(chain(chain(e.offsets for e in encodings)), np.int64, 2 * n_pieces)
        text = "".join(texts)
        code_points_C = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        text_start_S = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
        base_P = np.repeat(text_start_S[:-1], np.diff(bounds_S))
        start_P, end_P = _strip(code_points_C, offsets[::2] + base_P, offsets[1::2] + base_P)
        return cls(
            texts, text, code_points_C, text_start_S, bounds_S, ids_P, start_P - base_P, end_P - base_P
        )

    @property
    def sentence_P(self) -> Ints:
        """The sentence of each piece."""
        return np.repeat(np.arange(len(self.texts_S)), np.diff(self.bounds_S))

    @property
    def base_P(self) -> Ints:
        """Where in ``code_points_C`` the sentence of each piece begins."""
        return np.repeat(self.text_start_S[:-1], np.diff(self.bounds_S))

    def of_spans(self, start_N: Ints, end_N: Ints) -> tuple[Ints, Ints]:
        """Return the first piece and the number of pieces of spans of characters.

        A piece belongs to the span in which it begins. A span in which none begins shares the piece that
        covers its first character; without one, it has no pieces.

        Args:
            start_N: Where each span begins, in ``code_points_C``; spans do not cross sentences.
            end_N: Where it ends.
        """
        solid = np.flatnonzero(self.char_end_P > self.char_start_P)
        if not len(solid):
            return np.zeros_like(start_N), np.zeros_like(start_N)
        base_P = self.base_P
        # Where a tokenizer changes the order of marks, a piece can begin before the one in front of it.
        start_P = np.maximum.accumulate((self.char_start_P + base_P)[solid])
        end_P = (self.char_end_P + base_P)[solid]
        from_N = np.searchsorted(start_P, start_N, side="left")
        to_N = np.searchsorted(start_P, end_N, side="left")
        shared_N = np.maximum(from_N - 1, 0)
        is_shared_N = (from_N == to_N) & (start_P[shared_N] < start_N) & (end_P[shared_N] > start_N)
        first_N = solid[np.where(is_shared_N, shared_N, np.minimum(from_N, len(solid) - 1))]
        last_N = solid[np.where(is_shared_N, shared_N, np.maximum(to_N - 1, 0))]
        return first_N, np.where(is_shared_N | (from_N < to_N), last_N - first_N + 1, 0)

    def given(self, given: Mapping[int, Sequence[tuple[int, int]]]) -> Words:
        """Return the words that some sentences are given by the places of their characters.

        A given word has every piece that touches it, also one that touches the next word too. Without a
        piece, it has ``n_pieces_N`` 0.
        """
        sentence_N = np.repeat(np.array([*given], np.int64), [len(places) for places in given.values()])
        places = np.array([place for each in given.values() for place in each], np.int64).reshape(-1, 2)
        base_P, base_N = self.base_P, self.text_start_S[sentence_N]
        first_N = np.searchsorted(self.char_end_P + base_P, places[:, 0] + base_N, side="right")
        end_N = np.searchsorted(self.char_start_P + base_P, places[:, 1] + base_N, side="left")
        token_N = count_within(sentence_N)
        n_pieces_N = np.maximum(end_N - first_N, 0)
        return Words(sentence_N, token_N, places[:, 0], places[:, 1], first_N, n_pieces_N, token_N)

    def hold(self, table: Mask, start_N: Ints, end_N: Ints) -> Mask:
        """Mark the spans that hold a character of a table: shape (N,).

        Args:
            table: Whether each code point is meant.
            start_N: Where each span begins, in ``code_points_C``.
            end_N: Where it ends.
        """
        count_C = cumulated(table[self.code_points_C])
        marked_N: Mask = count_C[end_N] > count_C[start_N]
        return marked_N

    def count(self, substrings: Iterable[str]) -> int:
        """Return how often the sentences that have pieces hold some strings."""
        found = [substring for substring in substrings if substring in self.text]
        tokenised = np.flatnonzero(np.diff(self.bounds_S)).tolist() if found else []
        return sum(self.texts_S[number].count(each) for each in found for number in tokenised)

    def texts(self, sentence_N: Ints, start_N: Ints, end_N: Ints) -> WordTexts:
        """Return the text of sentence ``sentence_N`` between ``start_N`` and ``end_N``, for every entry."""
        utf8 = np.frombuffer(self.text.encode(), np.uint8)
        cp = self.code_points_C
        width_C = 1 + (cp >= 0x80).view(np.uint8) + (cp >= 0x800) + (cp >= 0x10000)
        byte_C = cumulated(width_C)
        base_N = self.text_start_S[sentence_N]
        return _gather_texts(utf8, byte_C[base_N + start_N], byte_C[base_N + end_N])


# --- small tools -------------------------------------------------------------------------------


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return the concatenation of ``range(start, start + length)`` over all starts and lengths."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def cumulated(numbers: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return the sum of the first c numbers, for c from 0 to all; no buffer holds 2 GB of text."""
    sums = np.zeros(len(numbers) + 1, np.int32)
    np.cumsum(numbers, out=sums[1:])
    return sums


def _gather_texts(utf8: npt.NDArray[np.uint8], starts: Ints, ends: Ints) -> WordTexts:
    lengths = ends - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return WordTexts(utf8[ranges(starts, lengths)], offsets)


def count_within(groups: Ints) -> Ints:
    """Return 0, 1, 2, … within each run of equal neighbours."""
    if not len(groups):
        return groups
    first = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    return np.arange(len(groups)) - np.repeat(first, np.diff(np.append(first, len(groups))))


@functools.cache
def letters_and_digits() -> Mask:
    """Mark the code points that are letters or digits."""
    return np.strings.isalnum(_every_character())


def can_be_seen(highest: int = sys.maxunicode) -> Mask:
    """Mark the code points that are neither spaces nor controls, at least up to the highest that is asked."""
    return _can_be_seen(highest.bit_length())


@functools.cache
def _can_be_seen(bits: int) -> Mask:
    size = min(1 << bits, _N_CODES)
    seen = np.fromiter(map(str.isprintable, map(chr, range(size))), np.bool_, size)
    seen[ord(" ") : ord(" ") + 1] = False
    return seen


@functools.cache
def _marks_white_space() -> Mask:
    """Mark white space as the tokenizers library does: ``str.isspace`` without four control characters."""
    marks = np.strings.isspace(_every_character())
    marks[0x1C:0x20] = False
    return marks


def _every_character() -> npt.NDArray[np.str_]:
    return np.arange(_N_CODES, dtype=np.uint32).view("U1")


def _strip(code_points: npt.NDArray[np.uint32], start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Move offsets inward past white space; an empty span stays where it began."""
    n = len(code_points)
    if not n:
        return start, end
    space_C = _marks_white_space()[code_points]
    if not (space_C[np.minimum(start, n - 1)].any() or space_C[np.clip(end - 1, 0, n - 1)].any()):
        return start, end
    here = np.arange(n, dtype=np.int32)
    next_solid = np.minimum.accumulate(np.where(space_C, n, here)[::-1])[::-1]
    last_solid = np.maximum.accumulate(np.where(space_C, -1, here))
    inside = end > start
    safe_start, safe_last = np.minimum(start, n - 1), np.clip(end - 1, 0, n - 1)
    new_start = np.where(inside, next_solid[safe_start], start)
    new_end = np.where(inside, last_solid[safe_last] + 1, start)
    solid = new_end > new_start
    return np.where(solid, new_start, start), np.where(solid, new_end, start)
