"""What a search gives back: hits, answers, and both as an Arrow table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa


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
class Hit:
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
    hits: Sequence[Hit]

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
