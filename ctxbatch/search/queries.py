"""Parses sentences with marked words, and encodes these words as the store was encoded.

Owns the marks and the encoding of queries; knows nothing of rows, indexes and filters.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ctxbatch.arrays import Floats, Ints, as_floats
from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.records import Record
from ctxbatch.errors import InputError, beginning, quoted
from ctxbatch.formulas import ComputedShift, plain
from ctxbatch.model.families import family_of
from ctxbatch.model.hub import ModelFolder
from ctxbatch.search.exact import normalised
from ctxbatch.store.moments import Standardiser
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.buffers import Buffer
from ctxbatch.text.sampling import most_salient
from ctxbatch.text.sentences import Sentence

_EXAMPLE = 'mark the word to search for with brackets: "I will send her a [card]."'


@dataclass(frozen=True, slots=True)
class MarkedSentence:
    """A sentence without its brackets, and the start and end of each mark in code points."""

    text: str
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class QueryWord:
    """A word to search for: its place in its sentence, and its vectors (V, D) of length 1.

    V is 1, or the number of wordpieces if rows are wordpieces. Zero vectors are left out. The model knows all
    wordpieces of a ``known`` word. It is ``widened`` if only a part of it was marked.
    """

    text: str
    word: str
    char_start: int
    char_end: int
    vectors_VD: Floats = field(repr=False)
    known: bool = True
    salient: bool = False
    widened: bool = False

    @property
    def place(self) -> tuple[str, str, int, int]:
        """The sentence, the word, and the word's start and end in the sentence."""
        return self.text, self.word, self.char_start, self.char_end


def parse_query(query: str) -> MarkedSentence:
    r"""Read a sentence with ``[words]`` marked; ``\[`` and ``\]`` are literal brackets.

    Raises:
        InputError: The query is empty, a bracket is unpaired or empty, or the text has unpaired surrogates.
    """
    if not query.strip():
        raise InputError(f"the query {quoted(query)} is empty: {_EXAMPLE}")
    try:
        query.encode()
    except UnicodeEncodeError:
        raise InputError(f"{quoted(query)} is not Unicode text: fix its encoding") from None
    parts = re.split(r"(?<!\\)([\[\]])", query)
    texts = [part.replace("\\[", "[").replace("\\]", "]") for part in parts[::2]]
    if parts[1::2] != ["[", "]"] * (len(parts) // 4):
        raise InputError(
            f"the brackets in {quoted(query)} do not pair up (write literal ones as \\[ and \\]): {_EXAMPLE}"
        )
    if not all(text.strip() for text in texts[1::2]):
        raise InputError(f"the brackets in {quoted(query)} are empty: {_EXAMPLE}")
    ends = [0, *itertools.accumulate(map(len, texts))]
    return MarkedSentence("".join(texts), tuple((ends[n], ends[n + 1]) for n in range(1, len(texts), 2)))


class QueryEncoder:
    """Encodes marked words with a store's configuration; loads the model once.

    Args:
        config: The configuration of the store.
        column: The searched column.
        model: The model.
        phrases: Keys of several words that are one where they stand together, as in the stores.
        standardiser: Standardises the vectors, if it is a column of standardised ones.

    Raises:
        StoreError: The files of the model are not those of the configuration.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        column: str,
        model: ModelFolder,
        phrases: Sequence[str] = (),
        standardiser: Standardiser | None = None,
    ) -> None:
        from ctxbatch.model.encoders import open_query_encoder
        from ctxbatch.model.resolve import read_tokenizer

        self._shows_attention = family_of(config).shows_attention
        vectors = plain(column)
        computed = None if vectors in config.columns else ComputedShift.parse(vectors)
        if computed is not None:
            config = config.with_shift(computed.formula)
        config = config.of_queries(salient=self._shows_attention)
        self._maker = BatchMaker(read_tokenizer(config, model), config, phrases)
        self._encoder = open_query_encoder(config, model)
        self._config = config
        self._number = config.columns.index(vectors if computed is None else f"shift_{computed.layer}")
        self._column = column
        self._standardiser = standardiser

    def encode(
        self, numbered: Sequence[tuple[int, MarkedSentence]]
    ) -> Iterator[tuple[int, QueryWord | InputError]]:
        """Yield the marked words of numbered sentences in order; for a wrong mark, its error."""
        sentences = [sentence for _, sentence in numbered]
        if self._shows_attention and not all(sentence.marks for sentence in sentences):
            sentences = self._marked_by_salience(sentences)
        stripped = [sentence.text.strip() for sentence in sentences]
        records = (Sentence(Record(0, n, None, None, text), 0, text) for n, text in enumerate(stripped))
        words: list[list[tuple[int, QueryWord]]] = [[] for _ in sentences]  # each with its number in there
        before = 0
        for buffer in self._maker.buffers(records):
            wanted = _marked_rows(buffer, before, sentences)
            vectors = self._vectors(buffer, np.array(sorted(wanted), np.int64))
            for row in sorted(wanted):
                its = wanted[row]
                words[its].append(_query_word(buffer, row, stripped[its], vectors[row]))
            before += len(buffer.sentences)
        for (number, asked), sentence, its_words in zip(numbered, sentences, words, strict=True):
            for found in self._checked(sentence, list(_joined(its_words))):
                if isinstance(found, QueryWord):
                    yield number, replace(found, salient=not asked.marks)
                else:
                    yield number, found

    def _marked_by_salience(self, sentences: Sequence[MarkedSentence]) -> list[MarkedSentence]:
        """Mark the most salient word in each sentence without marks that has words; return all sentences."""
        marked = list(sentences)
        numbers = [number for number, sentence in enumerate(sentences) if not sentence.marks]
        records = (Sentence(Record(0, n, None, None, marked[n].text), 0, marked[n].text) for n in numbers)
        before = 0
        for buffer in self._maker.buffers(records):
            for its, mark in _most_salient_words(buffer, self._salience(buffer)):
                number = numbers[before + its]
                marked[number] = replace(marked[number], marks=(mark,))
            before += len(buffer.sentences)
        return marked

    def _salience(self, buffer: Buffer) -> Floats:
        salience_N = np.zeros(len(buffer.rows), np.float32)
        batches = list(self._maker.batches(buffer))
        for batch, encoded in zip(batches, self._encoder.encode(batches), strict=True):
            salience_N[batch.rows_N] = encoded.salience_N
        return salience_N

    def _vectors(self, buffer: Buffer, rows: Ints) -> dict[int, Floats]:
        batches = [batch for batch in self._maker.batches(buffer) if np.isin(batch.rows_N, rows).any()]
        found = {}
        for batch, encoded in zip(batches, self._encoder.encode(batches), strict=True):
            for at in np.flatnonzero(np.isin(batch.rows_N, rows)):
                vectors_ND = as_floats(encoded.vectors_CRD[self._number, at : at + 1])
                if self._standardiser is not None:
                    vectors_ND = self._standardiser.of(vectors_ND)
                found[int(batch.rows_N[at])] = normalised(vectors_ND)
        return found

    def _checked(self, sentence: MarkedSentence, words: list[QueryWord]) -> Iterator[QueryWord | InputError]:
        if not sentence.marks:
            why = "and it contains no word that the store would keep"
            if not self._shows_attention:
                why = f"and models of the family {self._config.model_type} do not show which word is salient"
            yield InputError(f"no word is marked in {quoted(sentence.text)}, {why}: {_EXAMPLE}")
        lead = len(sentence.text) - len(sentence.text.lstrip())
        starts, ends = [word.char_start for word in words], [word.char_end for word in words]
        for start, end in sentence.marks:
            inside = words[bisect_right(ends, start - lead) : bisect_left(starts, end - lead)]
            if not inside:
                marked = beginning(sentence.text[start:end])
                yield InputError(f"[{marked}] contains no word that the store would keep: mark a word")
            for word in inside:
                if len(word.vectors_VD):
                    is_widened = start - lead > word.char_start or end - lead < word.char_end
                    yield replace(word, widened=is_widened)
                else:
                    zero = f"the {self._column} vector of {quoted(word.word)} is zero in this sentence"
                    yield InputError(f"{zero}: nothing is near it")


def _marked_rows(buffer: Buffer, before: int, sentences: Sequence[MarkedSentence]) -> dict[int, int]:
    """Return the rows of a buffer that overlap a mark, each with the number of its sentence."""
    rows, marked = buffer.rows, {}
    sentence_N = rows.sentence_N + before
    for number in np.unique(sentence_N):
        first, end = np.searchsorted(sentence_N, [number, number + 1])
        text = sentences[number].text
        lead = len(text) - len(text.lstrip())
        for start, stop in sentences[number].marks:
            inside = (rows.char_start_N[first:end] < stop - lead) & (
                rows.char_end_N[first:end] > start - lead
            )
            marked.update(dict.fromkeys((np.flatnonzero(inside) + first).tolist(), int(number)))
    return marked


def _most_salient_words(buffer: Buffer, salience_N: Floats) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the start and end of the most salient word of each sentence of a buffer that has words."""
    rows = buffer.rows
    marked = np.flatnonzero(most_salient(rows.sentence_N, rows.word_index_N, salience_N, 1))
    for sentence in np.unique(rows.sentence_N[marked]).tolist():
        its = marked[rows.sentence_N[marked] == sentence]
        yield sentence, (int(rows.char_start_N[its].min()), int(rows.char_end_N[its].max()))


def _query_word(buffer: Buffer, row: int, text: str, vectors: Floats) -> tuple[int, QueryWord]:
    """Return a row as a query, with its word's number in the sentence."""
    rows = buffer.rows
    start, end = int(rows.char_start_N[row]), int(rows.char_end_N[row])
    word = QueryWord(text, buffer.words[row], start, end, vectors, known=bool(rows.known_N[row]))
    return int(rows.word_index_N[row]), word


def _joined(words: Sequence[tuple[int, QueryWord]]) -> Iterator[QueryWord]:
    """Join the wordpieces of each word into one query; whole words stay as they are."""
    for _, group in itertools.groupby(words, key=lambda each: each[0]):
        pieces = [piece for _, piece in group]
        vectors_VD = np.concatenate([piece.vectors_VD for piece in pieces])
        vectors_VD = vectors_VD[vectors_VD.any(axis=1)]
        is_known = all(piece.known for piece in pieces)
        yield replace(pieces[0], char_end=pieces[-1].char_end, vectors_VD=vectors_VD, known=is_known)
