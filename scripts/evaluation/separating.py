"""How well scores tell two classes apart: thresholds, cross-validation, resampled ROC AUC. Pure functions.

Array names end in the letters of their shape: K scored pairs, R resamples, G groups of equal scores.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxbatch.errors import InputError

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Interval = tuple[float, float]


def make_folds(same: Bools, groups: npt.NDArray[np.str_], n_folds: int, seed: int) -> list[tuple[Any, Any]]:
    """Numbers of pairs to find a threshold on and to try it on; no group is in both.

    Raises:
        InputError: There are too few groups, or pairs of a class, for so many folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups, n_same = len(set(groups)), int(same.sum())
    most = min(n_same, len(same) - n_same, n_groups)
    if not 2 <= n_folds <= most:
        raise InputError(
            f"--folds {n_folds} does not fit: of {n_groups} lemmas, {n_same} same and {len(same) - n_same} "
            "different pairs there must be one each a fold, and 2 folds; or take --threshold-from"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(same)), same, groups))


def best_threshold(scores: Floats, same: Bools) -> float:
    """Return the threshold that gets most pairs right, the lowest of equals; pairs from it on count as same.

    It lies halfway between two cosines that occur, or is infinite where one answer is best for all.
    """
    order = np.argsort(scores, kind="stable")
    ordered, labels = scores[order], same[order]
    right = (
        np.concatenate([[0], np.cumsum(~labels)]) + labels.sum() - np.concatenate([[0], np.cumsum(labels)])
    )
    bounds = np.concatenate([[-np.inf], ordered, [np.inf]])
    right[bounds[1:] == bounds[:-1]] = -1  # no threshold parts equal cosines
    best = int(np.argmax(right))
    return float((bounds[best] + bounds[best + 1]) / 2)


def cross_validated(scores: Floats, same: Bools, folds: Sequence[tuple[Any, Any]]) -> float:
    """Return the share of pairs that thresholds found on the other folds get right."""
    right = np.zeros(len(same), np.bool_)
    for rest, fold in folds:
        right[fold] = (scores[fold] >= best_threshold(scores[rest], same[rest])) == same[fold]
    return float(right.mean())


def draw(same: Bools, clusters: npt.NDArray[np.str_], n: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each of n bootstrap resamples takes each pair, (R, K); those of one class are left out.

    Whole clusters are drawn, as many as there are: pairs that share a lemma are not independent.
    """
    draws_RK = draw_clusters(clusters, n, seed)
    both = (draws_RK[:, same].sum(axis=1) > 0) & (draws_RK[:, ~same].sum(axis=1) > 0)
    return draws_RK[both]


def draw_clusters(clusters: npt.NDArray[Any], n: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each of n bootstrap resamples takes each pair, (R, K): whole clusters are drawn."""
    names, cluster_K = np.unique(clusters, return_inverse=True)
    chances = np.full(len(names), 1 / len(names))
    return np.random.default_rng(seed).multinomial(len(names), chances, size=n)[:, cluster_K]


def aucs(scores: Floats, same: Bools, draws_RK: npt.NDArray[np.int64]) -> Floats:
    """Return the ROC AUC of each resample, (R,), which draws each pair so many times; ties count half."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    drawn_RK = draws_RK[:, order]
    same_RG = np.add.reduceat(drawn_RK * same[order], firsts, axis=1)
    other_RG = np.add.reduceat(drawn_RK * ~same[order], firsts, axis=1)
    below_RG = np.cumsum(other_RG, axis=1) - other_RG / 2
    won_R: Floats = (same_RG * below_RG).sum(axis=1) / (same_RG.sum(axis=1) * other_RG.sum(axis=1))
    return won_R


def interval(values: Floats) -> Interval:
    """Where the middle 95 % of resampled values lie."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def outlasts(difference: float, resampled: Floats, n_comparisons: int) -> bool:
    """Whether a difference is not 0 at 5 %, corrected for so many comparisons (Bonferroni).

    By the standard error of its resampled values and the normal distribution: quantiles so far out would
    take many thousands of resamples.
    """
    errors_away = NormalDist().inv_cdf(1 - 0.025 / n_comparisons)
    return bool(abs(difference) > errors_away * np.std(resampled))
