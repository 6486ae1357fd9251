"""Chooses the rows to measure layers on: of named words or a sample, of their sentences, and random rows.

Leaves out the rows that the model does not know. Array names end in the letters of their shape: N rows, G
groups, W words.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ctxbatch.analysis.group_sums import Groups
from ctxbatch.arrays import Ints, Mask
from ctxbatch.errors import InputError
from ctxbatch.search.postings import Postings
from ctxbatch.store.commits import WORDS
from ctxbatch.store.reader import Store

# Sizes of the samples, which are always drawn with the same seed.
# Rows of the baseline, as many as Ethayarajh draws.
BASELINE_ROWS = 1_000
# Occurrences of a named word.
NAMED_OCCURRENCES = 100_000
# If no word is named: words, their fewest occurrences, as in Ethayarajh, and the occurrences drawn of each.
SAMPLE_WORDS = 500
SAMPLE_MIN_OCCURRENCES = 5
SAMPLE_OCCURRENCES = 100
# Sentences for the intra-sentence similarity, of a named word or of the whole sample.
SENTENCES = 500
_SEED = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A word or a sample of words: the rows to measure, grouped by word, and all rows of their sentences.

    ``occurrences`` and ``sentences`` count all of them that the model knows, and ``unknown`` the occurrences
    that it does not; the groups may hold only some. ``of_sentences`` is ``None`` if the store does not keep
    all words of a sentence.
    """

    words: tuple[str, ...]
    occurrences: int
    unknown: int
    of_words: Groups
    sentences: int
    of_sentences: Groups | None


def _subject(
    store: Store,
    known_N: Mask | None,
    words: Sequence[str],
    counts: tuple[int, int],
    rows: Sequence[Ints],
    positions_N: Ints,
) -> Subject:
    """Return a subject of these words with the rows of each, and of the sentences at these positions.

    ``counts`` are those of their known and unknown occurrences.
    """
    of_words = Groups(np.concatenate(rows), np.array([len(each) for each in rows], np.int64))
    ids = np.unique(store.sentence_ids_at(positions_N))
    of_sentences = None  # the intra-sentence similarity needs all words of a sentence
    if store.config.kept is None:
        of_sentences = _rows_of_sentences(store, known_N, ids[_drawn(len(ids), SENTENCES)])
    return Subject(tuple(words), *counts, of_words, len(ids), of_sentences)


def named_subject(store: Store, postings: Postings, known_N: Mask | None, word: str) -> Subject:
    """Choose the rows of a word, in any spelling.

    Raises:
        InputError: The word does not occur, or the model does not know it.
    """
    every_N = postings.positions(word)
    if not len(every_N):
        raise InputError(f"the word {word!r} does not occur in {store.path}: name words that do")
    positions_N = every_N if known_N is None else every_N[known_N[every_N]]
    if not len(positions_N):
        raise InputError(f"the model does not know {word!r}: its vectors are those of any unknown text")
    counts = len(positions_N), len(every_N) - len(positions_N)
    measured_N = positions_N[_drawn(len(positions_N), NAMED_OCCURRENCES)]
    return _subject(store, known_N, [word], counts, [measured_N], positions_N)


def sampled_subject(store: Store, postings: Postings, known_N: Mask | None) -> tuple[int, Subject]:
    """Draw words that occur often enough; return the number of eligible words, and the drawn ones.

    Raises:
        InputError: No word occurs often enough.
    """
    counts, unknown = Counter[str](), Counter[str]()
    for table in _tables(store, postings, known_N):
        counts.update(dict(zip(table.words, np.diff(table.bounds_W).tolist(), strict=True)))
        unknown.update(dict(zip(table.words, table.unknown_W.tolist(), strict=True)))
    eligible = sorted(word for word, n in counts.items() if n >= SAMPLE_MIN_OCCURRENCES)
    if not eligible:
        raise InputError(
            f"no word of {store.path} occurs {SAMPLE_MIN_OCCURRENCES} times or more: "
            "name the words to measure; named words may be rarer"
        )
    words = [eligible[number] for number in _drawn(len(eligible), SAMPLE_WORDS)]
    wanted = {word: _drawn(counts[word], SAMPLE_OCCURRENCES) for word in words}
    rows: dict[str, list[Ints]] = {word: [] for word in words}
    seen: Counter[str] = Counter()
    for table in _tables(store, postings, known_N):
        for number, word in enumerate(table.words):
            if word in wanted:
                rows_N = table.positions_N[slice(*table.bounds_W[number : number + 2])]
                begin, end = np.searchsorted(wanted[word], [seen[word], seen[word] + len(rows_N)])
                rows[word].append(rows_N[wanted[word][begin:end] - seen[word]])
                seen[word] += len(rows_N)
    occurrences = sum(counts[word] for word in words), sum(unknown[word] for word in words)
    of_words = [np.concatenate(rows[word]) for word in words]
    return len(eligible), _subject(store, known_N, words, occurrences, of_words, np.concatenate(of_words))


@dataclass(frozen=True, slots=True)
class _Table:
    """The words of a shard, and the positions of their known rows.

    Those of word i stand between ``bounds_W[i]`` and ``bounds_W[i + 1]``; ``unknown_W`` counts the others.
    """

    words: Sequence[str]
    bounds_W: Ints
    positions_N: Ints
    unknown_W: Ints


def _tables(store: Store, postings: Postings, known_N: Mask | None) -> Iterator[_Table]:
    for shard, table in zip(store.commits, postings.tables(), strict=True):
        bounds_W = table["rows"].offsets.to_numpy().astype(np.int64)
        positions_N = table["rows"].values.to_numpy().astype(np.int64) + store.first_position(shard)
        n_W = np.diff(bounds_W)
        if known_N is not None:
            is_known_N = known_N[positions_N]
            bounds_W = np.concatenate([[0], np.cumsum(is_known_N)])[bounds_W]
            positions_N = positions_N[is_known_N]
        yield _Table(table["word"].to_pylist(), bounds_W, positions_N, n_W - np.diff(bounds_W))


def baseline_rows(store: Store, known_N: Mask | None) -> Groups:
    """Draw random rows, grouped by sentence."""
    if known_N is None:
        positions_N = _drawn(store.n_rows, BASELINE_ROWS)
    else:
        positions_N = np.flatnonzero(known_N)
        positions_N = positions_N[_drawn(len(positions_N), BASELINE_ROWS)]
    _, sizes_G = np.unique(store.sentence_ids_at(positions_N), return_counts=True)
    return Groups(positions_N, sizes_G)


def _drawn(n: int, at_most: int) -> Ints:
    """Draw numbers below n uniformly, the same every time; return them in ascending order."""
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(_SEED).choice(n, at_most, replace=False))


def _rows_of_sentences(store: Store, known_N: Mask | None, ids_G: Ints) -> Groups:
    """Return all rows of these sentences, by their ascending sentence_ids; each has at least one row."""
    parts, sizes = [], []
    for shard in np.unique(ids_G >> 32).tolist():
        mine = ids_G[ids_G >> 32 == shard]
        # Rows are in the order of their sentences, so a binary search of the mapped ids finds them.
        chunks = [chunk.to_numpy() for chunk in store.read(shard, WORDS, "sentence_id").chunks]
        begin_G, end_G = (
            sum(np.searchsorted(chunk, mine, side=side) for chunk in chunks) for side in ("left", "right")
        )
        sizes.append(end_G - begin_G)
        parts += [
            np.arange(begin, end) + store.first_position(shard)
            for begin, end in zip(begin_G, end_G, strict=True)
        ]
    positions_N, sizes_G = np.concatenate(parts), np.concatenate(sizes)
    if known_N is None:
        return Groups(positions_N, sizes_G)
    is_known_N = known_N[positions_N]
    return Groups(
        positions_N[is_known_N], np.add.reduceat(is_known_N, np.cumsum(sizes_G) - sizes_G, dtype=np.int64)
    )
