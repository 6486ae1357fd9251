"""Nearest contexts: a sentence with a marked word in, rows of the store in order of cosine out.

Encodes the query exactly as the store was made, lets the index propose where there is one and the exact
cosine decide, and lays hits out as keyword-in-context lines.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from wcwidth import wcswidth, wcwidth

from ctxbatch.batching import BatchMaker, Buffer
from ctxbatch.errors import InputError, StoreError
from ctxbatch.index import SCAN_ROWS, Floats, merge, normalised, open_index, propose, scan
from ctxbatch.readers import Record
from ctxbatch.segment import Sentence
from ctxbatch.store import Ints, Store

if TYPE_CHECKING:
    from ctxbatch.encoder import Encoder

WordFilter = Literal["any", "same", "other"]
_GATHER_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A row found: its cosine to the query, and the word in its sentence.

    ``char_start`` and ``char_end`` are the word's code points in ``text``, the sentence. ``store`` is the
    folder of the store that holds the row.
    """

    score: float
    row_id: int
    word: str
    char_start: int
    char_end: int
    text: str
    source: str
    record: int
    doc_id: str | None
    sentence_id: int
    store: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MarkedSentence:
    """A query: a sentence, and the code points in it that were between the brackets."""

    text: str
    start: int
    end: int


def parse_query(query: str) -> MarkedSentence:
    r"""Read a sentence with one ``[word]`` marked; ``\[`` and ``\]`` are literal brackets.

    Raises:
        InputError: No word is marked, more than one is, or a bracket has no partner.
    """
    example = 'mark the word to search for with brackets: "I will send her a [card]."'
    parts = [part.replace("\\[", "[").replace("\\]", "]") for part in re.split(r"(?<!\\)[\[\]]", query)]
    brackets = re.findall(r"(?<!\\)[\[\]]", query)
    if not brackets:
        raise InputError(f"no word is marked in {query!r}: {example}")
    if brackets != ["[", "]"]:
        raise InputError(
            f"one word must be marked in {query!r}, and literal brackets written \\[ and \\]: {example}"
        )
    before, marked, after = parts
    if not marked.strip():
        raise InputError(f"the brackets in {query!r} are empty: {example}")
    return MarkedSentence(before + marked + after, len(before), len(before) + len(marked))


class Searcher:
    """Answers queries on one kind of vector of some stores; loads the model and the indexes once.

    Args:
        stores: The stores, all of one configuration; hits are merged.
        on: ``shift``, ``contextual`` or ``static``; default the first that is stored.
        layer: The layer; default the first of the run.

    Raises:
        InputError: The store holds no such vectors, or its model cannot be found.
        StoreError: A store is incomplete, empty or of another configuration than the first, or an index
            is damaged or stale.
    """

    def __init__(self, stores: Sequence[Store], on: str | None = None, layer: int | None = None) -> None:
        self._config = stores[0].config
        self.column = self._config.column(on, layer)
        for number, store in enumerate(stores):
            _check_searchable(store)
            if store.config.meaning() != self._config.meaning():
                raise StoreError(_difference(stores[0], store))
            if store.path.resolve() in (other.path.resolve() for other in stores[:number]):
                raise InputError(f"{store.path} is named twice: name every store once")
        self._stores = [(store, open_index(store, self.column)) for store in stores]

    @property
    def indexed(self) -> bool:
        """Whether indexes propose; a store without one is read whole by every query."""
        return all(index is not None for _, index in self._stores)

    @property
    def worth_indexing(self) -> list[Store]:
        """The stores that lack an index and have so many rows that one is worth building."""
        return [store for store, index in self._stores if index is None and store.n_rows >= SCAN_ROWS]

    @cached_property
    def _model(self) -> "tuple[BatchMaker, Encoder]":
        from ctxbatch.encoder import Encoder  # torch comes last: mistakes are told at once
        from ctxbatch.resolving import read_tokenizer

        return BatchMaker(read_tokenizer(self._config), self._config), Encoder(self._config, "cpu")

    def search(
        self, query: str, k: int = 10, words: WordFilter = "any", word: str | None = None
    ) -> list[SearchHit]:
        """Find the rows whose vectors are nearest to a marked word's.

        Args:
            query: A sentence with one word marked: ``"I will send her a [card]."``
            k: How many hits; fewer come back only where fewer rows qualify.
            words: ``same`` for rows of the marked word alone, ``other`` for rows of all other words.
            word: Only rows of this word; excludes ``words``. Words are compared casefolded.

        Raises:
            InputError: The query marks no single word, its vector is zero, or an argument is wrong.
        """
        if k < 1:
            raise InputError(f"-k {k} must be 1 or more")
        if words not in get_args(WordFilter):
            raise InputError(f"the filter {words!r} is not one of {', '.join(get_args(WordFilter))}")
        if word is not None and words != "any":
            raise InputError(f"a given word ({word!r}) and the filter {words!r} exclude each other")
        vectors, surface = self._encode(parse_query(query))
        found = []
        for number, (store, index) in enumerate(self._stores):
            if word is not None:
                selected = _rows_of(store, word, same=True)
            elif words != "any":
                selected = _rows_of(store, surface, same=words == "same")
            else:
                selected = None
            ids, scores = self._nearest(store, index, vectors, min(k, store.n_rows), selected)
            found += [(-float(score), number, int(row)) for row, score in zip(ids, scores, strict=True)]
        return [_hit(self._stores[number][0], row, -score) for score, number, row in sorted(found)[:k]]

    def _encode(self, query: MarkedSentence) -> tuple[Floats, str]:
        """The normalised vectors of the marked word, (Q, D), one unless rows are pieces; and its text."""
        maker, encoder = self._model
        stripped = query.text.strip()
        shift = query.text.index(stripped) if stripped else 0
        sentence = Sentence(Record(0, 0, 0, None, query.text), shift, stripped)
        found: list[np.ndarray[Any, Any]] = []
        surface = ""
        for buffer in maker.buffers([sentence]):
            rows = self._marked_rows(buffer, query.start - shift, query.end - shift)
            column = self._config.columns.index(self.column)
            batches = [batch for batch in maker.batches(buffer) if np.isin(batch.rows_N, rows).any()]
            for batch, encoded in zip(batches, encoder.encode(batches), strict=True):
                found.append(encoded.vectors_CND[column, np.isin(batch.rows_N, rows)])
            if len(rows):
                start = int(buffer.rows.char_start_N[rows].min())
                surface = stripped[start : int(buffer.rows.char_end_N[rows].max())]
        if not found:
            marked = query.text[query.start : query.end]
            raise InputError(f"[{marked}] is no word of the sentence as the store counts words: mark a word")
        vectors = normalised(np.concatenate(found))
        vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]
        if not len(vectors):
            raise InputError(
                f"the {self.column} vector of {surface!r} is zero in this sentence: nothing is near it"
            )
        return vectors, surface

    def _marked_rows(self, buffer: Buffer, start: int, end: int) -> Ints:
        rows = buffer.rows
        marked = np.flatnonzero((rows.char_start_N < end) & (rows.char_end_N > start))
        if len(np.unique(rows.word_index_N[marked])) > 1:
            names = ", ".join(dict.fromkeys(repr(buffer.words[int(row)]) for row in marked))
            raise InputError(f"the brackets hold several words of the model ({names}): mark one of them")
        return marked

    def _nearest(
        self,
        store: Store,
        index: Any | None,  # noqa: ANN401 (any FAISS index)
        queries: Floats,
        k: int,
        selected: Ints | None,
    ) -> tuple[Ints, Floats]:
        """The best k rows of a store over all queries, a row scoring as its best query does."""
        if selected is not None:
            ids, scores = scan_rows(store, self.column, queries, k, selected)
        elif index is None:
            ids, scores = scan(store.blocks(self.column), queries, k)
        else:
            ids, scores = propose(index, store, self.column, queries, k)
            if (ids < 0).any():  # more asked for than the probed lists hold
                ids, scores = scan(store.blocks(self.column), queries, k)
        order = np.lexsort((ids.ravel(), -scores.ravel()))
        ids, scores = ids.ravel()[order], scores.ravel()[order]
        _, first = np.unique(ids, return_index=True)
        best = np.sort(first)
        best = best[ids[best] >= 0][:k]
        return ids[best], scores[best]


def _check_searchable(store: Store) -> None:
    if not store.complete:
        done, planned = len(store.commits), len(store.manifest.shards)
        raise StoreError(
            f"{store.path} is not finished ({done} of {planned} shards): run it to the end first"
        )
    if not store.n_rows:
        raise StoreError(f"{store.path} holds no words to search")


def _difference(one: Store, other: Store) -> str:
    """Why two stores cannot be searched together."""
    first, second = one.config.meaning(), other.config.meaning()
    name = next(name for name in first if first[name] != second[name])
    return (
        f"{one.path} and {other.path} cannot be searched together: {name.replace('_', ' ')} is "
        f"{first[name]} and {second[name]}"
    )


def _rows_of(store: Store, word: str, same: bool) -> Ints:
    """The row_ids whose word, casefolded, is the given one, or is not."""
    wanted = word.casefold()
    selected = [np.zeros(0, np.int64)]
    for shard in store.commits:
        texts = store.words_of(shard)
        distinct = pc.unique(texts)
        matching = pa.array([text for text in distinct.to_pylist() if text.casefold() == wanted], pa.string())
        mask = pc.is_in(texts, matching).to_numpy()
        selected.append(np.flatnonzero(mask if same else ~mask) + (shard << 32))
    return np.concatenate(selected)


def _hit(store: Store, row_id: int, score: float) -> SearchHit:
    word, sentence = store.row(row_id)
    return SearchHit(
        score=score,
        row_id=row_id,
        word=word["word"],
        char_start=word["char_start"],
        char_end=word["char_end"],
        text=sentence["text"],
        source=sentence["source"],
        record=sentence["record"],
        doc_id=sentence["doc_id"],
        sentence_id=word["sentence_id"],
        store=str(store.path),
    )


def scan_rows(store: Store, column: str, queries: Floats, k: int, rows: Ints) -> tuple[Ints, Floats]:
    """Exact search among some rows: row_ids and cosines (Q, k); -1 and -inf where there are fewer."""
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for begin in range(0, len(rows), _GATHER_ROWS):
        part = rows[begin : begin + _GATHER_ROWS]
        ids, scores = merge(ids, scores, part, queries @ normalised(store.take(column, part)).T)
    return ids, scores


# --- keyword in context ---------------------------------------------------------------------------


def keyword_in_context(hits: Sequence[SearchHit], width: int) -> Iterator[str]:
    """Lay hits out one a line, aligned on the word, with score and source:line.

    Args:
        hits: The hits.
        width: Columns of the terminal; wide characters count two.
    """
    places = [_tail(place, max(12, width // 3)) for place in _places(hits)]
    longest = max(map(_columns, places), default=0)
    room = max(12, width - longest - 10)
    word_room = max((_columns(_flat(hit.word)) for hit in hits), default=0)
    left_room = max(6, (room - word_room) // 2)
    right_room = max(6, room - word_room - left_room)
    for hit, place in zip(hits, places, strict=True):
        before = _cut(_flat(hit.text[: hit.char_start])[::-1], left_room)[::-1]
        rest = f"{_flat(hit.text[hit.char_start : hit.char_end])}{_flat(hit.text[hit.char_end :])}"
        after = _cut(rest, word_room + right_room)
        padding = " " * (word_room + right_room - _columns(after))
        indent = " " * (left_room - _columns(before))
        yield f"{hit.score:6.3f}  {indent}{before}{after}{padding}  {place}"


def _places(hits: Sequence[SearchHit]) -> list[str]:
    """source:line of every hit, without the folders that all of them share."""
    sources = {hit.source: os.path.abspath(hit.source) for hit in hits}  # noqa: PTH100 (follows no links)
    shared = os.path.commonpath([os.path.dirname(path) for path in sources.values()] or [""])  # noqa: PTH120
    return [f"{os.path.relpath(sources[hit.source], shared)}:{hit.record + 1}" for hit in hits]


def _flat(text: str) -> str:
    """Text on one line: runs of white space and control characters become one space."""
    return re.sub(r"\s+", " ", "".join(char if wcwidth(char) >= 0 else " " for char in text))


def _columns(text: str) -> int:
    return max(0, int(wcswidth(text)))


def _tail(text: str, columns: int) -> str:
    """A text, or as much of its end as fits behind an ellipsis."""
    return text if _columns(text) <= columns else f"…{_cut(text[::-1], columns - 1)[::-1]}"


def _cut(text: str, columns: int) -> str:
    """As much of the beginning of a text as fits."""
    used = 0
    for number, char in enumerate(text):
        used += wcwidth(char)
        if used > columns:
            return text[:number]
    return text
