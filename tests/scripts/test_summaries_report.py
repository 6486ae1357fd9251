"""Conclusions on sentences' vectors say who wins, also where it is not the shift."""

import numpy as np
import pytest

from scripts.evaluation.measures import Measure
from scripts.evaluation.summaries import Summary, summaries
from scripts.evaluation.summaries_report import Scores, conclude, conclusions

SHIFT, MEAN = Summary("salient", "asinh", 3), Summary("mean", "contextual", 2)


def measure(**more):
    """A measure by which all vectors are at .6, but for those named; intervals are .01 to each side."""
    values = dict.fromkeys(summaries([2, 3]), 0.6) | {
        {"shift": SHIFT, "mean": MEAN}[k]: v for k, v in more.items()
    }
    chance = np.random.default_rng(1)
    return Measure("m", values, lambda key: values[key] + chance.permutation(np.linspace(-0.005, 0.005, 400)))


@pytest.mark.parametrize(
    ("more", "says", "so"),
    [
        ({"mean": 0.7}, "mean contextual 2 .700: -.100 [-.1", "no match"),
        (
            {"shift": 0.7},
            "salient asinh 3 against mean contextual 2 .600: +.100 [+.0",
            "says more of its sentence",
        ),
        ({}, "no difference shown", "it is open whether"),
    ],
)
def test_who_wins_is_said(more, says, so):
    *lines, last = conclusions([Scores(measure(**more), 0.5)])
    assert any(says in line for line in lines)
    assert so in last


def test_measures_that_disagree_leave_it_open():
    found = [Scores(measure(mean=0.7), 0.5), Scores(measure(shift=0.7), 0.5)]
    assert "it is open" in conclusions(found)[-1]


def test_a_shift_that_says_nothing_is_told():
    assert "is above a vector that says nothing, .500" in conclude(Scores(measure(), 0.5))[0]
    assert "is not above a vector that says nothing, .600" in conclude(Scores(measure(), 0.6))[0]
