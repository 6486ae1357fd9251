"""Measures how words' vectors move from layer to layer: similarities, lengths, shares. Prints nothing.

The similarities are those of Ethayarajh (2019), "How Contextual are Contextualized Word Representations?",
EMNLP-IJCNLP, for contextual vectors and for every shift alike. A zero vector, which a log ratio can be,
stays zero and scores 0 with every other, as it does in a search.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ctxbatch.analysis.group_sums import add_up, mean_between, mean_to_centre, mean_within
from ctxbatch.analysis.layer_rows import Subject, baseline_rows, named_subject, sampled_subject
from ctxbatch.analysis.layer_vectors import LayerVectors, delta_of, floor_of, kinds_of, layers_of
from ctxbatch.config import Kept
from ctxbatch.search.index_files import open_postings
from ctxbatch.store.reader import Store, check_has_rows


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
        """Return the fields as JSON knows them."""
        return asdict(self)


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
        eligible, subjects = None, [named_subject(store, postings, word) for word in folded]
    else:
        eligible, sample = sampled_subject(store, open_postings(store))
        subjects = [sample]
    baseline = None if selection is not None and selection.of_words else baseline_rows(store)
    layers = layers_of(store.config)
    found: list[list[Measures]] = [[] for _ in subjects]
    for layer in layers:
        vectors = LayerVectors(store, layer)
        sums_of_random = {} if baseline is None else add_up(vectors, baseline)
        random = {kind: mean_between(sums) for kind, sums in sums_of_random.items()}
        for subject, measures in zip(subjects, found, strict=True):
            measures += _measured(vectors, subject, random)
    trends = (_trend(subject, measures) for subject, measures in zip(subjects, found, strict=True))
    return Trends(
        model=store.config.model,
        rows=store.n_rows,
        layers=layers,
        kinds=kinds,
        floor=floor_of(store.config) if "log_ratio" in kinds else None,
        delta=delta_of(store.config) if "asinh" in kinds else None,
        selection=selection,
        baseline_rows=0 if baseline is None else len(baseline),
        eligible_words=eligible,
        trends=tuple(trends),
    )


def _trend(subject: Subject, measures: Sequence[Measures]) -> Trend:
    return Trend(
        words=subject.words,
        occurrences=subject.occurrences,
        measured_occurrences=len(subject.of_words),
        sentences=subject.sentences,
        measured_sentences=0 if subject.of_sentences is None else len(subject.of_sentences.sizes_G),
        measures=tuple(measures),
    )


def _measured(vectors: LayerVectors, subject: Subject, random: dict[str, float | None]) -> Iterator[Measures]:
    of_words = add_up(vectors, subject.of_words)
    of_sentences = {} if subject.of_sentences is None else add_up(vectors, subject.of_sentences)
    for kind, sums in of_words.items():
        own = mean_within(sums)
        other = random.get(kind)
        yield Measures(
            layer=vectors.layer,
            kind=kind,
            self_similarity=own,
            random_similarity=other,
            self_similarity_above_random=None if own is None or other is None else own - other,
            intra_sentence_similarity=mean_to_centre(of_sentences[kind]) if kind in of_sentences else None,
            mean_norm=None if kind == "contextual" else float(np.mean(sums.norm_G / sums.sizes_G)),
            defined_share=None if sums.defined_G is None else float(np.mean(sums.defined_G / sums.sizes_G)),
        )
