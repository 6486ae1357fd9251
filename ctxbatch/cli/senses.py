"""Runs the senses command, and shows the groups of a word's occurrences."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import AsJson, CsvFile, Delta, Floor, Layer, ParquetFile, Standardise, StoreHere
from ctxbatch.cli.standardised import tell_standardised

if TYPE_CHECKING:
    from ctxbatch.analysis.senses import SenseGroup, Senses
    from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")


def senses(
    out: StoreHere,
    word: Annotated[str, Parameter(help="The word, in upper or lower case.")],
    /,
    *,
    groups: Annotated[
        int | None,
        Parameter(metavar="N", show_default="chosen from 1 to 10 by silhouette", help="Number of groups."),
    ] = None,
    on: Annotated[
        str | None,
        Parameter(
            metavar="KIND",
            show_default="the first of contextual, shift and static that is stored",
            help="Vectors: contextual, shift, static, or a shift by name: log_ratio, asinh, difference.",
        ),
    ] = None,
    layer: Layer = None,
    delta: Delta = None,
    floor: Floor = None,
    standardise: Standardise = False,
    where: Annotated[
        str | None,
        Parameter(metavar="SQL", help='Only occurrences for which this is true, such as "year >= 1900".'),
    ] = None,
    lines: Annotated[
        int, Parameter(name=["--lines", "-n"], metavar="N", help="Example lines per group.")
    ] = 5,
    as_json: AsJson = False,
    as_csv: CsvFile = None,
    as_parquet: ParquetFile = None,
) -> None:
    """Group a word's occurrences by sense, and show the most central occurrences of each group."""
    from ctxbatch.analysis.result_tables import senses_table
    from ctxbatch.analysis.senses import find_senses
    from ctxbatch.tables.table_files import TableFiles

    files = TableFiles({"--csv": as_csv, "--parquet": as_parquet})
    store = ctxbatch.open(out)
    store.check_is_here()
    found = find_senses(
        store,
        word,
        groups,
        lines,
        on,
        layer,
        delta=delta,
        floor=floor,
        standardise=standardise,
        where=where,
    )
    _tell_positions(store, found.column)
    tell_standardised(store, [found.column])
    files.write(lambda: senses_table(store, found))  # first, as who reads the lines may stop
    terminal.show([terminal.json_line(found.as_dict())] if as_json else _lines(found, terminal.columns()))


def _tell_positions(store: "Store", column: str) -> None:
    config = store.config
    is_log_ratio = config.identity(column).startswith("log_ratio")
    if is_log_ratio and config.static == "embeddings":
        remedy = "use --on contextual" if "contextual" in config.vectors else "run with --static lookup"
        log.warning(
            "%s, the log ratio to static vectors with positions in them, groups by position more than by "
            "sense: %s",
            column,
            remedy,
        )


def _lines(found: "Senses", width: int) -> Iterator[str]:
    from wcwidth import wrap

    from ctxbatch.search.concordance import keyword_in_context

    yield from wrap(terminal.printable(_summary(found)), width)
    # All at once, so that the lines of all groups are aligned with each other.
    hits = [hit for group in found.groups for hit in group.lines]
    lines = iter(list(keyword_in_context(hits, width, color=terminal.has_colors())))
    for group in found.groups:
        yield ""
        yield from wrap(terminal.printable(_heading(group)), width)
        for _ in group.lines:
            yield next(lines)


def _summary(found: "Senses") -> str:
    from ctxbatch.analysis.clustering import ONE_GROUP

    n = len(found.groups)
    parts = [f"{found.word}: {found.grouped:,} occurrences on {found.column} in {n} group{'s' * (n > 1)}"]
    if found.silhouette is not None:
        parts.append(f"silhouette {found.silhouette:.2f}")
    elif found.best is not None:
        n_best, silhouette = found.best
        parts.append(f"best silhouette {silhouette:.2f} with {n_best} groups, below {ONE_GROUP}")
    if found.sampled < found.grouped:
        parts.append(f"grouped from a sample of {found.sampled:,}")
    if found.unknown:
        parts.append(f"{found.unknown:,} that the model does not know left out")
    if found.zero:
        parts.append(f"{found.zero:,} zero vectors left out")
    return ", ".join(parts)


def _heading(group: "SenseGroup") -> str:
    typical = f"; typical: {', '.join(group.typical)}" if group.typical else ""
    return f"{group.number}: {group.size:,} ({group.share:.0%}){typical}"
