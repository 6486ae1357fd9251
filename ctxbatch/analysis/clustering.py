"""Vectors in groups: k-means on vectors of length 1, and how many groups there are, by silhouette.

Nothing outside this module knows scikit-learn. Its work is seeded and done by one thread, so that equal
vectors give equal groups. Array names end in the letters of their shape: N vectors, K groups, D hidden size.
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.errors import InputError
from ctxbatch.search.exact import normalised

# The most groups that are tried.
MOST_GROUPS = 10
# Vectors that no grouping parts better than this are one group: words of two planted senses reach more,
# words of one sense less; ctxbatch/guide/senses.md has the figures.
ONE_GROUP = 0.2
# A group of fewer sentences than this, or than this share, is outliers and no reason to part the rest.
_FEWEST = 2
_LEAST_SHARE = 0.02
_STARTS = 10
_SEED = 0


@dataclass(frozen=True, slots=True)
class Clustering:
    """Groups of vectors by their means, and how well they are apart.

    ``silhouette`` is the mean over all vectors by cosine distance, from -1 to 1; ``None`` where groups are
    one, or as many as vectors. ``best`` is the number of groups and the silhouette of the best grouping
    that was tried; ``None`` where the number was given or there was none to try.
    """

    means_KD: Floats = field(repr=False)
    silhouette: float | None
    best: tuple[int, float] | None

    def assign(self, vectors_ND: Floats) -> tuple[Ints, Floats]:
        """The group (N,) whose mean is nearest to each vector of length 1, and the cosines (N,) to it."""
        group_N = _nearest(vectors_ND, self.means_KD)
        return group_N, np.einsum("nd,nd->n", vectors_ND, normalised(self.means_KD)[group_N])


def cluster(vectors_ND: Floats, n_groups: int | None = None, sentence_N: Ints | None = None) -> Clustering:
    """Group vectors by their direction.

    Without a number of groups, all from 2 to `MOST_GROUPS` are tried, and the highest silhouette wins among
    those without tiny groups; if it is below `ONE_GROUP`, all vectors are one group.

    Args:
        vectors_ND: Vectors of length 1, at least one.
        n_groups: How many groups; not more than there are different vectors.
        sentence_N: The number of each vector's sentence, since the vectors of one are no groups of their
            own; default is that each is of another.

    Raises:
        InputError: scikit-learn is not installed.
    """
    sentence_N = np.arange(len(vectors_ND)) if sentence_N is None else sentence_N
    with _quiet_single_thread():
        distances_NN = np.clip(1 - vectors_ND @ vectors_ND.T, 0, None)
        np.fill_diagonal(distances_NN, 0)
        if n_groups is not None:
            means_KD = _means(vectors_ND, n_groups)
            return Clustering(means_KD, _silhouette(distances_NN, _nearest(vectors_ND, means_KD)), None)
        best: Clustering | None = None
        for n in range(2, min(MOST_GROUPS, len(vectors_ND) - 1, n_different(vectors_ND)) + 1):
            means_KD = _means(vectors_ND, n)
            group_N = _nearest(vectors_ND, means_KD)
            silhouette = _silhouette(distances_NN, group_N)
            if silhouette is None or _has_tiny_group(group_N, n, sentence_N):
                continue
            if best is None or best.silhouette is None or silhouette > best.silhouette:
                best = Clustering(means_KD, silhouette, (n, silhouette))
    if best is not None and best.silhouette is not None and best.silhouette >= ONE_GROUP:
        return best
    mean_KD = vectors_ND.mean(axis=0, keepdims=True)
    return Clustering(mean_KD, None, best.best if best is not None else None)


def n_different(vectors_ND: Floats) -> int:
    """How many different vectors there are."""
    return len(np.unique(vectors_ND, axis=0))


def check_installed() -> None:
    """Raise an error with the remedy where scikit-learn is missing."""
    try:
        import sklearn.cluster
        import sklearn.metrics  # noqa: F401 (whether it is there)
        import threadpoolctl  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise InputError(f"grouping needs scikit-learn ({error}): pip install 'ctxbatch[senses]'") from None


def _means(vectors_ND: Floats, n_groups: int) -> Floats:
    from sklearn.cluster import KMeans

    means_KD: Floats = KMeans(n_groups, n_init=_STARTS, random_state=_SEED).fit(vectors_ND).cluster_centers_
    return means_KD


def _nearest(vectors_ND: Floats, means_KD: Floats) -> Ints:
    """The nearest mean of each vector, (N,), as k-means has it: by the distance to the mean as it is."""
    squares_K = np.einsum("kd,kd->k", means_KD, means_KD)
    group_N: Ints = np.argmin(squares_K - 2 * vectors_ND @ means_KD.T, axis=1)
    return group_N


def _has_tiny_group(group_N: Ints, n_groups: int, sentence_N: Ints) -> bool:
    smallest = min(len(np.unique(sentence_N[group_N == group])) for group in range(n_groups))
    return bool(smallest < max(_FEWEST, _LEAST_SHARE * len(np.unique(sentence_N))))


def _silhouette(distances_NN: Floats, group_N: Ints) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(group_N)) < len(group_N):
        return None
    return round(float(silhouette_score(distances_NN, group_N, metric="precomputed")), 4)


@contextlib.contextmanager
def _quiet_single_thread() -> Iterator[None]:
    """One thread, since threads add up in an order of their own; and no warnings of the library's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_installed()  # what it imports is there before its threads are limited
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            yield
