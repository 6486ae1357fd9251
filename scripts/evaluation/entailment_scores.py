"""Score vectors of sentence pairs: rank correlation with relatedness, and a regression on the judgment.

Pure functions. Array names end in the letters of their shape: P pairs, R resamples, G groups of equal values,
D hidden size.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ctxbatch.errors import InputError
from scripts.evaluation.marked_words import Floats, Ints
from scripts.evaluation.measures import Measure
from scripts.evaluation.sentence_pairs import SentencePair
from scripts.evaluation.separating import Bools
from scripts.evaluation.summaries import Summary
from scripts.evaluation.summaries_report import Scores
from scripts.evaluation.wic_cosines import rounded_cosines

# Of the logistic regression. A strong penalty, because it has hundreds of dimensions and some thousand pairs;
# chosen before there was a figure.
_INVERSE_PENALTY = 0.01


def make_folds(judgments: Sequence[str], group_P: Ints, n_folds: int, seed: int) -> Ints:
    """Return the number of each pair's fold, (P,); no group is in two, and each class is spread over all.

    Raises:
        InputError: There are too few groups, or pairs of a class, for so many folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    counts = Counter(judgments)
    if len(counts) < 2:
        raise InputError("all pairs have one judgment, so there is nothing to tell apart")
    most = min(*counts.values(), len(set(group_P.tolist())))
    if not 2 <= n_folds <= most:
        raise InputError(
            f"--folds {n_folds} does not fit: give 2 or more, and at most {most}, the fewest pairs of a "
            "judgment or groups of pairs that share sentences"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold_P = np.empty(len(judgments), np.int64)
    parts = splitter.split(np.zeros(len(judgments)), judgments, group_P)
    for number, (_, fold) in enumerate(parts):
        fold_P[fold] = number
    return fold_P


def score(
    vectors: Iterable[tuple[Summary, tuple[Floats, Floats]]],
    pairs: Sequence[SentencePair],
    fold_P: Ints,
    draws_RP: Ints,
) -> list[Scores]:
    """Return rank correlation and accuracy of every vector.

    Args:
        vectors: Every vector, and those of the first and of the second sentence of each pair, (P, D) each.
        pairs: The pairs.
        fold_P: The fold of each.
        draws_RP: How often each resample takes each.
    """
    relatedness_P = np.array([pair.relatedness for pair in pairs])
    judgment_P = np.array([pair.judgment for pair in pairs])
    cosines, right = {}, {}
    for summary, (first_PD, second_PD) in vectors:
        cosines[summary] = rounded_cosines(first_PD, second_PD)
        right[summary] = predict(features_of(first_PD, second_PD), judgment_P, fold_P) == judgment_P
    once = np.ones((1, len(pairs)), np.int64)
    majority = Counter(judgment_P.tolist()).most_common(1)[0][1] / len(pairs)
    related = Measure(
        "relatedness",
        {key: float(spearmans(each, relatedness_P, once)[0]) for key, each in cosines.items()},
        lambda key: spearmans(cosines[key], relatedness_P, draws_RP),
    )
    entailed = Measure(
        "entailment",
        {key: float(each.mean()) for key, each in right.items()},
        lambda key: draws_RP @ right[key] / draws_RP.sum(axis=1),
    )
    return [Scores(related, 0.0), Scores(entailed, majority)]


def features_of(first_PD: Floats, second_PD: Floats) -> Floats:
    """Return the difference, without its sign, and the product of two vectors, (P, 2 D)."""
    return np.hstack([np.abs(first_PD - second_PD), first_PD * second_PD])


def predict(features: Floats, judgment_P: np.ndarray, fold_P: Ints) -> np.ndarray:
    """Return the judgment of each pair by a regression on the other folds, which also scale it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.empty_like(judgment_P)
    for number in np.unique(fold_P).tolist():
        mine: Bools = fold_P == number
        if len(set(judgment_P[~mine])) < 2:
            raise InputError("all pairs outside a fold have one judgment: give more pairs or fewer --folds")
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000))
        found[mine] = regression.fit(features[~mine], judgment_P[~mine]).predict(features[mine])
    return found


def spearmans(one_P: Floats, other_P: Floats, draws_RP: Ints) -> Floats:
    """Return Spearman's correlation of each resample, (R,), which takes each pair so many times.

    It is 0 where a resample has equal values only.
    """
    ranks = [centred(ranks_of(values_P, draws_RP), draws_RP) for values_P in (one_P, other_P)]
    product, *squares = (
        (draws_RP * first_RP * second_RP).sum(axis=1)
        for first_RP, second_RP in ((ranks[0], ranks[1]), (ranks[0], ranks[0]), (ranks[1], ranks[1]))
    )
    size_R = np.sqrt(squares[0] * squares[1])
    return np.divide(product, size_R, out=np.zeros_like(product), where=size_R > 0)


def ranks_of(values_P: Floats, draws_RP: Ints) -> Floats:
    """Return the rank of each pair's value in each resample, (R, P); equal values have their mean rank."""
    _, group_P = np.unique(values_P, return_inverse=True)
    order = np.argsort(group_P, kind="stable")
    firsts = np.flatnonzero(np.diff(group_P[order], prepend=-1))
    drawn_RG = np.add.reduceat(draws_RP[:, order], firsts, axis=1)
    rank_RG = np.cumsum(drawn_RG, axis=1) - (drawn_RG - 1) / 2
    return rank_RG[:, group_P]


def centred(rank_RP: Floats, draws_RP: Ints) -> Floats:
    """Return ranks less their mean in each resample, (R, P)."""
    mean_R = (draws_RP * rank_RP).sum(axis=1) / draws_RP.sum(axis=1)
    return rank_RP - mean_R[:, None]
