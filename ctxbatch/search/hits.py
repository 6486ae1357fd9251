"""Defines the results of a search, and turns them into an Arrow table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ctxbatch.search.best_scores import NOTHING_LIKE_THIS
from ctxbatch.store.reader import Store


@dataclass(frozen=True, slots=True)
class Explanation:
    """The dimensions that contribute to a cosine.

    ``dimensions`` are those that contribute most, each with its contribution, largest first. ``shared`` of
    ``of`` dimensions are nonzero in both vectors: a log_ratio shift is zero where it is not defined.
    """

    dimensions: tuple[tuple[int, float], ...]
    shared: int
    of: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A row found by a search: its cosine with the query, and the word in its sentence.

    ``char_start`` and ``char_end`` are the word's offsets in ``text``, the sentence, in code points.
    ``store`` is the folder of the row's store. On request, ``before`` and ``after`` are the surrounding
    sentences, ``copies`` is the number of further sentences with this text, of those that score at least as
    high as the last hit, and ``explanation`` explains the score.
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
    copies: int | None = None
    explanation: Explanation | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without those that were not asked for."""
        fields = asdict(self)
        on_request = ("before", "after", "copies", "explanation")
        return {name: value for name, value in fields.items() if name not in on_request or value is not None}


def hit_of_row(store: Store, row: dict[str, Any], score: float) -> Hit:
    """Return a row of `Store.rows` as a hit."""
    return Hit(
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


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits for one word of a query.

    ``query`` is the number of the query, counted from 0; a query that marks several words has an answer for
    each. ``char_start`` and ``char_end`` are the word's offsets in ``text``, in code points. ``column`` is
    the full name of the vectors that are compared. ``salient`` is true if the query marked no word, so that
    its most salient word was chosen. ``known`` is false if the model does not know the word, so that its
    vector is that of any unknown text. ``widened`` is true if the mark covered only a part of the word.
    ``share_below`` is the share of the store's own rows whose best hit in another sentence is farther than
    the best hit here, ``None`` where filters leave out rows or no index knows it.
    ``best_score`` is the cosine of the nearest row that the other filters allow, also if it is below
    ``min_score``; ``None`` if they allow no row.
    """

    query: int
    text: str
    word: str
    char_start: int
    char_end: int
    column: str
    salient: bool
    hits: Sequence[Hit]
    known: bool = True
    widened: bool = False
    share_below: float | None = None
    best_score: float | None = None

    @property
    def nothing_like_this(self) -> bool:
        """True if even the best hit is farther than those of nearly all rows of the store itself."""
        return self.share_below is not None and self.share_below < NOTHING_LIKE_THIS

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the hits as JSON objects, each with its query, and its rank from 1."""
        for rank, hit in enumerate(self.hits, 1):
            asked = {
                "query": self.query,
                "query_word": self.word,
                "query_column": self.column,
                "query_salient": self.salient,
                "query_known": self.known,
                "query_widened": self.widened,
                "query_share_below": None if self.share_below is None else round(self.share_below, 4),
            }
            yield {**asked, "rank": rank, **hit.as_dict()}


def hits_table(answers: Iterable[Answer]) -> pa.Table:
    """Return the hits of the answers as an Arrow table, a row for each hit, with its query and rank.

    ``left_context`` and ``right_context`` are the sentence before and after the word. The surrounding
    sentences, ``before`` and ``after``, and ``copies`` are there if they were asked for. The table has no
    explanations.
    """
    rows = [{**around_word(row), **row} for answer in answers for row in answer.rows()]
    for row in rows:  # a folder's name need not be text
        row["store"] = row["store"].encode("utf-8", "backslashreplace").decode()
    asked = [field for field in _ON_REQUEST if rows and field.name in rows[0]]
    return pa.Table.from_pylist(rows, pa.schema([*_HITS, *asked]))


def around_word(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the sentence of a row before and after its word."""
    return {"left_context": row["text"][: row["char_start"]], "right_context": row["text"][row["char_end"] :]}


# Of the tables of hits and of senses: an occurrence in its sentence.
OCCURRENCE_FIELDS = (
    ("row_id", pa.int64()),
    ("word", pa.string()),
    ("char_start", pa.int32()),
    ("char_end", pa.int32()),
    ("left_context", pa.string()),
    ("right_context", pa.string()),
    ("text", pa.string()),
    ("source", pa.string()),
    ("record", pa.int64()),
    ("doc_id", pa.string()),
    ("sentence_id", pa.int64()),
)
_HITS = pa.schema(
    [
        ("query", pa.int64()),
        ("query_word", pa.string()),
        ("query_column", pa.string()),
        ("query_salient", pa.bool_()),
        ("query_known", pa.bool_()),
        ("query_widened", pa.bool_()),
        ("query_share_below", pa.float32()),
        ("rank", pa.int64()),
        ("score", pa.float32()),
        *OCCURRENCE_FIELDS,
        ("store", pa.string()),
    ]
)
_ON_REQUEST = (
    pa.field("before", pa.list_(pa.string())),
    pa.field("after", pa.list_(pa.string())),
    pa.field("copies", pa.int64()),
)
