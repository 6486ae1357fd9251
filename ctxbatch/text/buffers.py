"""Defines the buffer that a worker holds at a time: tokenised sentences, their windows and their rows.

Array names end in the letters of their shape: S sentences, P wordpieces, N rows (words, or wordpieces with
pooling ``none``), W windows.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Ints, Mask
from ctxbatch.corpus.records import Reject
from ctxbatch.text.fit import Fit
from ctxbatch.text.sampling import most_salient
from ctxbatch.text.sentences import Sentence
from ctxbatch.text.words import Indexer, WordTexts


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that a buffer will store, in source order; one array entry per row.

    ``window_N`` and ``piece_N`` place a row's first wordpiece: its window, and its position among the
    window's pieces, without special tokens. ``n_pieces_N`` pieces are pooled. Rows that are not ``wanted_N``
    are not stored; only their salience is compared. The model knows all wordpieces of rows that are
    ``known_N``. ``token_N`` is as in `ctxbatch.text.words.Words`.
    """

    sentence_N: Ints
    word_index_N: Ints
    char_start_N: Ints
    char_end_N: Ints
    n_pieces_N: Ints
    window_N: Ints
    piece_N: Ints
    wanted_N: Mask
    known_N: Mask
    token_N: Ints

    def __len__(self) -> int:
        return len(self.sentence_N)

    def take(self, chosen: Indexer) -> "Rows":
        """Return the selected rows."""
        return Rows(*(getattr(self, name)[chosen] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Buffer:
    """Some sentences of a shard, tokenised and cut into windows; all arrays index into this buffer.

    A sentence larger than a buffer fills several. The first one carries it; the others carry none, and their
    ``rows.sentence_N`` counts back from -1, the last sentence carried before them. Sentences that are not
    ``read_S`` cannot hold a wanted word, and were not tokenised.
    """

    sentences: Sequence[Sentence]
    read_S: Mask
    n_words_S: Ints
    n_pieces_S: Ints
    ids_P: npt.NDArray[np.int32]
    window_start_W: Ints
    window_length_W: Ints
    rows: Rows
    words: WordTexts
    fit: Fit
    rejects: Sequence[Reject]

    def stored(self, salience_N: npt.NDArray[np.float32], top_salient: int) -> Mask:
        """Mark the rows to store if only the most salient words of each sentence are: shape (N,)."""
        rows = self.rows
        return rows.wanted_N & most_salient(rows.sentence_N, rows.word_index_N, salience_N, top_salient)

    def take(self, chosen: Indexer) -> "Buffer":
        """Return the buffer with only the selected rows."""
        return replace(self, rows=self.rows.take(chosen), words=self.words.take(chosen))


def split(buffer: Buffer, n_pieces: int) -> Iterator[Buffer]:
    """Yield a buffer, or parts of about ``n_pieces`` wordpieces if a long sentence made it too large.

    Cut between windows.
    """
    filled_W = np.cumsum(buffer.window_length_W)
    if not len(filled_W) or len(filled_W) == 1 or filled_W[-1] <= 2 * n_pieces:
        yield buffer
        return
    part_W = (filled_W - 1) // n_pieces
    edges = np.flatnonzero(np.diff(part_W, prepend=-1))
    for number, (begin, end) in enumerate(itertools.pairwise([*edges, len(part_W)])):
        inside = slice(*np.searchsorted(buffer.rows.window_N, [begin, end]))
        rows = buffer.rows.take(inside)
        head = number == 0
        yield Buffer(
            sentences=buffer.sentences if head else [],
            read_S=buffer.read_S if head else buffer.read_S[:0],
            n_words_S=buffer.n_words_S if head else buffer.n_words_S[:0],
            n_pieces_S=buffer.n_pieces_S if head else buffer.n_pieces_S[:0],
            ids_P=buffer.ids_P,
            window_start_W=buffer.window_start_W[begin:end],
            window_length_W=buffer.window_length_W[begin:end],
            rows=replace(
                rows,
                sentence_N=rows.sentence_N if head else rows.sentence_N - len(buffer.sentences),
                window_N=rows.window_N - begin,
            ),
            words=buffer.words.take(inside),
            fit=buffer.fit if head else Fit(),
            rejects=buffer.rejects if head else [],
        )
