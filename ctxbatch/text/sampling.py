"""Selects the occurrences to store: of a sample, the most salient of each sentence.

Owns what ``--sample`` and ``--top-salient`` mean. Array names end in the letters of their shape: S sentences,
N words or rows.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Ints, Mask
from ctxbatch.text.sentences import Sentence
from ctxbatch.text.words import Words, count_within


def sampled(sentences: Sequence[Sentence], words: Words, rate: float) -> Mask:
    """Mark the words in the sample by a hash of their place, the same in every run: shape (N,).

    A word in the sample at one rate is in it at every higher rate.

    Args:
        sentences: The sentences of the words.
        words: All words of the sentences, in order.
        rate: Share of the words, above 0 and up to 1.
    """
    bounds_S = np.searchsorted(words.sentence_N, np.arange(len(sentences) + 1))
    hashes_N = np.empty(len(words.sentence_N), np.uint64)
    for number in np.flatnonzero(np.diff(bounds_S)).tolist():
        begin, end = bounds_S[number], bounds_S[number + 1]
        sentence = sentences[number]
        place = f"{sentence.record.source} {sentence.record.record} {sentence.char_start}"
        digest = hashlib.shake_128(place.encode()).digest(8 * int(end - begin))
        hashes_N[begin:end] = np.frombuffer(digest, "<u8")
    return hashes_N < np.uint64(min(rate * 2.0**64, 2.0**64 - 1025))


def most_salient(
    sentence_N: Ints, word_index_N: Ints, salience_N: npt.NDArray[np.float32], n_words: int
) -> Mask:
    """Mark the rows of the most salient words of each sentence: shape (N,).

    Args:
        sentence_N: Each row's sentence; rows stand in the order of sentences and words.
        word_index_N: Each row's word; the salience of a word of several rows is their sum.
        salience_N: Each row's salience.
        n_words: The most words to mark in a sentence; ties go to the earlier word.
    """
    if not len(sentence_N):
        return np.zeros(0, bool)
    starts_N = np.ones(len(sentence_N), bool)
    starts_N[1:] = (np.diff(sentence_N) != 0) | (np.diff(word_index_N) != 0)
    first_W = np.flatnonzero(starts_N)
    salience_W, sentence_W = np.add.reduceat(salience_N, first_W), sentence_N[first_W]
    order_W = np.lexsort((-salience_W, sentence_W))
    marked_W = np.empty(len(first_W), bool)
    marked_W[order_W] = count_within(sentence_W[order_W]) < n_words
    return np.repeat(marked_W, np.diff(np.append(first_W, len(sentence_N))))


def leading(sentence_N: Ints, n_pieces_N: Ints, n_words: int) -> tuple[Ints, int]:
    """Return what is known of the most salient words of each sentence before their salience.

    Args:
        sentence_N: Each word's sentence.
        n_pieces_N: Each word's wordpieces.
        n_words: The most words to keep of a sentence.

    Returns:
        Their places among words ordered by sentence and falling salience, and the most pieces that they can
        have.
    """
    order_N = np.lexsort((-n_pieces_N, sentence_N))
    place_N = count_within(sentence_N[order_N])
    is_leading_N = place_N < n_words
    return np.flatnonzero(is_leading_N), int(n_pieces_N[order_N][is_leading_N].sum())
