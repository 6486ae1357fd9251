"""Chooses the rows to measure layers on: of named words or a sample, of their sentences, and random rows.

Array names end in the letters of their shape: N rows, G groups.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctxbatch.analysis.group_sums import Groups
from ctxbatch.arrays import Ints
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

    ``occurrences`` and ``sentences`` count all of them; the groups may hold only some. ``of_sentences`` is
    ``None`` if the store does not keep all words of a sentence.
    """

    words: tuple[str, ...]
    occurrences: int
    of_words: Groups
    sentences: int
    of_sentences: Groups | None


def _subject(
    store: Store, words: Sequence[str], occurrences: int, rows: Sequence[Ints], positions_N: Ints
) -> Subject:
    """Return a subject of these words with the rows of each, and of the sentences at these positions."""
    of_words = Groups(np.concatenate(rows), np.array([len(each) for each in rows], np.int64))
    ids = np.unique(store.sentence_ids_at(positions_N))
    of_sentences = None  # the intra-sentence similarity needs all words of a sentence
    if store.config.kept is None:
        of_sentences = _rows_of_sentences(store, ids[_drawn(len(ids), SENTENCES)])
    return Subject(tuple(words), occurrences, of_words, len(ids), of_sentences)


def named_subject(store: Store, postings: Postings, word: str) -> Subject:
    """Choose the rows of a word, compared casefolded.

    Raises:
        InputError: The word does not occur.
    """
    positions_N = postings.positions(word)
    if not len(positions_N):
        raise InputError(f"the word {word!r} does not occur in {store.path}: name words that do")
    measured_N = positions_N[_drawn(len(positions_N), NAMED_OCCURRENCES)]
    return _subject(store, [word], len(positions_N), [measured_N], positions_N)


def sampled_subject(store: Store, postings: Postings) -> tuple[int, Subject]:
    """Draw words that occur often enough; return the number of eligible words, and the drawn ones.

    Raises:
        InputError: No word occurs often enough.
    """
    counts: Counter[str] = Counter()
    for table in postings.tables():
        sizes = np.diff(table["rows"].offsets.to_numpy()).tolist()
        counts.update(dict(zip(table["word"].to_pylist(), sizes, strict=True)))
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
    for shard, table in zip(store.commits, postings.tables(), strict=True):
        for number, word in enumerate(table["word"].to_pylist()):
            if word in wanted:
                rows_N = table["rows"][number].values.to_numpy().astype(np.int64)
                begin, end = np.searchsorted(wanted[word], [seen[word], seen[word] + len(rows_N)])
                rows[word].append(rows_N[wanted[word][begin:end] - seen[word]] + store.first_position(shard))
                seen[word] += len(rows_N)
    occurrences = sum(counts[word] for word in words)
    of_words = [np.concatenate(rows[word]) for word in words]
    return len(eligible), _subject(store, words, occurrences, of_words, np.concatenate(of_words))


def baseline_rows(store: Store) -> Groups:
    """Draw random rows, grouped by sentence."""
    positions_N = _drawn(store.n_rows, BASELINE_ROWS)
    _, sizes_G = np.unique(store.sentence_ids_at(positions_N), return_counts=True)
    return Groups(positions_N, sizes_G)


def _drawn(n: int, at_most: int) -> Ints:
    """Draw numbers below n uniformly, the same every time; return them in ascending order."""
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(_SEED).choice(n, at_most, replace=False))


def _rows_of_sentences(store: Store, ids_G: Ints) -> Groups:
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
    return Groups(np.concatenate(parts), np.concatenate(sizes))
