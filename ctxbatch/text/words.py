"""Groups wordpieces into words, with exact offsets into their sentence.

Owns the word rules for every kind of tokenizer. Everything per word or per piece is a numpy array; only
the tokenizer's own lists pass through Python.

Array names end in the letters of their shape: S sentences, C characters (code points) of all sentences
one after another, P wordpieces, N words.
"""

import functools
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Encoding, Tokenizer
from tokenizers.pre_tokenizers import BertPreTokenizer

Ints = npt.NDArray[np.int64]
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

    def take(self, chosen: Indexer) -> "Words":
        """Return the selected words."""
        return Words(*(getattr(self, name)[chosen] for name in self.__slots__))

    def without_punctuation(self, pieces: "Pieces", spared_S: npt.NDArray[np.bool_]) -> "Words":
        """Return the words with a letter or digit, and all words of spared sentences, numbered from 0."""
        letters_C = pieces.cumulated(_marks_letters_and_digits())
        base_N = pieces.text_start_S[self.sentence_N]
        count_N = letters_C[base_N + self.char_end_N] - letters_C[base_N + self.char_start_N]
        words = self.take((count_N > 0) | spared_S[self.sentence_N])
        return replace(words, index_N=count_within(words.sentence_N))

    def count_holding(self, marked_P: npt.NDArray[np.bool_]) -> int:
        """Return the number of words that hold a marked piece."""
        total_P = np.concatenate([[0], np.cumsum(marked_P)])
        return int(np.count_nonzero(total_P[self.first_N + self.n_pieces_N] - total_P[self.first_N]))


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
    """The wordpieces of some sentences, one after another; offsets leave out white space."""

    texts_S: Sequence[str]
    code_points_C: npt.NDArray[np.uint32]
    text_start_S: Ints
    bounds_S: Ints
    ids_P: npt.NDArray[np.int32]
    word_P: Ints
    char_start_P: Ints
    char_end_P: Ints

    @classmethod
    def of(cls, texts: Sequence[str], encodings: Sequence[Encoding | LongEncoding]) -> "Pieces":
        """Flatten the tokenizer's output for some texts."""
        chain = itertools.chain.from_iterable
        bounds_S = np.concatenate([[0], np.cumsum([len(encoding) for encoding in encodings], dtype=np.int64)])
        n_pieces = int(bounds_S[-1])
        ids_P = np.fromiter(chain(e.ids for e in encodings), np.int32, n_pieces)
        word_P = np.fromiter(chain(e.word_ids for e in encodings), np.int64, n_pieces)
        offsets = np.fromiter(chain(chain(e.offsets for e in encodings)), np.int64, 2 * n_pieces)
        code_points_C = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        text_start_S = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
        base_P = np.repeat(text_start_S[:-1], np.diff(bounds_S))
        start_P, end_P = _strip(code_points_C, offsets[::2] + base_P, offsets[1::2] + base_P)
        return cls(
            texts, code_points_C, text_start_S, bounds_S, ids_P, word_P, start_P - base_P, end_P - base_P
        )

    def words(self, regroup: bool) -> Words:
        """Group the pieces into words; ``regroup`` if the tokenizer's own words are not words."""
        sentence_P = np.repeat(np.arange(len(self.texts_S)), np.diff(self.bounds_S))
        word_P = self._bert_words() if regroup else self.word_P
        starts_P = np.ones(len(word_P), bool)
        starts_P[1:] = (word_P[1:] != word_P[:-1]) | (sentence_P[1:] != sentence_P[:-1])
        first_N = np.flatnonzero(starts_P)
        if not len(first_N):
            return Words(*(np.zeros(0, np.int64) for _ in range(7)))
        n_pieces_N = np.diff(np.append(first_N, len(word_P)))
        # A piece of nothing but white space is part of the word for pooling, but not of its text.
        solid_P = self.char_end_P > self.char_start_P
        far = np.iinfo(np.int64).max
        start_N = np.minimum.reduceat(np.where(solid_P, self.char_start_P, far), first_N)
        end_N = np.maximum.reduceat(np.where(solid_P, self.char_end_P, -1), first_N)
        sentence_N = sentence_P[first_N]
        token_N = np.full_like(first_N, -1)
        words = Words(sentence_N, sentence_N, start_N, end_N, first_N, n_pieces_N, token_N)
        words = words.take(end_N > start_N)
        return replace(words, index_N=count_within(words.sentence_N))

    def with_given(self, words: Words, given: Mapping[int, Sequence[tuple[int, int]]]) -> Words:
        """Return the words, in some sentences those given by the places of their characters.

        A given word has every piece that touches it, also one that touches the next word too. Without a
        piece, it has ``n_pieces_N`` 0.
        """
        sentence_N = np.repeat(np.array([*given], np.int64), [len(places) for places in given.values()])
        places = np.array([place for each in given.values() for place in each], np.int64).reshape(-1, 2)
        base_P = np.repeat(self.text_start_S[:-1], np.diff(self.bounds_S))
        base_N = self.text_start_S[sentence_N]
        first_N = np.searchsorted(self.char_end_P + base_P, places[:, 0] + base_N, side="right")
        end_N = np.searchsorted(self.char_start_P + base_P, places[:, 1] + base_N, side="left")
        token_N = count_within(sentence_N)
        n_pieces_N = np.maximum(end_N - first_N, 0)
        found = Words(sentence_N, token_N, places[:, 0], places[:, 1], first_N, n_pieces_N, token_N)
        found_by_tokenizer = words.take(~np.isin(words.sentence_N, [*given]))
        order = np.argsort(np.concatenate([found_by_tokenizer.sentence_N, sentence_N]), kind="stable")
        both = (
            np.concatenate([getattr(found_by_tokenizer, name), getattr(found, name)])
            for name in Words.__slots__
        )
        return Words(*(column[order] for column in both))

    def _bert_words(self) -> Ints:
        """Return, per piece, the number of BERT's pre-tokenizer's word in which it starts; -1 for space."""
        split = BertPreTokenizer().pre_tokenize_str
        words = [np.zeros(0, np.int64)]
        for number, text in enumerate(self.texts_S):
            word_starts = [start for _, (start, _) in split(text)]
            starts_P = self.char_start_P[self.bounds_S[number] : self.bounds_S[number + 1]]
            words.append(np.searchsorted(word_starts, starts_P, side="right") - 1)
        return np.where(self.char_end_P > self.char_start_P, np.concatenate(words), -1)

    def cumulated(self, table: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Count the marked ones of the first c characters, for c from 0 to all: shape (C + 1,)."""
        return _cumulated(table[self.code_points_C])

    def texts(self, sentence_N: Ints, start_N: Ints, end_N: Ints) -> WordTexts:
        """Return the text of sentence ``sentence_N`` between ``start_N`` and ``end_N``, for every entry."""
        utf8 = np.frombuffer("".join(self.texts_S).encode(), np.uint8)
        cp = self.code_points_C
        width_C = 1 + (cp >= 0x80).view(np.uint8) + (cp >= 0x800) + (cp >= 0x10000)
        byte_C = _cumulated(width_C)
        base_N = self.text_start_S[sentence_N]
        return _gather_texts(utf8, byte_C[base_N + start_N], byte_C[base_N + end_N])


# --- small tools -------------------------------------------------------------------------------


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return the concatenation of ``range(start, start + length)`` over all starts and lengths."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _cumulated(numbers: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
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
def _marks_letters_and_digits() -> npt.NDArray[np.bool_]:
    return np.strings.isalnum(_every_character())


@functools.cache
def _marks_white_space() -> npt.NDArray[np.bool_]:
    """Mark white space as the tokenizers library does: ``str.isspace`` without four control characters."""
    marks = np.strings.isspace(_every_character())
    marks[0x1C:0x20] = False
    return marks


def _every_character() -> npt.NDArray[np.str_]:
    return np.arange(_N_CODES, dtype=np.uint32).view("U1")


def _strip(code_points: npt.NDArray[np.uint32], start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Move offsets inward past white space; an empty span stays where it began."""
    space_C = _marks_white_space()[code_points]
    if not space_C.any():
        return start, end
    n = len(code_points)
    here = np.arange(n, dtype=np.int32)
    next_solid = np.minimum.accumulate(np.where(space_C, n, here)[::-1])[::-1]
    last_solid = np.maximum.accumulate(np.where(space_C, -1, here))
    inside = end > start
    safe_start, safe_last = np.minimum(start, n - 1), np.clip(end - 1, 0, n - 1)
    new_start = np.where(inside, next_solid[safe_start], start)
    new_end = np.where(inside, last_solid[safe_last] + 1, start)
    solid = new_end > new_start
    return np.where(solid, new_start, start), np.where(solid, new_end, start)


def splits_on_space_only(tokenizer: Tokenizer) -> bool:
    """Return True if the tokenizer splits words only at spaces, as SentencePiece models do."""
    if tokenizer.pre_tokenizer is None:
        return True
    return len(tokenizer.pre_tokenizer.pre_tokenize_str("a,b")) == 1
