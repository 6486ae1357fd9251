"""Runs the search command: reads its queries and shows its answers."""

import contextlib
import dataclasses
import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.answers import json_lines, tell_no_hit, tell_salient, tell_word
from ctxbatch.cli.answers import lines as lines_of
from ctxbatch.cli.options import (
    AsJson,
    CsvFile,
    Delta,
    Floor,
    Layer,
    ParquetFile,
    Standardise,
    StoredModel,
    VectorKind,
)
from ctxbatch.cli.resident import answer_each
from ctxbatch.cli.standardised import tell_standardised
from ctxbatch.errors import InputError, beginning, quoted
from ctxbatch.option_values import not_a_text
from ctxbatch.search.filters import Filters

if TYPE_CHECKING:
    from ctxbatch.search.searcher import Searcher
    from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")


_NO_FILTERS = Filters()
# Reading all rows of smaller stores takes less time than the start of the program.
_TOLD_ROWS = 1_000_000


def search(
    *out_and_query: Annotated[
        str,
        Parameter(
            name="OUT... [QUERY]",
            required=True,
            help="Stores made with the same model and vectors, then a sentence with a word marked: "
            '"I will send her a [card]." Without a mark, the query is its most salient word.',
        ),
    ],
    k: Annotated[int, Parameter(name="-k", metavar="N", help="Hits to show.")] = 10,
    row: Annotated[
        int | None, Parameter(metavar="ID", help="Search for more like this row of the first store.")
    ] = None,
    queries: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            allow_leading_hyphen=True,
            help="Answer the queries of a file, one per line; - is standard input.",
        ),
    ] = None,
    typed: Annotated[
        bool,
        Parameter(name="-", help="Read queries from a terminal or a pipe, and answer each at once."),
    ] = False,
    on: VectorKind = None,
    layer: Layer = None,
    delta: Delta = None,
    floor: Floor = None,
    standardise: Standardise = False,
    filters: Annotated[Filters, Parameter(name="*")] = _NO_FILTERS,
    context: Annotated[int, Parameter(metavar="N", help="Also show N sentences before and after.")] = 0,
    explain: Annotated[bool, Parameter(help="Show the dimensions that a score comes from.")] = False,
    model: StoredModel = None,
    as_json: AsJson = False,
    as_csv: CsvFile = None,
    as_parquet: ParquetFile = None,
) -> int:
    r"""Find the nearest contexts of a word used in a sentence.

    A query that starts with - goes after --; \[ is a literal bracket.
    """
    from ctxbatch.search.hits import hits_table
    from ctxbatch.tables.table_files import TableFiles

    files = TableFiles({"--csv": as_csv, "--parquet": as_parquet})
    if typed:
        _check_typed({"--row": row, "--queries": queries, "--csv": as_csv, "--parquet": as_parquet})
    folders, asked = _split_queries(list(out_and_query), row, queries, typed=typed)
    stores = [ctxbatch.open(folder) for folder in folders]
    is_ours = filters.other_words and (on, delta, floor) == (None, None, None)
    kind = stores[0].config.kind_of_search(among_other_words=True) if is_ours else on
    searcher = ctxbatch.searcher(
        stores, kind, layer, model, delta=delta, floor=floor, standardise=standardise
    )
    _tell_column(stores, searcher, is_ours=is_ours)
    ask = partial(searcher.ask, k=k, filters=filters, context=context, explain=explain)
    first_store = str(stores[0].path)
    if typed:
        ask([])  # wrong options are told before a query is asked for
        searcher.warm_up(filters)
        return answer_each(ask, first_store, filters, as_json=as_json)
    lines, wanted = [number for number, _ in asked], [query for _, query in asked]
    rejected: list[int] = []

    def reject(number: int, error: InputError) -> None:
        if queries is None:
            raise error
        rejected.append(number)
        log.warning("%s, line %d: %s", queries, lines[number], error)

    answers = [
        dataclasses.replace(answer, query=lines[answer.query] - 1) for answer in ask(wanted, on_reject=reject)
    ]
    if queries is None and answers:
        tell_salient(answers[0])
    for answer in answers:
        tell_word(answer, "" if queries is None else f"{queries}, line {answer.query + 1}: ")
    files.write(lambda: hits_table(answers))  # first, as who reads the lines may stop
    headings = queries is not None or len(answers) > 1
    terminal.show(json_lines(answers) if as_json else lines_of(answers, first_store, headings=headings))
    tell_no_hit(answers, filters)
    if rejected:
        log.warning("%d of %d queries have errors", len(set(rejected)), len(wanted))
        return 3
    return 0


def _tell_column(stores: "Sequence[Store]", searcher: "Searcher", *, is_ours: bool) -> None:
    """Say what is to know about the vectors that the search goes by; ``is_ours`` if it chose them."""
    column, config = searcher.column, stores[0].config
    _tell_cost(stores[0], column)
    if is_ours and config.kind_of_search(among_other_words=True) != config.kind_of_search(
        among_other_words=False
    ):
        log.info("among other words the search goes by %s; name another with --on", column)
    names = {store.path: store.config.column(config.identity(column)) for store in stores}
    for store in stores:
        tell_standardised(store, [names[store.path]])
    _tell_unindexed(searcher.unindexed(), names)


def _check_typed(others: Mapping[str, object]) -> None:
    """Refuse options that cannot be used with queries from a terminal or a pipe."""
    for option, value in others.items():
        if value is not None:
            raise InputError(f"{option} and - exclude each other, as - reads queries one by one: give one")


def _only_stores(arguments: list[str], instead: str) -> list[str]:
    """Return the arguments, which must be stores, as what is given instead of a query says."""
    if not is_store(arguments[-1]) and " " in arguments[-1]:
        raise InputError(f"give either {instead} or the query {quoted(arguments[-1])}, not both")
    return arguments


def _split_queries(
    arguments: list[str], row: int | None, queries: str | None, *, typed: bool
) -> tuple[list[str], list[tuple[int, str | int]]]:
    """Return the stores, and the queries with their line numbers."""
    if row is not None and queries is not None:
        raise InputError("--row and --queries exclude each other: give one")
    if typed:
        return _only_stores(arguments, "-"), []
    if row is not None:
        return _only_stores(arguments, "--row"), [(1, row)]
    if queries is not None:
        _only_stores(arguments, "--queries")
        asked = list(_read_queries(queries))
        if not asked:
            raise InputError(f"--queries {queries} holds no queries: write one per line")
        return arguments, asked
    if len(arguments) < 2 or is_store(arguments[-1]):
        raise InputError(
            'a query is missing: add a sentence with a word marked, as "I will send her a [card].", '
            "or --row, --queries or -"
        )
    from ctxbatch.search.queries import parse_query

    query = parse_query(arguments[-1])  # a wrong one is told at once, before the model is loaded
    if not query.marks and " " not in query.text.strip():
        raise InputError(
            f"{quoted(query.text)} is neither a store nor a sentence: mark a word alone, as "
            f"[{beginning(query.text)}]"
        )
    return arguments[:-1], [(1, arguments[-1])]


def is_store(argument: str) -> bool:
    """Return True if an argument names a store rather than a query."""
    from ctxbatch.corpus.store_marker import MANIFEST
    from ctxbatch.filesystem import is_remote  # which loads pyarrow

    if is_remote(argument) and not re.search(r"[\s\[]", argument):
        return True
    try:
        return (Path(argument) / MANIFEST).exists()
    except OSError:  # a query may be too long for a path
        return False


def _read_queries(path: str) -> Iterator[tuple[int, str | int]]:
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            # Whatever the locale: a query file is UTF-8, as text is.
            for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise not_a_text("--queries", path, error) from None


def _tell_cost(store: "Store", column: str) -> None:
    from ctxbatch.formulas import cost_of_log_ratio

    is_log_ratio = store.config.identity(column).startswith("log_ratio")
    if is_log_ratio and (cost := cost_of_log_ratio(store.config.precision)):
        log.info("%s", cost)


def _tell_unindexed(stores: "Sequence[Store]", names: Mapping[Path, str]) -> None:
    from ctxbatch.search.index_files import facts_path, rebuild_command

    for store in stores:
        if store.n_rows >= _TOLD_ROWS:
            name = names[store.path]
            log.warning(
                "no index on %s, so the search reads all rows; build one with `%s`",
                name,
                rebuild_command(facts_path(store.path, name)),
            )
