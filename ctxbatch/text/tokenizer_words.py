"""Finds words as stores of before Unicode's rule do: they are the tokenizer's own.

Finishes and searches these stores; new ones have the rule of `ctxbatch.text.unicode_words`. Array names end
in the letters of their shape: P wordpieces, N words.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import regex
from tokenizers import Encoding
from tokenizers.pre_tokenizers import BertPreTokenizer

from ctxbatch.arrays import Ints, Mask
from ctxbatch.corpus.units import Tokens
from ctxbatch.text.words import LongEncoding, Pieces, Words, WordTexts

# No tokenizer ends a word between two letters, with two exceptions: Chinese characters, many of which are
# words, and what byte-level tokenizers take for the ending of a contraction ('really becomes 're and ally).
_LETTER = r"[\p{L}--\p{Han}]"
_AFTER_ENDING = r"(?<='(?:s|t|re|ve|m|ll|d))"


class TokenizerWords:
    """The rule: a word is what the tokenizer takes for one, or BERT's does where it cuts at spaces alone.

    Args:
        cuts_at_spaces: Whether the tokenizer cuts there alone.
        with_punctuation: Whether words without a letter or digit are kept.
    """

    def __init__(self, cuts_at_spaces: bool, *, with_punctuation: bool) -> None:
        self._cuts_at_spaces = cuts_at_spaces
        self._with_punctuation = with_punctuation

    def words(self, pieces: Pieces, encodings: Sequence[Encoding | LongEncoding]) -> Words:
        """Return the words of some sentences."""
        if self._cuts_at_spaces:
            word_P = _bert_words(pieces)
        else:
            of_each = (encoding.word_ids for encoding in encodings)
            word_P = np.fromiter(itertools.chain.from_iterable(of_each), np.int64, len(pieces.ids_P))
        sentence_P = pieces.sentence_P
        starts_P = np.ones(len(word_P), bool)
        starts_P[1:] = (word_P[1:] != word_P[:-1]) | (sentence_P[1:] != sentence_P[:-1])
        first_N = np.flatnonzero(starts_P)
        if not len(first_N):
            return Words.none()
        n_pieces_N = np.diff(np.append(first_N, len(word_P)))
        # A piece of nothing but white space is part of the word for pooling, but not of its text.
        solid_P = pieces.char_end_P > pieces.char_start_P
        far = np.iinfo(np.int64).max
        start_N = np.minimum.reduceat(np.where(solid_P, pieces.char_start_P, far), first_N)
        end_N = np.maximum.reduceat(np.where(solid_P, pieces.char_end_P, -1), first_N)
        words = Words.found(sentence_P[first_N], start_N, end_N, first_N, n_pieces_N)
        words = words.take(end_N > start_N).numbered()
        return words if self._with_punctuation else words.without_punctuation(pieces)

    def targets(self, words: Sequence[str]) -> "TokenizerTargets":
        """Return what tells the wanted words from others."""
        return TokenizerTargets(words, cuts_anywhere=self._cuts_at_spaces)


class TokenizerTargets:
    """The words whose occurrences are wanted, as the tokenizer sees words.

    Args:
        words: The words, casefolded.
        cuts_anywhere: True if words can end between letters, as with SentencePiece models.
    """

    def __init__(self, words: Sequence[str], *, cuts_anywhere: bool) -> None:
        self._words = frozenset(words)
        begins = f"(?:(?<!{_LETTER})|(?!{_LETTER})|{_AFTER_ENDING})"
        ends = f"(?:(?!{_LETTER})|(?<!{_LETTER})|{_AFTER_ENDING})"
        pattern = r"\L<words>" if cuts_anywhere else rf"{begins}\L<words>{ends}"
        self._somewhere = regex.compile(pattern, regex.V1, words=self._words)

    def may_be_in(self, text: str, _tokens: Tokens | None = None) -> bool:
        """Return True if a sentence may hold one of the words, judging by its characters alone."""
        return self._somewhere.search(text.casefold()) is not None

    def among(self, texts: WordTexts) -> Mask:
        """Mark the wanted words by their surface texts: shape (N,)."""
        return texts.where(lambda text: text.casefold() in self._words)


def _bert_words(pieces: Pieces) -> Ints:
    """Return, per piece, the number of BERT's pre-tokenizer's word in which it starts; -1 for space."""
    split = BertPreTokenizer().pre_tokenize_str
    words = [np.zeros(0, np.int64)]
    for number, text in enumerate(pieces.texts_S):
        word_starts = [start for _, (start, _) in split(text)]
        starts_P = pieces.char_start_P[pieces.bounds_S[number] : pieces.bounds_S[number + 1]]
        words.append(np.searchsorted(word_starts, starts_P, side="right") - 1)
    return np.where(pieces.char_end_P > pieces.char_start_P, np.concatenate(words), -1)
