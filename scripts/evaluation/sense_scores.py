"""Score how well vectors find a word's senses: precision of the nearest instances, and AUC of pairs.

Pure functions, and `Instances`, which draws pairs and bootstrap resamples once for all vectors of a word.
Array names end in the letters of their shape: K instances of a word, P pairs of them, R resamples, D
hidden size.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scripts.evaluation.separating import Floats, aucs

NEAREST = 5
FEWEST = 30
MOST_PAIRS = 200_000
_AT_ONCE = 25  # resamples: as many times the pairs are held in memory

Ints = npt.NDArray[np.int64]


class Instances:
    """The senses of a word's instances, and what is drawn of them by chance.

    Args:
        senses: The sense of each instance.
        n_resamples: How many resamples to draw; each takes as many instances as there are.
        seed: Of all chance.
    """

    def __init__(self, senses: Sequence[str], n_resamples: int, seed: int) -> None:
        names, self._sense_K = np.unique(senses, return_inverse=True)
        counts = Counter(senses)
        self.counted = [number for number, name in enumerate(names) if counts[name] >= FEWEST]
        n = len(senses)
        self.all_once = np.ones((1, n), np.int64)
        rng = np.random.default_rng(seed)
        self.draws_RK = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)
        self._first_P, self._second_P = draw_pairs(n, rng)
        self.same_P = self._sense_K[self._first_P] == self._sense_K[self._second_P]

    @property
    def can_be_scored(self) -> bool:
        """True if two senses have enough instances."""
        return len(self.counted) > 1

    def hits(self, vectors_KD: Floats) -> Floats:
        """Return, for each instance, the share of the nearest other instances with its sense, (K,)."""
        unit_KD = normalised(vectors_KD)
        cosines_KK = unit_KD @ unit_KD.T
        np.fill_diagonal(cosines_KK, -np.inf)
        nearest = np.argsort(-cosines_KK, axis=1, kind="stable")[:, :NEAREST]
        hits_K: Floats = (self._sense_K[nearest] == self._sense_K[:, None]).mean(axis=1)
        return hits_K

    def precision(self, hits_K: Floats, draws_RK: Ints) -> Floats:
        """Return the mean of hits within each counted sense, and over senses, of each resample, (R,)."""
        of_sense = []
        for number in self.counted:
            drawn_RK = draws_RK[:, self._sense_K == number]
            with np.errstate(invalid="ignore"):  # a resample without the sense: NaN, left out of the mean
                of_sense.append(drawn_RK @ hits_K[self._sense_K == number] / drawn_RK.sum(axis=1))
        mean_R: Floats = np.nanmean(of_sense, axis=0)
        return mean_R

    def pair_cosines(self, vectors_KD: Floats) -> Floats:
        """Return the cosine of each pair, (P,), to six places."""
        unit_KD = normalised(vectors_KD)
        cosines_KK = unit_KD @ unit_KD.T
        return np.round(cosines_KK[self._first_P, self._second_P], 6)

    def auc(self, cosines_P: Floats, draws_RK: Ints) -> Floats:
        """Return the AUC of pairs of each resample, (R,); a pair counts as often as both are drawn."""
        parts = []
        for begin in range(0, len(draws_RK), _AT_ONCE):
            some = draws_RK[begin : begin + _AT_ONCE]
            parts.append(aucs(cosines_P, self.same_P, some[:, self._first_P] * some[:, self._second_P]))
        return np.concatenate(parts)


def draw_pairs(n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return the numbers of both sides of all pairs of n instances, or of so many drawn by chance."""
    first, second = np.triu_indices(n, 1)
    if len(first) <= MOST_PAIRS:
        return first, second
    drawn = rng.choice(len(first), MOST_PAIRS, replace=False)
    return first[drawn], second[drawn]


def normalised(vectors_KD: Floats) -> Floats:
    """Return vectors of length 1, (K, D); those of length 0 as they are."""
    lengths = np.linalg.norm(vectors_KD, axis=1, keepdims=True)
    return np.divide(vectors_KD, lengths, out=np.zeros_like(vectors_KD), where=lengths > 0)
