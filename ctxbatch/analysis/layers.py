"""Measures how words' vectors change from layer to layer: similarities, lengths, defined shares.

The similarities are those of Ethayarajh (2019), "How Contextual are Contextualized Word Representations?",
EMNLP-IJCNLP, for contextual vectors and for every shift. A zero vector, which log_ratio can give, has cosine
0 with every other vector, as in a search. Prints nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ctxbatch.analysis.group_sums import add_up, mean_between, mean_to_centre, mean_within
from ctxbatch.analysis.layer_rows import Subject, baseline_rows, named_subject, sampled_subject
from ctxbatch.analysis.layer_vectors import LayerVectors, formulas_of, kinds_of, layers_of
from ctxbatch.config import Kept
from ctxbatch.search.index_files import open_postings
from ctxbatch.search.row_filter import known_rows
from ctxbatch.store.checks import check_has_rows
from ctxbatch.store.reader import Store
from ctxbatch.text.word_key import word_key


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of one kind of vector at one layer; ``None`` if not defined, or not for this kind.

    ``kind`` is ``contextual`` or a shift's name; layer 0 is the embedding layer's output, the static vector.

    - ``self_similarity``: the mean cosine of two occurrences of a word; ``None`` if it has only one.
    - ``random_similarity``: the mean cosine of two random rows of different sentences, the baseline;
      ``None`` if the store keeps only some words.
    - ``self_similarity_above_random``: the first minus the second.
    - ``intra_sentence_similarity``: the mean cosine of a sentence's words with the mean of their vectors;
      ``None`` if the store does not keep all words of a sentence.
    - ``mean_norm``: the mean Euclidean length of a shift; in nats for log_ratio, in the model's units for
      difference, without a unit for asinh and for standardised vectors.
    - ``defined_share``: the mean share of dimensions in which log_ratio is defined, or if only the shift is
      stored, in which it is nonzero.
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
    """The measures of a word, or of a sample of words, at all layers: means over words of equal weight.

    ``occurrences`` counts all that the store holds and the model knows, ``unknown_occurrences`` those that it
    does not know; ``sentences`` counts the sentences of the known ones, or in a sample those of the measured
    occurrences. The ``measured_`` fields count those that the measures use; sentences are only used for the
    intra-sentence similarity.
    """

    words: tuple[str, ...]
    occurrences: int
    unknown_occurrences: int
    measured_occurrences: int
    sentences: int
    measured_sentences: int
    measures: tuple[Measures, ...]


@dataclass(frozen=True, slots=True)
class Trends:
    """The result of `measure`.

    ``unknown_rows`` are those that the model does not know: all measures leave them out.
    ``eligible_words`` is the number of words that the sample was drawn from, ``None`` if words were named;
    ``floor`` and ``delta`` are those of the log_ratio and asinh shifts, ``None`` if these are not measured;
    ``selection`` is ``None`` if the store keeps all occurrences, and ``baseline_rows`` is 0 if it keeps only
    some words.
    """

    model: str
    rows: int
    unknown_rows: int
    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    floor: float | None
    delta: float | None
    standardised: bool
    selection: Kept | None
    baseline_rows: int
    eligible_words: int | None
    trends: tuple[Trend, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def measure(
    store: Store,
    words: Sequence[str] = (),
    *,
    delta: float | None = None,
    floor: float | None = None,
    standardise: bool = False,
) -> Trends:
    """Measure words of a store, in any spelling, or a sample of its words if none are named.

    Args:
        store: The store, which may be unfinished.
        words: The words, one `Trend` each.
        delta: Of asinh, if not the store's or the default.
        floor: Of log_ratio, likewise.
        standardise: Measure standardised vectors, as in `ctxbatch.searcher`.

    Raises:
        InputError: A word does not occur or is unknown to the model, no word occurs often enough for a
            sample, or the stored vectors cannot be measured.
        StoreError: The store holds no rows, or an index of it is damaged.
    """
    kinds, selection = kinds_of(store.config), store.config.kept
    formulas = formulas_of(store.config, floor=floor, delta=delta)
    check_has_rows(store)
    postings, known_N = open_postings(store), known_rows(store)
    if words:
        keys = dict.fromkeys(map(word_key, words))
        eligible, subjects = None, [named_subject(store, postings, known_N, key) for key in keys]
    else:
        eligible, sample = sampled_subject(store, postings, known_N)
        subjects = [sample]
    baseline = None if selection is not None and selection.of_words else baseline_rows(store, known_N)
    layers = layers_of(store.config)
    found: list[list[Measures]] = [[] for _ in subjects]
    for layer in layers:
        vectors = LayerVectors(store, layer, formulas, standardise=standardise)
        sums_of_random = {} if baseline is None else add_up(vectors, baseline)
        random = {kind: mean_between(sums) for kind, sums in sums_of_random.items()}
        for subject, measures in zip(subjects, found, strict=True):
            measures += _measured(vectors, subject, random)
    trends = (_trend(subject, measures) for subject, measures in zip(subjects, found, strict=True))
    return Trends(
        model=store.config.model,
        rows=store.n_rows,
        unknown_rows=0 if known_N is None else int(np.count_nonzero(~known_N)),
        layers=layers,
        kinds=kinds,
        floor=formulas["log_ratio"].parameter if "log_ratio" in kinds else None,
        delta=formulas["asinh"].parameter if "asinh" in kinds else None,
        standardised=standardise,
        selection=selection,
        baseline_rows=0 if baseline is None else len(baseline),
        eligible_words=eligible,
        trends=tuple(trends),
    )


def _trend(subject: Subject, measures: Sequence[Measures]) -> Trend:
    return Trend(
        words=subject.words,
        occurrences=subject.occurrences,
        unknown_occurrences=subject.unknown,
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
