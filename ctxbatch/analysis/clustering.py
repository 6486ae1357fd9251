"""Clusters vectors of length 1 by k-means, and chooses the number of groups by silhouette.

Only this module uses scikit-learn. It sets the seed and limits it to one thread, so that equal vectors give
equal groups. Array names end in the letters of their shape: N vectors, K groups, D hidden size.
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.errors import InputError
from ctxbatch.search.exact import normalised

# The largest number of groups to try.
MOST_GROUPS = 10
# If no grouping has a silhouette this high, all vectors are one group. Words of two planted senses reach
# more, words of one sense less; ctxbatch/guide/senses.md has the figures.
ONE_GROUP = 0.2
# A group of fewer sentences than this number, or this share, is outliers; groupings with one are discarded.
_FEWEST = 2
_LEAST_SHARE = 0.02
_STARTS = 10
_SEED = 0


@dataclass(frozen=True, slots=True)
class Clustering:
    """The means of groups of vectors, and how well the groups are separated.

    ``silhouette`` is the mean silhouette of all vectors by cosine distance, from -1 to 1; ``None`` for a
    single group, or for as many groups as vectors. ``best`` is the number of groups and the silhouette of the
    best grouping tried; ``None`` if the number was given or no grouping could be tried.
    """

    means_KD: Floats = field(repr=False)
    silhouette: float | None
    best: tuple[int, float] | None

    def assign(self, vectors_ND: Floats) -> tuple[Ints, Floats]:
        """Return the group (N,) with the nearest mean for each vector of length 1, and its cosine (N,)."""
        group_N = _nearest(vectors_ND, self.means_KD)
        return group_N, np.einsum("nd,nd->n", vectors_ND, normalised(self.means_KD)[group_N])


def cluster(vectors_ND: Floats, n_groups: int | None = None, sentence_N: Ints | None = None) -> Clustering:
    """Group vectors by their direction.

    Without ``n_groups``, this tries every number from 2 to `MOST_GROUPS`, and keeps the grouping with the
    highest silhouette among those without tiny groups; if it is below `ONE_GROUP`, all vectors are one group.

    Args:
        vectors_ND: Vectors of length 1, at least one.
        n_groups: The number of groups; at most the number of different vectors.
        sentence_N: The sentence of each vector: a group of a single sentence is tiny, whatever its number of
            vectors; by default, each vector has its own sentence.

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
    """Return the number of different vectors."""
    return len(np.unique(vectors_ND, axis=0))


def check_installed() -> None:
    """Check that scikit-learn is installed.

    Raises:
        InputError: scikit-learn is missing; the message says how to install it.
    """
    try:
        import sklearn.cluster
        import sklearn.metrics  # noqa: F401 (checks that it is installed)
        import threadpoolctl  # noqa: F401 (checks that it is installed)
    except ImportError as error:
        raise InputError(f"grouping needs scikit-learn ({error}): pip install 'ctxbatch[senses]'") from None


def _means(vectors_ND: Floats, n_groups: int) -> Floats:
    from sklearn.cluster import KMeans

    means_KD: Floats = KMeans(n_groups, n_init=_STARTS, random_state=_SEED).fit(vectors_ND).cluster_centers_
    return means_KD


def _nearest(vectors_ND: Floats, means_KD: Floats) -> Ints:
    """Return the nearest mean (N,) of each vector by Euclidean distance, as k-means does."""
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
    """Limit libraries to one thread, since several add up in varying order, and silence their warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_installed()  # imports the libraries, so that their threads can be limited
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            yield
