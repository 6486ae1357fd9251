"""Runs the layers command, and shows the measures as tables, JSON or a plot."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import AsJson, CsvFile, ParquetFile, Standardise, StoreHere
from ctxbatch.cli.standardised import tell_standardised
from ctxbatch.errors import InputError
from ctxbatch.formulas import standardised

if TYPE_CHECKING:
    from ctxbatch.analysis.layers import Measures, Trend, Trends
    from ctxbatch.config import ResolvedConfig
    from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
# Kinds by the names that fit over a column; the legend says what they stand for.
_SHORT = {"contextual": "context", "log_ratio": "log", "asinh": "asinh", "difference": "diff"}
_COLUMN = 8

_Value = Callable[["Measures"], float | None]


@dataclass(frozen=True, slots=True)
class _Section:
    """The kinds under a heading, and what is shown of each."""

    heading: str
    kinds: Sequence[str]
    value: _Value

    @property
    def width(self) -> int:
        return max(_COLUMN * len(self.kinds), len(self.heading) + 3)


def layers(
    out: StoreHere,
    /,
    *words: Annotated[
        str,
        Parameter(
            help="Words, in upper or lower case. Without any, 500 random words that occur five times or more."
        ),
    ],
    delta: Annotated[float | None, Parameter(metavar="X", help="Delta of asinh.")] = None,
    floor: Annotated[float | None, Parameter(metavar="X", help="Floor of log_ratio.")] = None,
    standardise: Standardise = False,
    as_json: AsJson = False,
    as_csv: CsvFile = None,
    as_parquet: ParquetFile = None,
    plot: Annotated[
        str | None,
        Parameter(metavar="FILE", help="Also draw the measures into FILE, which ends in .png, .svg or .pdf."),
    ] = None,
) -> None:
    """Measure how words' vectors change from layer to layer: similarities and shift lengths."""
    draw = None if plot is None else _drawing(Path(plot))
    from ctxbatch.analysis.layer_vectors import kinds_of
    from ctxbatch.analysis.layers import measure
    from ctxbatch.analysis.result_tables import layers_table
    from ctxbatch.store.checks import check_has_rows
    from ctxbatch.tables.table_files import TableFiles

    files = TableFiles({"--csv": as_csv, "--parquet": as_parquet})
    store = ctxbatch.open(out)
    check_has_rows(store)
    for note in _notes(store, kinds_of(store.config)):
        log.warning("%s", note)
    if standardise:
        tell_standardised(store, map(standardised, store.config.columns))
    found = measure(store, words, delta=delta, floor=floor, standardise=standardise)
    files.write(lambda: layers_table(found))  # first, as who reads the lines may stop
    terminal.show([terminal.json_line(found.as_dict())] if as_json else _lines(found))
    if draw is not None:
        draw(found)


def _drawing(path: Path) -> "Callable[[Trends], None]":
    """Return a function that draws into a file; raise an error before anything is computed if it cannot."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(f"--plot {path} must end in {', '.join(PLOT_SUFFIXES[:-1])} or {PLOT_SUFFIXES[-1]}")
    if not path.parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {path.parent}: make it first")
    try:
        from ctxbatch.analysis.layer_plot import draw
    except ModuleNotFoundError as error:
        raise InputError(
            f"--plot needs {error.name}, which is not installed: pip install 'ctxbatch[plot]'"
        ) from None
    return lambda found: draw(found, path)


def _notes(store: "Store", kinds: Sequence[str]) -> Iterator[str]:
    """Yield what a reader of the measures must know about the store."""
    from ctxbatch.model.shift import SHIFTS
    from ctxbatch.store.checks import unfinished

    config = store.config
    if not store.complete:
        yield unfinished(store, ", and only these are measured")
    missing = [kind for kind in ("static", "contextual") if kind not in config.vectors]
    if missing:
        left_out = [kind for kind in SHIFTS if kind not in kinds]
        if "contextual" in config.vectors:
            left_out.insert(0, "layer 0")
        else:
            left_out.insert(0, "contextual above layer 0" if "contextual" in kinds else "contextual")
        yield (
            f"{store.path} holds no {' and no '.join(missing)} vectors, so these are not measured: "
            f"{', '.join(left_out)}; use --vectors static,contextual for all measures"
        )
    if (left_out_of := _left_out(config)) is not None:
        yield f"{store.path} holds {left_out_of}"
    if config.pool == "none":
        yield "rows are wordpieces (--pool none): an occurrence is a piece, and a word's pieces are compared"


def _left_out(config: "ResolvedConfig") -> str | None:
    """Return what a store of selected occurrences holds, and which measures it lacks."""
    selection = config.kept
    if selection is None:
        return None
    if not selection.of_words:
        return (
            f"{selection}: no intra-sentence similarity, which needs all words of a sentence; run without "
            "--sample for it"
        )
    given = {"--words": selection.words, "--sample": selection.sample, "--top-salient": selection.top_salient}
    options = " and ".join(option for option, value in given.items() if value is not None)
    return (
        f"{selection}: no random pairs, no similarity above them and no intra-sentence similarity, which "
        f"need all words; run without {options} for them"
    )


def _lines(found: "Trends") -> Iterator[str]:
    yield f"{found.rows:,} rows, {found.model}{', standardised' if found.standardised else ''}"
    if found.unknown_rows:
        yield f"left out: {_of(found.unknown_rows, found.rows, 'row')}, of words that the model does not know"
    shifts = [kind for kind in found.kinds if kind != "contextual"]
    if shifts:
        described = {
            "log_ratio": f"log_ratio (log), floor {found.floor}",
            "asinh": f"asinh, delta {found.delta}",
            "difference": "difference (diff)",
        }
        yield f"shifts: {'; '.join(described[kind] for kind in shifts)}"
    if found.baseline_rows:
        yield ""
        yield f"baseline: {_of(found.baseline_rows, found.rows - found.unknown_rows, 'row')}"
        random = _Section("random pairs of different sentences", found.kinds, lambda m: m.random_similarity)
        yield from _table(found.trends[0], found.layers, [random])
    similar = [
        _Section("self-similarity", found.kinds, lambda m: m.self_similarity),
        _Section("above random pairs", found.kinds, lambda m: m.self_similarity_above_random),
    ]
    others = [_Section("intra-sentence similarity", found.kinds, lambda m: m.intra_sentence_similarity)]
    if shifts:
        others.append(_Section("length of the shift", shifts, lambda m: m.mean_norm))
    if "log_ratio" in shifts:
        others.append(_Section("defined", ["log_ratio"], lambda m: m.defined_share))
    for trend in found.trends:
        yield ""
        yield from _heading(found, trend)
        yield from _table(trend, found.layers, similar)
        yield from _table(trend, found.layers, others)


def _heading(found: "Trends", trend: "Trend") -> Iterator[str]:
    from ctxbatch.analysis.layer_rows import SAMPLE_MIN_OCCURRENCES, SAMPLE_OCCURRENCES

    # Where none is measured, as the store holds no whole one, there is no share of them to tell.
    sentences = _of(trend.measured_sentences or trend.sentences, trend.sentences, "sentence")
    occurrences = _of(trend.measured_occurrences, trend.occurrences, "occurrence")
    if found.eligible_words is None:
        unknown = trend.unknown_occurrences
        left_out = f", {unknown:,} that the model does not know left out" if unknown else ""
        yield f"{trend.words[0]}: {occurrences}, {sentences}{left_out}"
        return
    words = _of(len(trend.words), found.eligible_words, "word")
    yield f"sample: mean of {words} that occur {SAMPLE_MIN_OCCURRENCES} times or more"
    yield f"{occurrences}, {SAMPLE_OCCURRENCES} of a word at most; {sentences}"


def _of(n: int, among: int, what: str) -> str:
    counted = f"{among:,} {what}{'' if among == 1 else 's'}"
    return counted if n == among else f"{n:,} of {counted}"


def _table(trend: "Trend", layers: Sequence[int], sections: Sequence[_Section]) -> Iterator[str]:
    """Yield the lines of a table: a row per layer, and a column per kind under each section's heading."""
    by_place = {(each.layer, each.kind): each for each in trend.measures}
    rows = [["", *(f"   {section.heading}" for section in sections)]]
    rows.append(["layer", *(_cells(_SHORT[kind] for kind in section.kinds) for section in sections)])
    for layer in layers:
        numbers = [
            _cells(_number(by_place.get((layer, kind)), section.value) for kind in section.kinds)
            for section in sections
        ]
        rows.append([str(layer), *numbers])
    for first, *parts in rows:
        padded = (f"{part:<{section.width}}" for part, section in zip(parts, sections, strict=True))
        yield f"{first:>5}{'  '.join(padded)}".rstrip()


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"{text:>{_COLUMN}}" for text in texts)


def _number(measures: "Measures | None", value: _Value) -> str:
    found = None if measures is None else value(measures)
    if found is None:
        return "–"  # noqa: RUF001 (a dash for nothing, no minus)
    return f"{found:.3f}" if abs(found) < 1000 else f"{found:.0f}"
