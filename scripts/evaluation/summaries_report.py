"""Say how well vectors of sentences do: tables, comparisons of one word's shift, and conclusions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scripts.benchmarks import measuring
from scripts.evaluation.measures import Measure, More, comparison
from scripts.evaluation.summaries import Summary, summaries
from scripts.evaluation.vector_kinds import SHIFTS
from scripts.evaluation.wic_report import short, signed, wrapped

RESERVATION = (
    "best layers and shifts are chosen on the same sentences, and the intervals, of 95 %, do not allow for "
    "that; they speak of this model and of these texts alone"
)


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of all vectors by one measure, and the figure of a vector that says nothing."""

    measure: Measure
    nothing: float


def sections(found: Sequence[Scores], layers: Sequence[int]) -> str:
    """Return the tables, and what follows from them."""
    compared = [compare(each.measure, layers) for each in found]
    parts = [figures(found, layers)]
    parts += [comparisons(each.measure, some) for each, some in zip(found, compared, strict=True)]
    return "\n\n".join([*parts, "\n".join(map(wrapped, conclusions(found)))])


def figures(found: Sequence[Scores], layers: Sequence[int]) -> str:
    """Return the table of figures: a line for each vector, a column for each measure."""
    rows = [
        [str(summary), *(figure(each.measure, summary) for each in found)] for summary in summaries(layers)
    ]
    rows.append(["a vector that says nothing", *(short(each.nothing) for each in found)])
    return measuring.table(["vector", *(each.measure.name for each in found)], rows)


def figure(measure: Measure, summary: Summary) -> str:
    """Return a figure with its interval."""
    low, high = measure.bounds(summary)
    return f"{short(measure.values[summary])} [{short(low)}, {short(high)}]"


def compare(measure: Measure, layers: Sequence[int]) -> list[tuple[More, More, More]]:
    """Return each shift of one word against what else a layer gives.

    That is its word's contextual vector, the mean of contextual vectors, and the mean of the same shift.
    """
    return [
        (
            measure.more(Summary("salient", kind, layer), Summary("salient", "contextual", layer)),
            measure.more(Summary("salient", kind, layer), Summary("mean", "contextual", layer)),
            measure.more(Summary("salient", kind, layer), Summary("mean", kind, layer)),
        )
        for layer in layers
        for kind in SHIFTS
    ]


def comparisons(measure: Measure, compared: Sequence[tuple[More, More, More]]) -> str:
    """Return the table of comparisons by one measure."""
    rows = [
        [str(several[0].first), *(signed(more.difference, more.bounds) for more in several)]
        for several in compared
    ]
    heads = ("its contextual", "mean contextual", "mean of this shift")
    return f"{measure.name}: one word's shift against\n" + measuring.table(
        ["at the same layer", *heads], rows
    )


def conclusions(found: Sequence[Scores]) -> list[str]:
    """Return what the figures say, in sentences; where the shift loses, they say so."""
    return [*(line for each in found for line in conclude(each)), verdict([each.measure for each in found])]


def verdict(measures: Sequence[Measure]) -> str:
    """Return whether one word's shift stands up to the mean of contextual vectors."""
    both = [
        measure.more(best(measure, "salient", tuple(SHIFTS)), best(measure, "mean", ("contextual",)))
        for measure in measures
    ]
    if all(more.worse for more in both):
        return "so one word's shift is no match for the mean of contextual vectors, by every measure"
    if all(more.better for more in both):
        return "so one word's shift says more of its sentence than the mean of contextual vectors"
    return "so it is open whether one word's shift says as much as the mean of contextual vectors"


def conclude(found: Scores) -> list[str]:
    """Return what one measure says of the best shift of a single word."""
    measure = found.measure
    shift = best(measure, "salient", tuple(SHIFTS))
    low = measure.bounds(shift)[0]
    above = "is above" if low > found.nothing else "is not above"
    lines = [
        f"{measure.name}: the best shift of one word, {shown(measure, shift)}, {above} a vector that says "
        f"nothing, {short(found.nothing)}"
    ]
    for other in (
        best(measure, "salient", ("contextual",)),
        best(measure, "mean", ("contextual",)),
        best(measure, "mean", tuple(SHIFTS)),
        best(measure, "mean", ("static",)),
    ):
        more = measure.more(shift, other)
        said = "no difference shown"
        if more.better or more.worse:
            said = "one word's shift wins" if more.better else "one word's shift loses"
        lines.append(
            f"{measure.name}: {shift} against {shown(measure, other)}: "
            f"{signed(more.difference, more.bounds)}, {said}"
        )
    return lines


def best(measure: Measure, by: str, kinds: Sequence[str]) -> Summary:
    """Return the vector with the highest figure among kinds."""
    candidates = [key for key in measure.values if key[0] == by and key[1] in kinds]
    return max(candidates, key=lambda key: measure.values[key])


def shown(measure: Measure, summary: Summary) -> str:
    """Return a vector with its figure."""
    return f"{summary} {short(measure.values[summary])}"


def as_json(found: Sequence[Scores], layers: Sequence[int]) -> dict[str, Any]:
    """Return everything as values that JSON knows."""
    measures = {
        each.measure.name: {
            "nothing": each.nothing,
            "figures": [
                {**summary._asdict(), "value": value, "interval": each.measure.bounds(summary)}
                for summary, value in each.measure.values.items()
            ],
            "comparisons": [
                comparison(more) for several in compare(each.measure, layers) for more in several
            ],
        }
        for each in found
    }
    return {"measures": measures, "conclusions": conclusions(found)}
