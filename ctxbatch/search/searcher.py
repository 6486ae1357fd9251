"""Searches stores: encodes queries, ranks rows by cosine, and turns the best rows into hits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from threading import Lock

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.errors import InputError
from ctxbatch.model.hub import model_of_store
from ctxbatch.search.exact import normalised
from ctxbatch.search.filters import Filters
from ctxbatch.search.hits import Answer, Explanation, Hit, hit_of_row
from ctxbatch.search.index import SearchMode
from ctxbatch.search.queries import MarkedSentence, QueryEncoder, QueryWord, parse_query
from ctxbatch.search.ranking import Question, Ranked, Ranking
from ctxbatch.search.row_filter import check_sources
from ctxbatch.search.same_vectors import check_comparable, name_in
from ctxbatch.store.checks import check_finished, check_has_rows
from ctxbatch.store.reader import Store

# Up to this many queries are a few.
_FEW = 32
# How many queries to encode and answer together.
_GROUP = 128
# How many dimensions an explanation names.
_EXPLAINED = 5


class _Vectors:
    """One kind of vector of several stores: ranks their rows, and encodes queries to compare them with.

    Args:
        stores: The stores.
        column: The full name of the vectors.
        model: The path or name of the model, as in `Searcher`.

    Raises:
        StoreError: A store is of another configuration than the first, or an index is damaged or stale.
    """

    def __init__(self, stores: Sequence[Store], column: str, model: str | None) -> None:
        identity = stores[0].config.identity(column)
        names = [name_in(store, identity) for store in stores]
        for store in stores:
            check_comparable(stores[0], store, identity)
        self.column = column
        self.ranking = Ranking(stores, names)
        self._stores = stores
        self._model = model

    @cached_property
    def encoder(self) -> QueryEncoder:
        """Encodes queries; the model is loaded at the first."""
        config = self._stores[0].config
        model = model_of_store(config, self._stores[0].path, self._model)
        phrases = sorted({word for store in self._stores for word in store.config.words or ()})
        return QueryEncoder(config, self.column, model, phrases, self.ranking.standardiser)


class Searcher:
    """Searches the vectors of several stores; loads the model and the indexes once.

    Threads may share a searcher.

    Args:
        stores: The stores, all of one configuration; their hits are merged.
        on: The kind of vector, as in `ctxbatch.config.ResolvedConfig.column`. By default, the first that is
            stored of shift, contextual and static; among other words, contextual if that is stored, which
            finds them better (guide/evaluation.md).
        layer: The layer; by default, the first of the run.
        model: The path or name of the stores' model; by default, `ctxbatch.model.hub.find_stored_model`
            looks for the model that the first store names. Only queries in words need it.
        delta: Of a computed asinh shift, if not the default.
        floor: Of a computed log_ratio shift, if not the default.
        standardise: Search by standardised vectors: each dimension less its mean, over its standard
            deviation. One store's are those of its rows, or those that its index was built with; several
            stores' are those of all their rows.

    Raises:
        InputError: The store neither holds such vectors nor has what they are computed from.
        StoreError: A store is unfinished, empty or of another configuration than the first, or an index
            is damaged or stale.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        on: str | None = None,
        layer: int | None = None,
        model: str | None = None,
        *,
        delta: float | None = None,
        floor: float | None = None,
        standardise: bool = False,
    ) -> None:
        if not stores:
            raise InputError("no store is given: give one to search")
        for store in stores:
            store.check_is_here()
        config = stores[0].config
        self.column = config.column(on, layer, delta=delta, floor=floor, standardise=standardise)
        self._among_others = self.column
        if (on, delta, floor) == (None, None, None):
            kind = config.kind_of_search(among_other_words=True)
            self._among_others = config.column(kind, layer, standardise=standardise)
        for number, store in enumerate(stores):
            check_searchable(store)
            if store.path.resolve() in (other.path.resolve() for other in stores[:number]):
                raise InputError(f"{store.path} is given twice: give every store once")
        self._stores = stores
        self._model = model
        self._encoding = Lock()
        self._kinds = {self.column: _Vectors(stores, self.column, model)}

    def column_for(self, filters: Filters) -> str:
        """Return the full name of the vectors that a search with these filters goes by."""
        return self._among_others if filters.other_words else self.column

    def unindexed(self, column: str | None = None) -> list[Store]:
        """Return the stores without an index on a column, which read all of their rows for every query.

        Args:
            column: The full name of vectors; by default, those of a search without filters.
        """
        return self._vectors(column or self.column).ranking.unindexed

    def _vectors(self, column: str) -> _Vectors:
        with self._encoding:
            if column not in self._kinds:
                self._kinds[column] = _Vectors(self._stores, column, self._model)
            return self._kinds[column]

    def warm_up(self, filters: Filters | None = None) -> None:
        """Load the model and answer a query, so that the first with these filters comes as fast as others.

        Raises:
            InputError: A filter is wrong, or the given model cannot be found.
            StoreError: The model that the store names cannot be found or used, or a store is damaged.
        """
        self.ask(["a [word]"], filters=filters, on_reject=lambda *_: None)

    def search(
        self,
        query: str | int,
        k: int = 10,
        filters: Filters | None = None,
        *,
        context: int = 0,
        explain: bool = False,
        exact: bool = False,
    ) -> list[Hit]:
        """Find the rows whose vectors are nearest to a word's.

        Args:
            query: A sentence with one marked word, ``"I will send her a [card]."``; or without a mark, which
                selects its most salient word; or a row_id of the first store, to find similar rows.
            k: The number of hits; fewer are returned only if fewer rows qualify.
            filters: The conditions on hits.
            context: How many sentences before and after each hit to return.
            explain: Add to each hit the dimensions that contribute most to its score.
            exact: Compare all rows, rather than those that an index proposes.

        Raises:
            InputError: The query marks several words or none of the sentence's, its vector is zero, the row
                does not exist, an argument is wrong, or the given model cannot be found.
            StoreError: The model that the store names cannot be found or used, or a store is damaged.
        """
        answers = self.ask([query], k, filters, context=context, explain=explain, exact=exact)
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
        exact: bool = False,
        on_reject: Callable[[int, InputError], None] | None = None,
    ) -> list[Answer]:
        """Answer many queries, which may mark several words; return an answer for each word, in order.

        Of at most 32 queries, each is searched for as thoroughly as a single one; see guide/searching.md.

        Args:
            queries: As in `search`.
            k: As in `search`.
            filters: As in `search`.
            context: As in `search`.
            explain: As in `search`.
            exact: As in `search`.
            on_reject: Called for each wrong mark with the number of its query and the error; without it, the
                first such query raises.

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
        vectors = self._vectors(self.column_for(filters))
        vectors.ranking.prepare(filters)  # before a model is loaded
        mode: SearchMode = "exact" if exact else _mode(len(queries))
        answers = []
        for begin in range(0, len(queries), _GROUP):
            questions = self._questions(vectors, begin, queries[begin : begin + _GROUP], on_reject or _raise)
            found = vectors.ranking.best(questions, k, filters, mode)
            hits = list(self._hits(found, context))
            for asked, rows, its_hits in zip(questions, found, hits, strict=True):
                if explain:
                    its_hits = [self._explained(vectors, asked, hit) for hit in its_hits]
                share = None if filters.narrow else vectors.ranking.share_below(asked, rows)
                answers.append(_answer(asked, vectors.column, its_hits, share, rows.best))
        return answers

    def nearest(self, vectors_QD: Floats, k: int = 10) -> tuple[Ints, Floats]:
        """Find the rows nearest to vectors, among all rows of the searcher's only store, known or not.

        Args:
            vectors_QD: Nonzero vectors of the searched kind, of any length; standardised if these are.
            k: The number of rows to find.

        Returns:
            row_ids and cosines, (Q, k), best first; fewer than k if the store has fewer rows.

        Raises:
            InputError: The searcher has several stores.
        """
        _check_k(k)
        if len(self._stores) > 1:
            raise InputError("nearest needs a searcher of one store, not several: make one for each store")
        dimension = self._stores[0].config.hidden_size
        if vectors_QD.ndim != 2 or vectors_QD.shape[1] != dimension:
            raise InputError(f"vectors of shape {vectors_QD.shape} must have shape (Q, {dimension})")
        ranking = self._vectors(self.column).ranking
        found = ranking.nearest(0, normalised(vectors_QD), k, None, _mode(len(vectors_QD)))
        positions_QK, scores_QK = found
        return self._stores[0].row_ids(positions_QK), scores_QK

    # --- queries ----------------------------------------------------------------------------------

    def _questions(
        self,
        vectors: _Vectors,
        first: int,
        queries: Sequence[str | int],
        on_reject: Callable[[int, InputError], None],
    ) -> list[Question]:
        """Return the words to search for, in the order of their queries."""
        sentences: list[tuple[int, MarkedSentence]] = []
        asked: list[Question] = []
        for number, query in enumerate(queries, first):
            try:
                if isinstance(query, str):
                    sentences.append((number, parse_query(query)))
                else:
                    asked.append(self._question_of_row(vectors, number, query))
            except InputError as error:
                on_reject(number, error)
        for number, word in self._encode(vectors, sentences):
            if isinstance(word, InputError):
                on_reject(number, word)
            else:
                asked.append(Question(number, word))
        return sorted(asked, key=lambda question: question.query)

    def _encode(
        self, vectors: _Vectors, sentences: Sequence[tuple[int, MarkedSentence]]
    ) -> list[tuple[int, QueryWord | InputError]]:
        if not sentences:
            return []
        with self._encoding:  # the encoder has state, and one encoding uses all cores already
            return list(vectors.encoder.encode(sentences))

    def _question_of_row(self, vectors: _Vectors, number: int, row_id: int) -> Question:
        store = self._stores[0]
        known = 0 <= row_id < 1 << 63
        position = int(store.positions(np.array([row_id], np.int64))[0]) if known else -1
        if position < 0:
            raise InputError(f"{store.path} has no row {row_id}: `search --json` prints row ids")
        row = store.rows(np.array([position]))[0]
        vectors_VD = vectors.ranking.vectors(0, np.array([position]))
        if not vectors_VD.any():
            raise InputError(f"the {vectors.column} vector of row {row_id} is zero: nothing is near it")
        is_known = row.get("known", True)  # older stores do not tell
        place = row["text"], row["word"], row["char_start"], row["char_end"]
        return Question(number, QueryWord(*place, vectors_VD, known=is_known), position)

    # --- hits -------------------------------------------------------------------------------------

    def _hits(self, found: Sequence[Ranked], context: int) -> Iterator[list[Hit]]:
        """Yield the hits of each question; the rows of a store are read together."""
        if not found:
            return
        every = Ranked(
            np.concatenate([rows.stores for rows in found]),
            np.concatenate([rows.positions for rows in found]),
            np.concatenate([rows.scores for rows in found]),
            exhausted=True,
        )
        hits: list[Hit] = [None] * len(every.scores)  # type: ignore[list-item]  # all are set below
        for number in np.unique(every.stores).tolist():
            store, mine = self._stores[number], np.flatnonzero(every.stores == number)
            for at, row in zip(mine.tolist(), store.rows(every.positions[mine]), strict=True):
                hits[at] = hit_of_row(store, row, float(every.scores[at]))
                if context:
                    before, after = store.sentences_around(row["sentence_id"], context)
                    hits[at] = replace(hits[at], before=before, after=after)
        first = 0
        for rows in found:
            its_hits = hits[first : first + len(rows)]
            if rows.copies is not None:
                both = zip(its_hits, rows.copies.tolist(), strict=True)
                its_hits = [replace(hit, copies=copies) for hit, copies in both]
            yield its_hits
            first += len(rows)

    def _explained(self, vectors: _Vectors, question: Question, hit: Hit) -> Hit:
        number = [str(store.path) for store in self._stores].index(hit.store)
        position = self._stores[number].positions(np.array([hit.row_id]))
        row_D = vectors.ranking.vectors(number, position)[0]
        vectors_VD = question.word.vectors_VD
        query_D = vectors_VD[int(np.argmax(vectors_VD @ row_D))]
        shares_D = query_D * row_D
        largest = np.argsort(-shares_D, kind="stable")[:_EXPLAINED]
        dimensions = tuple((int(number), round(float(shares_D[number]), 4)) for number in largest)
        shared = int(np.count_nonzero((query_D != 0) & (row_D != 0)))
        return replace(hit, explanation=Explanation(dimensions, shared, len(row_D)))


def _answer(
    asked: Question, column: str, hits: Sequence[Hit], share_below: float | None, best: float | None
) -> Answer:
    word = asked.word
    place = asked.query, *word.place
    best_score = None if best is None else round(best, 6)
    return Answer(*place, column, word.salient, hits, word.known, word.widened, share_below, best_score)


def _mode(n_queries: int) -> SearchMode:
    """Return how to search for so many queries: who waits for a single answer is not to miss a row."""
    return "few" if n_queries <= _FEW else "many"


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"-k {k} must be 1 or more")


def _raise(_number: int, error: InputError) -> None:
    raise error


def check_searchable(store: Store) -> None:
    """Check that a store is finished and has rows.

    Raises:
        StoreError: The store is unfinished or empty.
    """
    check_finished(store)
    check_has_rows(store)
