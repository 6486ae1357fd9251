"""Measures how anisotropic the vectors of a store are, plain and standardised, from a sample of its rows.

Array names end in the letters of their shape: N sampled rows, D hidden size.
"""

from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Floats, as_floats
from ctxbatch.store.reader import Store

_SAMPLE = 2_000
_SEED = 0
# Below this mean cosine, vectors point everywhere, and no dimension's share of it means anything.
_NOTHING = 0.005


@dataclass(frozen=True, slots=True)
class Anisotropy:
    """The anisotropy of vectors, as Timkey and van Schijndel (2021) measure it.

    ``mean_cosine`` is that of all pairs of sampled rows. ``dimension`` adds most to it, the ``share``;
    ``None`` if there is no mean to speak of.
    """

    mean_cosine: float
    dimension: int | None
    share: float | None

    @classmethod
    def of(cls, vectors_ND: Floats) -> "Anisotropy":
        """Measure vectors, two or more; a zero vector has cosine 0 with all others."""
        n = len(vectors_ND)
        norms_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        units_ND = np.divide(vectors_ND, norms_N, where=norms_N > 0, out=np.zeros_like(vectors_ND))
        sum_D = units_ND.sum(axis=0, dtype=np.float64)
        by_dimension_D = (sum_D**2 - np.square(units_ND, dtype=np.float64).sum(axis=0)) / (n * (n - 1))
        mean = float(by_dimension_D.sum())
        if mean < _NOTHING:
            return cls(round(mean, 4), None, None)
        strongest = int(by_dimension_D.argmax())
        return cls(round(mean, 4), strongest, round(float(by_dimension_D[strongest]) / mean, 4))


@dataclass(frozen=True, slots=True)
class ColumnAnisotropy:
    """The anisotropy of a stored column, plain and standardised, and the dimensions that hardly vary."""

    column: str
    plain: Anisotropy
    standardised: Anisotropy
    still: tuple[int, ...]


def measure_anisotropy(store: Store) -> tuple[ColumnAnisotropy, ...]:
    """Measure the stored columns of a store; a store of one row or none has nothing to measure.

    Raises:
        StoreError: A shard is damaged, or the store is on object storage.
    """
    if store.n_rows < 2:
        return ()
    random = np.random.default_rng(_SEED)
    positions_N = np.sort(
        random.choice(store.n_rows, min(store.n_rows, _SAMPLE), replace=False, shuffle=False)
    )
    found = []
    for name in store.config.columns:
        vectors_ND = as_floats(store.column(name).take(positions_N))
        standardiser = store.moments.of(name).standardiser()
        both = Anisotropy.of(vectors_ND), Anisotropy.of(standardiser.of(vectors_ND))
        found.append(ColumnAnisotropy(name, *both, standardiser.still))
    return tuple(found)
