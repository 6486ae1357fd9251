"""Groups the occurrences of a word by sense, and describes each group by its most central lines.

Owns which rows are an occurrence, and what is reported of a group. `ctxbatch.analysis.clustering` groups the
vectors. Array names end in the letters of their shape: N occurrences, R rows,
D hidden size.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ctxbatch.analysis.clustering import Clustering, check_installed, cluster, n_different
from ctxbatch.analysis.keyness import typical_words
from ctxbatch.arrays import Floats, Ints
from ctxbatch.choices import VectorKind
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.search.exact import normalised
from ctxbatch.search.hits import Hit, hit_of_row
from ctxbatch.search.index_files import open_postings
from ctxbatch.search.row_filter import known_rows
from ctxbatch.search.searcher import check_searchable
from ctxbatch.store.columns import Column
from ctxbatch.store.reader import Store
from ctxbatch.tables.where import matching_rows

# Of more occurrences than this a random sample is grouped, and the others join the nearest group.
SAMPLE = 2_000
_SEED = 0
_BLOCK = 2_048
_TYPICAL = 8
# Texts repeat: so many of the most central occurrences are looked at for each line that is shown.
_LOOKED_AT = 8


@dataclass(frozen=True, slots=True)
class SenseGroup:
    """A group of a word's occurrences, numbered from 1, largest first.

    ``share`` is that of the occurrences that are grouped. ``typical`` are words of its sentences that the
    other groups' have less. ``lines`` are the most central occurrences, each scored by its cosine to the
    group's centroid, without repeated sentences. ``row_ids`` are the rows of all its occurrences, in order:
    with ``--pool none`` an occurrence has a row for each wordpiece.
    """

    number: int
    size: int
    share: float
    typical: tuple[str, ...]
    lines: tuple[Hit, ...]
    row_ids: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Senses:
    """The groups of a word's occurrences.

    ``occurrences`` are all; ``unknown`` of them are unknown to the model, and ``zero`` have a zero vector:
    they are in no group. ``sampled`` is how many the groups were found from. ``silhouette`` and ``best`` are
    those of `ctxbatch.analysis.clustering.Clustering`, on the sample.
    """

    word: str
    column: str
    occurrences: int
    unknown: int
    zero: int
    sampled: int
    silhouette: float | None
    best: tuple[int, float] | None
    groups: tuple[SenseGroup, ...]

    @property
    def grouped(self) -> int:
        """Occurrences that are in a group."""
        return self.occurrences - self.unknown - self.zero

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields = asdict(self)
        if self.best is not None:
            n_groups, silhouette = self.best
            fields["best"] = {"groups": n_groups, "silhouette": silhouette}
        for shown, group in zip(fields["groups"], self.groups, strict=True):
            shown["lines"] = [hit.as_dict() for hit in group.lines]
        return fields


class _Occurrences:
    """A word's occurrences in a store, in order, and their vectors.

    Rows of one occurrence, its wordpieces, are joined: the direction of the mean of their directions.
    """

    def __init__(self, store: Store, column: Column, positions_R: Ints) -> None:
        self.positions_R = positions_R
        self._column = column
        is_first_R = np.ones(len(positions_R), np.bool_)
        if store.config.pool == "none":
            sentence_R, word_R = store.word_places_at(positions_R)
            is_first_R[1:] = (np.diff(sentence_R) != 0) | (np.diff(word_R) != 0)
        self.first_N = np.flatnonzero(is_first_R)
        self.last_N = np.append(self.first_N[1:], len(positions_R)) - 1

    def __len__(self) -> int:
        return len(self.first_N)

    def rows(self, chosen_N: Ints) -> Ints:
        """Return the positions (R,) of all rows of these occurrences."""
        n_rows_N = self.last_N[chosen_N] - self.first_N[chosen_N] + 1
        begin_N = np.cumsum(n_rows_N) - n_rows_N
        row_R = np.arange(n_rows_N.sum()) + np.repeat(self.first_N[chosen_N] - begin_N, n_rows_N)
        positions_R: Ints = self.positions_R[row_R]
        return positions_R

    def vectors(self, chosen_N: Ints) -> Floats:
        """Return the vectors (N, D) of these occurrences, of length 1 or zero."""
        vectors_RD = normalised(self._column.take(self.rows(chosen_N)))
        if len(vectors_RD) == len(chosen_N):
            return vectors_RD
        n_rows_N = self.last_N[chosen_N] - self.first_N[chosen_N] + 1
        return normalised(np.add.reduceat(vectors_RD, np.cumsum(n_rows_N) - n_rows_N, axis=0))

    def not_zero(self) -> Ints:
        """Return the occurrences (N,) whose vector is not zero."""
        blocks = _blocks(np.arange(len(self)))
        return np.flatnonzero(np.concatenate([self.vectors(some).any(axis=1) for some in blocks]))


def find_senses(
    store: Store,
    word: str,
    n_groups: int | None = None,
    n_lines: int = 5,
    on: str | None = None,
    layer: int | None = None,
    *,
    delta: float | None = None,
    floor: float | None = None,
    standardise: bool = False,
    where: str | None = None,
) -> Senses:
    """Group a word's occurrences by their vectors.

    Args:
        store: The store.
        word: The word, in any spelling.
        n_groups: How many groups; as the silhouette says if not given.
        n_lines: How many lines of each group.
        on: As in `ctxbatch.searcher`; default the first of contextual, shift and static that is stored.
        layer: The layer; default the first of the run.
        delta: As in `ctxbatch.searcher`.
        floor: Likewise.
        standardise: Group standardised vectors, as in `ctxbatch.searcher`.
        where: Group only occurrences for which this condition in SQL is true.

    Raises:
        InputError: The word is none of the store's, unknown to the model or has no vectors to group, there
            are fewer different ones than groups, the store holds no such vectors, the condition is wrong, or
            scikit-learn is not installed.
        StoreError: The store is unfinished, empty or damaged.
    """
    if n_lines < 0:
        raise InputError(f"-n {n_lines} must be 0 or more")
    check_installed()
    check_searchable(store)
    column = store.config.column(
        on or _default_kind(store.config), layer, delta=delta, floor=floor, standardise=standardise
    )
    every, occurrences = _occurrences(store, store.column(column), word, where)
    grouped = occurrences.not_zero()
    if not len(grouped):
        raise InputError(f"every {column} vector of {word!r} is zero: choose another kind with --on")
    sample = _sampled(grouped)
    vectors_ND = occurrences.vectors(sample)
    _check_groups(n_groups, vectors_ND, word)
    texts = dict(zip(sample.tolist(), _texts(store, occurrences, sample), strict=True))
    found = cluster(vectors_ND, n_groups, _numbered(texts.values()))
    return Senses(
        word=word,
        column=column,
        occurrences=len(every),
        unknown=len(every) - len(occurrences),
        zero=len(occurrences) - len(grouped),
        sampled=len(sample),
        silhouette=found.silhouette,
        best=found.best,
        groups=tuple(_groups(store, occurrences, found, grouped, texts, word, n_lines)),
    )


def _default_kind(config: ResolvedConfig) -> VectorKind:
    """Return the stored kind of vector that separates senses best."""
    by_purity: tuple[VectorKind, ...] = ("contextual", "shift", "static")
    return next(kind for kind in by_purity if kind in config.vectors)


def _occurrences(
    store: Store, column: Column, word: str, where: str | None
) -> tuple[_Occurrences, _Occurrences]:
    """Return a word's occurrences, and those that the model knows: of wordpieces, only known ones.

    ``where`` is the condition that all of them meet.
    """
    positions_R = open_postings(store).positions(word)
    if not len(positions_R):
        if len(word.split()) != 1:
            raise InputError(f"{word!r} is not one word: name a single word of the store")
        raise InputError(f"{store.path} has no word {word!r}: name a word as the text has it")
    if where is not None:
        positions_R = positions_R[matching_rows(store, where)[positions_R]]
        if not len(positions_R):
            raise InputError(f"--where {where!r} is true for no occurrence of {word!r}: relax it")
    every = _Occurrences(store, column, positions_R)
    known_N = known_rows(store)
    if known_N is None:
        return every, every
    known_R = positions_R[known_N[positions_R]]
    if not len(known_R):
        raise InputError(f"the model does not know {word!r}: its vectors are those of any unknown text")
    return every, _Occurrences(store, column, known_R)


def _sampled(grouped_N: Ints) -> Ints:
    """Return the occurrences that groups are found from, in order."""
    if len(grouped_N) <= SAMPLE:
        return grouped_N
    return np.sort(np.random.default_rng(_SEED).choice(grouped_N, SAMPLE, replace=False))


def _blocks(chosen_N: Ints) -> Iterator[Ints]:
    for begin in range(0, len(chosen_N), _BLOCK):
        yield chosen_N[begin : begin + _BLOCK]


def _check_groups(n_groups: int | None, vectors_ND: Floats, word: str) -> None:
    if n_groups is None:
        return
    most = n_different(vectors_ND)
    if not 1 <= n_groups <= most:
        raise InputError(f"--groups {n_groups} must be 1 to {most}: {word!r} has {most} different vectors")


def _groups(
    store: Store,
    occurrences: _Occurrences,
    found: Clustering,
    grouped: Ints,
    texts: Mapping[int, str],
    word: str,
    n_lines: int,
) -> Iterator[SenseGroup]:
    """Return the groups, largest first.

    Typical words come from ``texts``, the sentences of the sampled occurrences.
    """
    assigned = [found.assign(occurrences.vectors(some)) for some in _blocks(grouped)]
    group_N = np.concatenate([groups for groups, _ in assigned])
    score_N = np.concatenate([scores for _, scores in assigned])
    present, first, size = np.unique(group_N, return_index=True, return_counts=True)
    members = [np.flatnonzero(group_N == present[at]) for at in np.lexsort((first, -size))]
    of_groups = [[texts[n] for n in grouped[mine].tolist() if n in texts] for mine in members]
    typical = typical_words(of_groups, _TYPICAL, word)
    for number, (mine, words) in enumerate(zip(members, typical, strict=True), 1):
        central = mine[np.lexsort((mine, -score_N[mine].round(6)))][: n_lines * _LOOKED_AT]
        yield SenseGroup(
            number=number,
            size=len(mine),
            share=round(len(mine) / len(grouped), 4),
            typical=words,
            lines=_lines(store, occurrences, grouped[central], score_N[central], n_lines),
            row_ids=tuple(store.row_ids(occurrences.rows(grouped[mine])).tolist()),
        )


def _texts(store: Store, occurrences: _Occurrences, chosen_N: Ints) -> list[str]:
    """Return the sentences of these occurrences."""
    rows = store.rows(occurrences.positions_R[occurrences.first_N[chosen_N]])
    return [row["text"] for row in rows]


def _numbered(texts: Iterable[str]) -> Ints:
    """Return a number (N,) for each text; equal texts have equal numbers."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)


def _lines(
    store: Store, occurrences: _Occurrences, central_N: Ints, score_N: Floats, n_lines: int
) -> tuple[Hit, ...]:
    """Return the first occurrences of different sentences as hits that span all wordpieces of the word."""
    firsts = store.rows(occurrences.positions_R[occurrences.first_N[central_N]])
    lasts = store.rows(occurrences.positions_R[occurrences.last_N[central_N]])
    hits: dict[str, Hit] = {}
    for first, last, score in zip(firsts, lasts, score_N.tolist(), strict=True):
        hit = replace(hit_of_row(store, first, score), char_end=last["char_end"])
        hits.setdefault(hit.text, hit)
    return tuple(hits.values())[:n_lines]
