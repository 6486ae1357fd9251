"""Nearest contexts: queries in, rows of the stores in order of cosine out.

Puts together what the modules below own: queries are encoded as the stores were, filters select rows,
indexes propose where there are any, and the exact cosine decides.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ctxbatch.errors import InputError, StoreError
from ctxbatch.filters import Filters
from ctxbatch.index import open_index, open_postings
from ctxbatch.nearest import Floats, normalised, scan, scan_rows
from ctxbatch.selection import Selection, Selector, check_sources
from ctxbatch.store import Ints, Store

if TYPE_CHECKING:
    from ctxbatch.queries import MarkedSentence, QueryEncoder, QueryWord

# Sentences that are encoded, and queries that are answered, together.
_GROUP = 128
# Rows asked for in place of one where only some of them will count, and again where too few did.
_MORE = 8
# Rows that are ranked together, of one question or of many.
_RANKED_ROWS = 1 << 20
_EXPLAINED = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a cosine comes from.

    ``dimensions`` are those that contribute most to it, each with its share, largest first. ``shared``
    counts the dimensions that are not zero in both vectors, out of ``of``: a shift by log ratio is zero
    where static and contextual cannot be compared.
    """

    dimensions: tuple[tuple[int, float], ...]
    shared: int
    of: int


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A row found: its cosine to the query, and the word in its sentence.

    ``char_start`` and ``char_end`` are the word's code points in ``text``, the sentence. ``store`` is the
    folder of the store that holds the row. ``before`` and ``after`` are the sentences around, and
    ``explanation`` says where the score comes from, if they were asked for.
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
    before: tuple[str, ...] | None = None
    after: tuple[str, ...] | None = None
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one word of a query.

    ``query`` counts the queries that were asked together, from 0; one that marks several words has an
    answer for each. ``char_start`` and ``char_end`` are the word's code points in ``text``. ``salient``
    says that the word was chosen for its salience, since none was marked.
    """

    query: int
    text: str
    word: str
    char_start: int
    char_end: int
    salient: bool
    hits: Sequence[SearchHit]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The hits as JSON knows them, each with its query, and its rank from 1."""
        for rank, hit in enumerate(self.hits, 1):
            fields = asdict(hit)
            if hit.explanation is None:
                del fields["explanation"]
            if hit.before is None:
                del fields["before"], fields["after"]
            asked = {"query": self.query, "query_word": self.word, "query_salient": self.salient}
            yield {**asked, "rank": rank, **fields}


def hits_table(answers: Iterable[Answer]) -> pa.Table:
    """The hits of some answers as an Arrow table, a row each, with their query and rank.

    Sentences around and explanations are left out.
    """
    rows = [row for answer in answers for row in answer.rows()]
    return pa.Table.from_pylist(rows, _HITS)


_HITS = pa.schema(
    [
        ("query", pa.int64()),
        ("query_word", pa.string()),
        ("query_salient", pa.bool_()),
        ("rank", pa.int64()),
        ("score", pa.float32()),
        ("row_id", pa.int64()),
        ("word", pa.string()),
        ("char_start", pa.int32()),
        ("char_end", pa.int32()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("record", pa.int64()),
        ("doc_id", pa.string()),
        ("sentence_id", pa.int64()),
        ("store", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class _Question:
    """A word to search for, from a sentence or from a row of the first store, ``own``."""

    query: int
    text: str
    word: str
    char_start: int
    char_end: int
    salient: bool
    vectors_VD: Floats = field(repr=False)
    own: int | None = None


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Rows of all stores, best first; ``exhausted`` where no others qualify."""

    stores: Ints
    positions: Ints
    scores: Floats
    exhausted: bool

    def take(self, chosen: Ints) -> "_Ranked":
        return _Ranked(self.stores[chosen], self.positions[chosen], self.scores[chosen], self.exhausted)


class Searcher:
    """Answers queries on one kind of vector of some stores; loads the model and the indexes once.

    Threads may share one.

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
        if not stores:
            raise InputError("no store is named: name one to search")
        self._config = stores[0].config
        self.column = self._config.column(on, layer)
        for number, store in enumerate(stores):
            _check_searchable(store)
            if store.config.meaning() != self._config.meaning():
                raise StoreError(_difference(stores[0], store))
            if store.path.resolve() in (other.path.resolve() for other in stores[:number]):
                raise InputError(f"{store.path} is named twice: name every store once")
        self._stores = stores
        self._encoding = Lock()
        self._columns = [store.column(self.column) for store in stores]
        self._indexes = [open_index(store, self.column) for store in stores]
        self._selectors = [Selector(store, open_postings(store)) for store in stores]

    @property
    def unindexed(self) -> list[Store]:
        """The stores without an index: every query reads all of their rows."""
        return [store for store, index in zip(self._stores, self._indexes, strict=True) if index is None]

    @property
    def index_options(self) -> str:
        """What `ctxbatch index` needs beside the store to index the searched column."""
        kind, _, layer = self.column.partition("_")
        return f" --on {kind}" + (f" --layer {layer}" if layer else "")

    @cached_property
    def _encoder(self) -> "QueryEncoder":
        from ctxbatch.queries import QueryEncoder  # torch comes last: mistakes are told at once

        return QueryEncoder(self._config, self.column)

    def search(
        self,
        query: str | int,
        k: int = 10,
        filters: Filters | None = None,
        *,
        context: int = 0,
        explain: bool = False,
    ) -> list[SearchHit]:
        """Find the rows whose vectors are nearest to a word's.

        Args:
            query: A sentence with one word marked, ``"I will send her a [card]."``, or with none, which
                means its most salient word; or a row_id of the first store: more like this one.
            k: How many hits; fewer come back only where fewer rows qualify.
            filters: What hits have to be.
            context: How many sentences before and after a hit to give with it.
            explain: Say which dimensions each score comes from.

        Raises:
            InputError: The query marks no word of the sentence or several, or its vector is zero; or there
                is no such row; or an argument is wrong.
        """
        answers = self.ask([query], k, filters, context=context, explain=explain)
        if len(answers) > 1:
            names = ", ".join(repr(answer.word) for answer in answers)
            raise InputError(f"{query!r} marks several words ({names}): mark one, or use Searcher.ask")
        return list(answers[0].hits)

    def ask(
        self,
        queries: Sequence[str | int],
        k: int = 10,
        filters: Filters | None = None,
        *,
        context: int = 0,
        explain: bool = False,
        on_reject: Callable[[int, InputError], None] | None = None,
    ) -> list[Answer]:
        """Like `search` for many queries, which may mark several words: an answer for each word, in order.

        Args:
            queries: As in `search`.
            k: As in `search`.
            filters: As in `search`.
            context: As in `search`.
            explain: As in `search`.
            on_reject: Takes the number of a query that cannot be answered, and why, once for each mark that
                is wrong; without it the first such query raises.

        Raises:
            InputError: As in `search`.
        """
        _check_k(k)
        if isinstance(queries, str):
            raise InputError("ask takes a sequence of queries: put a single one in a list, or use search")
        if context < 0:
            raise InputError(f"--context {context} must be 0 or more")
        filters = filters or Filters()
        check_sources(self._stores, filters.sources)
        answers = []
        for begin in range(0, len(queries), _GROUP):
            questions = list(self._questions(begin, queries[begin : begin + _GROUP], on_reject or _raise))
            found = self._answer(questions, k, filters)
            hits = self._hits(questions, found, context, explain)
            for asked, its_hits in zip(questions, hits, strict=True):
                place = (asked.query, asked.text, asked.word, asked.char_start, asked.char_end)
                answers.append(Answer(*place, asked.salient, its_hits))
        return answers

    def nearest(self, vectors_QD: Floats, k: int = 10) -> tuple[Ints, Floats]:
        """The rows of a single store that are nearest to some vectors, among all rows.

        Args:
            vectors_QD: Vectors of the searched kind, of any length but 0.
            k: How many rows.

        Returns:
            row_ids and cosines, (Q, k), best first; fewer than k where the store has fewer rows.

        Raises:
            InputError: The searcher has several stores.
        """
        _check_k(k)
        if len(self._stores) > 1:
            raise InputError("vectors are searched for in one store: make a searcher for each")
        if vectors_QD.ndim != 2 or vectors_QD.shape[1] != self._config.hidden_size:
            raise InputError(
                f"vectors of shape {vectors_QD.shape} must have shape (Q, {self._config.hidden_size})"
            )
        positions_QK, scores_QK = self._nearest_in(0, normalised(vectors_QD), k, None)
        return self._stores[0].row_ids(positions_QK), scores_QK

    # --- queries ----------------------------------------------------------------------------------

    def _questions(
        self, first: int, queries: Sequence[str | int], on_reject: Callable[[int, InputError], None]
    ) -> Iterator[_Question]:
        """The words to search for, in the order of their queries."""
        sentences: list[tuple[int, MarkedSentence]] = []
        asked: list[_Question] = []
        for number, query in enumerate(queries, first):
            try:
                if isinstance(query, str):
                    from ctxbatch.queries import parse_query

                    sentences.append((number, parse_query(query)))
                else:
                    asked.append(self._question_of_row(number, query))
            except InputError as error:
                on_reject(number, error)
        for number, word in self._encode(sentences):
            if isinstance(word, InputError):
                on_reject(number, word)
            else:
                asked.append(_Question(number, *word.place, word.salient, word.vectors))
        return iter(sorted(asked, key=lambda question: question.query))

    def _encode(
        self, sentences: "Sequence[tuple[int, MarkedSentence]]"
    ) -> "list[tuple[int, QueryWord | InputError]]":
        if not sentences:
            return []
        with self._encoding:  # a model keeps what it is at, and uses all cores as it is
            return list(self._encoder.encode(sentences))

    def _question_of_row(self, number: int, row_id: int) -> _Question:
        store = self._stores[0]
        known = 0 <= row_id < 1 << 63
        position = int(store.positions(np.array([row_id], np.int64))[0]) if known else -1
        if position < 0:
            raise InputError(f"{store.path} has no row {row_id}: `search --json` prints row ids")
        row = store.rows(np.array([position]))[0]
        vectors = normalised(self._columns[0].take(np.array([position])))
        if not vectors.any():
            raise InputError(f"the {self.column} vector of row {row_id} is zero: nothing is near it")
        place = (row["text"], row["word"], row["char_start"], row["char_end"])
        return _Question(number, *place, False, vectors, position)

    # --- rows -------------------------------------------------------------------------------------

    def _answer(self, questions: Sequence[_Question], k: int, filters: Filters) -> list[_Ranked]:
        groups: dict[str, list[int]] = {}
        for number, question in enumerate(questions):
            groups.setdefault(question.word.casefold() if filters.by_word else "", []).append(number)
        found: dict[int, _Ranked] = {}
        for word, numbers in groups.items():
            selections = [selector.select(filters, word) for selector in self._selectors]
            if filters.distinct == "word":  # looks past the nearest rows, and as far as a filter does
                selections = [
                    selection or Selection.of_all(store.n_rows)
                    for selection, store in zip(selections, self._stores, strict=True)
                ]
            waiting, depth = numbers, k * (_MORE if filters.distinct else 1)
            while waiting:
                ranked = list(self._ranked([questions[number] for number in waiting], depth, selections))
                for number, rows in zip(waiting, ranked, strict=True):
                    found[number] = self._kept(rows, k, filters)
                waiting = [
                    number
                    for number, rows in zip(waiting, ranked, strict=True)
                    if len(found[number].scores) < k and not _at_end(rows, filters)
                ]
                depth *= _MORE
        return [found[number] for number in range(len(questions))]

    def _ranked(
        self, questions: Sequence[_Question], depth: int, selections: Sequence[Selection | None]
    ) -> Iterator[_Ranked]:
        """The best rows of all stores for each question: ``depth``, beside the question's own row."""
        at_once = max(1, _RANKED_ROWS // depth)
        for begin in range(0, len(questions), at_once):
            yield from self._ranked_together(questions[begin : begin + at_once], depth, selections)

    def _ranked_together(
        self, questions: Sequence[_Question], depth: int, selections: Sequence[Selection | None]
    ) -> list[_Ranked]:
        owner_Q = np.repeat(np.arange(len(questions)), [len(each.vectors_VD) for each in questions])
        queries_QD = np.concatenate([each.vectors_VD for each in questions])
        parts: list[list[tuple[Ints, Ints, Floats]]] = [[] for _ in questions]
        exhausted = True
        for number, selection in enumerate(selections):
            positions_QK, scores_QK = self._nearest_in(number, queries_QD, depth + 1, selection)
            rows = self._stores[number].n_rows if selection is None else selection.n
            exhausted &= positions_QK.shape[1] >= rows
            for query, owner in enumerate(owner_Q.tolist()):
                kept = positions_QK[query] >= 0
                if number == 0 and questions[owner].own is not None:
                    kept &= positions_QK[query] != questions[owner].own
                positions = positions_QK[query][kept]
                parts[owner].append((np.full(len(positions), number), positions, scores_QK[query][kept]))
        return [_merged(each, depth, exhausted) for each in parts]

    def _nearest_in(
        self, number: int, queries_QD: Floats, k: int, selection: Selection | None
    ) -> tuple[Ints, Floats]:
        """The best rows of one store for each vector, by its index or by comparing all that count."""
        index, column = self._indexes[number], self._columns[number]
        if index is not None:
            mask, n = (None, 0) if selection is None else (selection.mask_N, selection.n)
            return index.nearest(queries_QD, k, mask, n)
        if selection is None:
            return scan(column, queries_QD, k)
        return scan_rows(column, queries_QD, k, np.flatnonzero(selection.mask_N))

    def _kept(self, rows: _Ranked, k: int, filters: Filters) -> _Ranked:
        """The first k rows that are good enough, and distinct where they have to be."""
        if filters.min_score is not None:
            rows = rows.take(np.flatnonzero(rows.scores >= filters.min_score))
        if filters.distinct is None:
            return rows.take(np.arange(min(k, len(rows.scores))))
        seen: set[Any] = set()
        chosen = []
        for number, key in enumerate(self._keys(rows, filters.distinct)):
            if key not in seen:
                seen.add(key)
                chosen.append(number)
        return rows.take(np.array(chosen[:k], np.int64))

    def _keys(self, rows: _Ranked, distinct: str) -> list[Any]:
        """What makes rows distinct, for each."""
        keys: list[Any] = [None] * len(rows.scores)
        for number in np.unique(rows.stores).tolist():
            store, mine = self._stores[number], np.flatnonzero(rows.stores == number)
            positions = rows.positions[mine]
            values: Iterable[Any]
            if distinct == "word":
                values = (word.casefold() for word in store.words_at(positions))
            elif distinct == "sentence":
                values = ((number, sentence) for sentence in store.sentence_ids_at(positions).tolist())
            else:
                values = ((number, *document) for document in store.documents_at(positions))
            for at, value in zip(mine.tolist(), values, strict=True):
                keys[at] = value
        return keys

    # --- hits -------------------------------------------------------------------------------------

    def _hits(
        self, questions: Sequence[_Question], found: Sequence[_Ranked], context: int, explain: bool
    ) -> Iterator[list[SearchHit]]:
        """The rows of each question as hits; all of a store are looked up at once."""
        if not found:
            return
        every = _Ranked(
            np.concatenate([rows.stores for rows in found]),
            np.concatenate([rows.positions for rows in found]),
            np.concatenate([rows.scores for rows in found]),
            exhausted=True,
        )
        hits: list[SearchHit] = [None] * len(every.scores)  # type: ignore[list-item]
        for number in np.unique(every.stores).tolist():
            store, mine = self._stores[number], np.flatnonzero(every.stores == number)
            for at, row in zip(mine.tolist(), store.rows(every.positions[mine]), strict=True):
                hits[at] = _hit(store, row, float(every.scores[at]))
                if context:
                    before, after = store.sentences_around(row["sentence_id"], context)
                    hits[at] = replace(hits[at], before=before, after=after)
        first = 0
        for question, rows in zip(questions, found, strict=True):
            its = hits[first : first + len(rows.scores)]
            first += len(rows.scores)
            yield [self._explained(question, hit) for hit in its] if explain else its

    def _explained(self, question: _Question, hit: SearchHit) -> SearchHit:
        number = [str(store.path) for store in self._stores].index(hit.store)
        position = self._stores[number].positions(np.array([hit.row_id]))
        row_D = normalised(self._columns[number].take(position))[0]
        query_D = question.vectors_VD[int(np.argmax(question.vectors_VD @ row_D))]
        shares_D = query_D * row_D
        largest = np.argsort(-shares_D, kind="stable")[:_EXPLAINED]
        dimensions = tuple((int(number), round(float(shares_D[number]), 4)) for number in largest)
        shared = int(np.count_nonzero((query_D != 0) & (row_D != 0)))
        return replace(hit, explanation=Explanation(dimensions, shared, len(row_D)))


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"-k {k} must be 1 or more")


def _raise(_number: int, error: InputError) -> None:
    raise error


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


def _merged(parts: Sequence[tuple[Ints, Ints, Floats]], depth: int, exhausted: bool) -> _Ranked:
    """The rows of several stores and vectors as one ranking; a row scores as its best vector does."""
    stores, positions, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((positions, stores, -scores))
    if len(parts) > 1:
        places = np.stack([stores[order], positions[order]])
        _, first = np.unique(places, axis=1, return_index=True)
        order = order[np.sort(first)]
    order = order[:depth] if not exhausted else order
    return _Ranked(stores[order], positions[order], scores[order], exhausted)


def _at_end(rows: _Ranked, filters: Filters) -> bool:
    """Whether no row after these can be a hit."""
    if rows.exhausted or not len(rows.scores):
        return True
    return filters.min_score is not None and float(rows.scores[-1]) < filters.min_score


def _hit(store: Store, row: dict[str, Any], score: float) -> SearchHit:
    return SearchHit(
        score=round(score, 6),
        row_id=row["row_id"],
        word=row["word"],
        char_start=row["char_start"],
        char_end=row["char_end"],
        text=row["text"],
        source=row["source"],
        record=row["record"],
        doc_id=row["doc_id"],
        sentence_id=row["sentence_id"],
        store=str(store.path),
    )
