"""How words' vectors move from layer to layer: similarities, lengths, shares. Measures, and prints nothing.

The similarities are those of Ethayarajh (2019), "How Contextual are Contextualized Word Representations?",
EMNLP-IJCNLP, for contextual vectors and for every shift alike. A zero vector, which a log ratio can be,
stays zero and scores 0 with every other, as it does in a search.

All of them follow from sums over groups of rows, the occurrences of a word or the words of a sentence, so
that rows are read in blocks and no group is ever held. Array names end in the letters of their shape:
N rows, G groups, D hidden size.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Floats, Ints
from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR
from ctxbatch.config import Kept, ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.model.shift import SHIFTS, is_defined
from ctxbatch.search.exact import normalised
from ctxbatch.search.index import open_postings
from ctxbatch.search.postings import Postings
from ctxbatch.store.commits import WORDS
from ctxbatch.store.reader import Store, check_has_rows

# What is sampled, always with the same seed: rows for the baseline, as many as Ethayarajh takes;
BASELINE_ROWS = 1_000
# occurrences of a word that is named;
NAMED_OCCURRENCES = 100_000
# words where none are named, of those with so many occurrences as he asks for, and the occurrences of each;
SAMPLE_WORDS = 500
SAMPLE_MIN_OCCURRENCES = 5
SAMPLE_OCCURRENCES = 100
# and sentences, for the intra-sentence similarity of a word or of the sampled words together.
SENTENCES = 500
_SEED = 0
_BLOCK_ROWS = 2_048

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measures:
    """One kind of vector at one layer. ``None`` is what is not defined, or not of this kind.

    ``kind`` is ``contextual`` or a shift's name; layer 0 is the embedding layer's output, the static vector.

    - ``self_similarity``: the mean cosine of two occurrences of a word; ``None`` where it has only one.
    - ``random_similarity``: the mean cosine of two random rows of different sentences, the baseline;
      ``None`` where rows of some words alone are stored.
    - ``self_similarity_above_random``: the first minus the second.
    - ``intra_sentence_similarity``: the mean cosine of a sentence's words with the mean of their vectors;
      ``None`` where not all words of a sentence are stored.
    - ``mean_norm``: of a shift, the mean Euclidean length; of log_ratio in nats, of difference in the
      model's units, of asinh without a unit.
    - ``defined_share``: of log_ratio, the mean share of dimensions in which it is defined; of a stored one
      alone, in which it is not 0.
    """

    layer: int
    kind: str
    self_similarity: float | None
    random_similarity: float | None
    self_similarity_above_random: float | None
    intra_sentence_similarity: float | None
    mean_norm: float | None
    defined_share: float | None


@dataclass(frozen=True, slots=True)
class Trend:
    """A word, or a sample of words, through the layers: means over words, each word counting once.

    ``occurrences`` are all that the store holds; ``sentences`` are theirs, in a sample those of the measured
    ones. The ``measured_`` ones went into the measures: sentences into the intra-sentence similarity, where
    there is one.
    """

    words: tuple[str, ...]
    occurrences: int
    measured_occurrences: int
    sentences: int
    measured_sentences: int
    measures: tuple[Measures, ...]


@dataclass(frozen=True, slots=True)
class Trends:
    """What `measure` finds in a store.

    ``eligible_words`` are those that a sample was drawn from, ``None`` where words were named; ``floor``
    and ``delta`` belong to the log_ratio and asinh shifts, ``None`` where these are not measured;
    ``selection`` is ``None`` where the store keeps all occurrences, and ``baseline_rows`` are 0 where it
    keeps some words alone.
    """

    model: str
    rows: int
    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    floor: float | None
    delta: float | None
    selection: Kept | None
    baseline_rows: int
    eligible_words: int | None
    trends: tuple[Trend, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return asdict(self)


def kinds_of(config: ResolvedConfig) -> tuple[str, ...]:
    """The kinds of vectors that can be measured in a store, in the order in which they are shown.

    All shifts follow from static and contextual vectors; without both, the stored shift is what there is.

    Raises:
        InputError: There are none.
    """
    kinds = ["contextual"] if "contextual" in config.vectors or _has_layer_0(config) else []
    if {"static", "contextual"} <= set(config.vectors):
        kinds += SHIFTS
    elif config.shift is not None:
        kinds.append(config.shift)
    if not kinds:
        raise InputError(
            "the store holds raw rows of the embedding matrix alone, which are not a layer: "
            "run with --vectors static,contextual into another -o"
        )
    return tuple(kinds)


def measure(store: Store, words: Sequence[str] = ()) -> Trends:
    """Measure words of a store, compared casefolded, or a sample of its words where none are named.

    Args:
        store: The store, as far as it is finished.
        words: The words, one `Trend` each.

    Raises:
        InputError: A word does not occur, none occurs often enough for a sample, or the stored vectors
            allow no measure.
        StoreError: The store holds no rows, or an index of it is damaged.
    """
    kinds, selection = kinds_of(store.config), store.config.kept
    check_has_rows(store)
    if words:
        postings = open_postings(store)
        folded = dict.fromkeys(word.casefold() for word in words)
        eligible, subjects = None, [_named(store, postings, word) for word in folded]
    else:
        eligible, sample = _sample(store, open_postings(store))
        subjects = [sample]
    baseline = None if selection is not None and selection.of_words else _baseline(store)
    layers = _layers(store.config)
    found: list[list[Measures]] = [[] for _ in subjects]
    for layer in layers:
        vectors = _LayerVectors(store, layer)
        sums_of_random = {} if baseline is None else _add_up(vectors, baseline)
        random = {kind: _between(sums) for kind, sums in sums_of_random.items()}
        for subject, measures in zip(subjects, found, strict=True):
            measures += _measured(vectors, subject, random)
    trends = (subject.trend(measures) for subject, measures in zip(subjects, found, strict=True))
    return Trends(
        model=store.config.model,
        rows=store.n_rows,
        layers=layers,
        kinds=kinds,
        floor=_floor(store.config) if "log_ratio" in kinds else None,
        delta=_delta(store.config) if "asinh" in kinds else None,
        selection=selection,
        baseline_rows=0 if baseline is None else len(baseline),
        eligible_words=eligible,
        trends=tuple(trends),
    )


# --- which rows -------------------------------------------------------------------------------------


class _Groups:
    """Rows in groups, group after group.

    Args:
        positions_N: The rows' positions.
        sizes_G: How many of them are in each group; at least one.
    """

    def __init__(self, positions_N: Ints, sizes_G: Ints) -> None:
        self.positions_N = positions_N
        self.sizes_G = sizes_G
        self.group_N = np.repeat(np.arange(len(sizes_G)), sizes_G)

    def __len__(self) -> int:
        return len(self.positions_N)


@dataclass(frozen=True, slots=True)
class _Subject:
    words: tuple[str, ...]
    occurrences: int
    of_words: _Groups
    sentences: int
    of_sentences: _Groups | None

    def trend(self, measures: Sequence[Measures]) -> Trend:
        return Trend(
            words=self.words,
            occurrences=self.occurrences,
            measured_occurrences=len(self.of_words),
            sentences=self.sentences,
            measured_sentences=0 if self.of_sentences is None else len(self.of_sentences.sizes_G),
            measures=tuple(measures),
        )


def _subject(
    store: Store, words: Sequence[str], occurrences: int, rows: Sequence[Ints], places_N: Ints
) -> _Subject:
    """Words with the rows that are measured of each, and the sentences of the rows at some places."""
    of_words = _Groups(np.concatenate(rows), np.array([len(each) for each in rows], np.int64))
    ids = np.unique(store.sentence_ids_at(places_N))
    of_sentences = None  # some of a sentence's words do not tell how alike all of them are
    if store.config.kept is None:
        of_sentences = _rows_of_sentences(store, ids[_drawn(len(ids), SENTENCES)])
    return _Subject(tuple(words), occurrences, of_words, len(ids), of_sentences)


def _named(store: Store, postings: Postings, word: str) -> _Subject:
    positions_N = postings.positions(word)
    if not len(positions_N):
        raise InputError(f"the word {word!r} does not occur in {store.path}: name words that do")
    measured_N = positions_N[_drawn(len(positions_N), NAMED_OCCURRENCES)]
    return _subject(store, [word], len(positions_N), [measured_N], positions_N)


def _sample(store: Store, postings: Postings) -> tuple[int, _Subject]:
    """How many words could have been drawn, and those that were."""
    counts: Counter[str] = Counter()
    for table in postings.tables():
        sizes = np.diff(table["rows"].offsets.to_numpy()).tolist()
        counts.update(dict(zip(table["word"].to_pylist(), sizes, strict=True)))
    eligible = sorted(word for word, n in counts.items() if n >= SAMPLE_MIN_OCCURRENCES)
    if not eligible:
        raise InputError(
            f"no word of {store.path} occurs {SAMPLE_MIN_OCCURRENCES} times, as those of a sample do: "
            "name words, each of which is measured however seldom it occurs"
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


def _baseline(store: Store) -> _Groups:
    """Random rows, grouped by sentence."""
    positions_N = _drawn(store.n_rows, BASELINE_ROWS)
    _, sizes_G = np.unique(store.sentence_ids_at(positions_N), return_counts=True)
    return _Groups(positions_N, sizes_G)


def _drawn(n: int, at_most: int) -> Ints:
    """Some numbers below n in ascending order, all alike likely, the same every time."""
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(_SEED).choice(n, at_most, replace=False))


def _rows_of_sentences(store: Store, ids_G: Ints) -> _Groups:
    """All rows of some sentences, by their ascending sentence_ids; each has at least one."""
    parts, sizes = [], []
    for shard in np.unique(ids_G >> 32).tolist():
        mine = ids_G[ids_G >> 32 == shard]
        # Rows stand in the order of their sentences: in the mapped ids they are found without reading all.
        chunks = [chunk.to_numpy() for chunk in store.read(shard, WORDS, "sentence_id").chunks]
        begin_G, end_G = (
            sum(np.searchsorted(chunk, mine, side=side) for chunk in chunks) for side in ("left", "right")
        )
        sizes.append(end_G - begin_G)
        parts += [
            np.arange(begin, end) + store.first_position(shard)
            for begin, end in zip(begin_G, end_G, strict=True)
        ]
    return _Groups(np.concatenate(parts), np.concatenate(sizes))


# --- their vectors ----------------------------------------------------------------------------------


def _has_layer_0(config: ResolvedConfig) -> bool:
    return "static" in config.vectors and config.static == "embeddings"


def _layers(config: ResolvedConfig) -> tuple[int, ...]:
    return (*([0] if _has_layer_0(config) else []), *sorted(config.layers))


def _floor(config: ResolvedConfig) -> float:
    return DEFAULT_FLOOR if config.floor is None else config.floor


def _delta(config: ResolvedConfig) -> float:
    return DEFAULT_DELTA if config.delta is None else config.delta


class _LayerVectors:
    """The vectors of one layer, of every kind that can be measured there."""

    def __init__(self, store: Store, layer: int) -> None:
        config = store.config
        names = {"contextual": f"contextual_{layer}", "shift": f"shift_{layer}", "static": "static"}
        if layer == 0:
            names = {"contextual": "static"}
        elif {"static", "contextual"} <= set(config.vectors):
            del names["shift"]  # it is computed, with the others
        self.layer = layer
        self._config = config
        self._columns = {kind: store.column(name) for kind, name in names.items() if name in config.columns}

    def take(self, positions_N: Ints) -> tuple[dict[str, Floats], Floats | None]:
        """The vectors (N, D) of some rows by kind, in float32; in which share (N,) log_ratio is defined."""
        config = self._config
        taken = {kind: column.take(positions_N).astype(np.float32) for kind, column in self._columns.items()}
        static_ND = taken.pop("static", None)
        if "shift" in taken:
            taken[str(config.shift)] = taken.pop("shift")
        elif "contextual" in taken and static_ND is not None:
            both = taken["contextual"], static_ND, np
            options: dict[str, dict[str, float]] = {
                "log_ratio": {"floor": _floor(config)},
                "asinh": {"delta": _delta(config)},
            }
            taken |= {kind: shift(*both, **options.get(kind, {})) for kind, shift in SHIFTS.items()}
            return taken, is_defined(*both[:2], floor=_floor(config)).mean(axis=1, dtype=np.float32)
        if "log_ratio" in taken:  # a stored one does not tell "no change" from "not defined"
            return taken, (taken["log_ratio"] != 0).mean(axis=1, dtype=np.float32)
        return taken, None


# --- what they come to ------------------------------------------------------------------------------


class _Sums:
    """What one kind's vectors add up to in each group."""

    def __init__(self, sizes_G: Ints, dimension: int) -> None:
        self.sizes_G = sizes_G
        self.nonzero_G: Doubles = np.zeros(len(sizes_G))
        self.norm_G: Doubles = np.zeros(len(sizes_G))
        self.defined_G: Doubles | None = None
        self.vector_GD: Doubles = np.zeros((len(sizes_G), dimension))
        self.unit_GD: Doubles = np.zeros((len(sizes_G), dimension))

    def add(self, group_N: Ints, vectors_ND: Floats, defined_N: Floats | None) -> None:
        first_N = np.flatnonzero(np.diff(group_N, prepend=-1))
        groups = group_N[first_N]
        norms_N = np.linalg.norm(vectors_ND, axis=1)
        sums = (
            (self.nonzero_G, norms_N > 0),
            (self.norm_G, norms_N),
            (self.vector_GD, vectors_ND),
            (self.unit_GD, normalised(vectors_ND)),
        )
        for total, values in sums:
            total[groups] += np.add.reduceat(values, first_N, axis=0, dtype=np.float64)
        if defined_N is not None:
            if self.defined_G is None:
                self.defined_G = np.zeros(len(self.sizes_G))
            self.defined_G[groups] += np.add.reduceat(defined_N, first_N, dtype=np.float64)


def _add_up(vectors: _LayerVectors, rows: _Groups) -> dict[str, _Sums]:
    found: dict[str, _Sums] = {}
    for begin in range(0, len(rows), _BLOCK_ROWS):
        part = slice(begin, begin + _BLOCK_ROWS)
        of_kinds, defined_N = vectors.take(rows.positions_N[part])
        for kind, vectors_ND in of_kinds.items():
            sums = found.setdefault(kind, _Sums(rows.sizes_G, vectors_ND.shape[1]))
            sums.add(rows.group_N[part], vectors_ND, defined_N if kind == "log_ratio" else None)
    return found


def _measured(
    vectors: _LayerVectors, subject: _Subject, random: dict[str, float | None]
) -> Iterator[Measures]:
    of_words = _add_up(vectors, subject.of_words)
    of_sentences = {} if subject.of_sentences is None else _add_up(vectors, subject.of_sentences)
    for kind, sums in of_words.items():
        own = _within(sums)
        other = random.get(kind)
        yield Measures(
            layer=vectors.layer,
            kind=kind,
            self_similarity=own,
            random_similarity=other,
            self_similarity_above_random=None if own is None or other is None else own - other,
            intra_sentence_similarity=_to_mean(of_sentences[kind]) if kind in of_sentences else None,
            mean_norm=None if kind == "contextual" else float(np.mean(sums.norm_G / sums.sizes_G)),
            defined_share=None if sums.defined_G is None else float(np.mean(sums.defined_G / sums.sizes_G)),
        )


def _within(sums: _Sums) -> float | None:
    """Mean cosine of two different rows of a group, over groups of two and more.

    Of n rows with the unit vectors u, m of them not zero, the sum of all n (n - 1) cosines is |Σu|² - m.
    """
    many_G = sums.sizes_G > 1
    if not many_G.any():
        return None
    n_G = sums.sizes_G[many_G]
    squared_G = np.square(sums.unit_GD[many_G]).sum(axis=1)
    return float(np.mean((squared_G - sums.nonzero_G[many_G]) / (n_G * (n_G - 1))))


def _between(sums: _Sums) -> float | None:
    """Mean cosine of two rows of different groups; ``None`` where there is one group."""
    n_pairs = sums.sizes_G.sum() ** 2 - np.square(sums.sizes_G).sum()
    if not n_pairs:
        return None
    all_pairs = np.square(sums.unit_GD.sum(axis=0)).sum()
    return float((all_pairs - np.square(sums.unit_GD).sum()) / n_pairs)


def _to_mean(sums: _Sums) -> float:
    """Mean cosine of a group's rows with the mean of their vectors, over groups.

    Which is the product of the mean of their unit vectors with the direction of their sum.
    """
    product_G = np.einsum("gd,gd->g", sums.unit_GD, sums.vector_GD)
    scale_G = np.linalg.norm(sums.vector_GD, axis=1) * sums.sizes_G
    return float(np.mean(np.divide(product_G, scale_G, out=np.zeros_like(product_G), where=scale_G > 0)))
