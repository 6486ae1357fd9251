"""Runs the search command: reads its queries and shows its answers."""

import contextlib
import dataclasses
import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
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
from ctxbatch.cli.standardised import tell_standardised
from ctxbatch.errors import InputError
from ctxbatch.option_values import not_a_text
from ctxbatch.search.filters import Filters

if TYPE_CHECKING:
    from ctxbatch.search.hits import Answer
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

    folders, asked = _split_queries(list(out_and_query), row, queries)
    files = TableFiles({"--csv": as_csv, "--parquet": as_parquet})
    stores = [ctxbatch.open(folder) for folder in folders]
    is_ours = filters.other_words and (on, delta, floor) == (None, None, None)
    kind = stores[0].config.kind_of_search(among_other_words=True) if is_ours else on
    searcher = ctxbatch.searcher(
        stores, kind, layer, model, delta=delta, floor=floor, standardise=standardise
    )
    column = searcher.column
    _tell_cost(stores[0], column)
    if is_ours and kind != stores[0].config.kind_of_search(among_other_words=False):
        log.info("among other words the search goes by %s; name another with --on", column)
    names = {store.path: store.config.column(stores[0].config.identity(column)) for store in stores}
    for store in stores:
        tell_standardised(store, [names[store.path]])
    _tell_unindexed(searcher.unindexed(), names)
    rejected: list[int] = []

    def reject(number: int, error: InputError) -> None:
        if queries is None:
            raise error
        rejected.append(number)
        log.warning("%s, line %d: %s", queries, lines[number], error)

    lines, wanted = [number for number, _ in asked], [query for _, query in asked]
    answers = [
        dataclasses.replace(answer, query=lines[answer.query] - 1)
        for answer in searcher.ask(wanted, k, filters, context=context, explain=explain, on_reject=reject)
    ]
    if queries is None and answers and answers[0].salient:
        word_of_it = answers[0].word
        log.info("no word is marked: searching for %r, the most salient of the sentence", word_of_it)
    for answer in answers:
        _tell_word(answer, "" if queries is None else f"{queries}, line {answer.query + 1}: ")
    files.write(lambda: hits_table(answers))  # first, as who reads the lines may stop
    if as_json:
        terminal.show(terminal.json_line(row) for answer in answers for row in answer.rows())
    else:
        with_headings = queries is not None or len(answers) > 1
        terminal.show(_lines(answers, str(stores[0].path), headings=with_headings))
    if not any(answer.hits for answer in answers) and answers:
        log.warning("no hit: %s", _why_no_hit(answers, filters))
    if rejected:
        log.warning("%d of %d queries have errors", len(set(rejected)), len(wanted))
        return 3
    return 0


def _why_no_hit(answers: "Sequence[Answer]", filters: Filters) -> str:
    scores = [answer.best_score for answer in answers if answer.best_score is not None]
    if scores and filters.min_score is not None:
        return f"the best score is {max(scores)}, below --min-score {filters.min_score}"
    unknown = "" if filters.unknown else ", add --unknown if the model may not know the words"
    return f"relax the filters{unknown}, or mark another word"


def _tell_word(answer: "Answer", place: str) -> None:
    if answer.widened:
        log.info("%sthe mark is a part of %r: searching for the whole word", place, answer.word)
    if not answer.known:
        what = "the model does not know %r: its vector is that of any unknown text"
        log.warning(f"%s{what}", place, answer.word)


def _split_queries(
    arguments: list[str], row: int | None, queries: str | None
) -> tuple[list[str], list[tuple[int, str | int]]]:
    """Return the stores, and the queries with their line numbers."""
    if row is not None and queries is not None:
        raise InputError("--row and --queries exclude each other: give one")
    if (row is not None or queries is not None) and not is_store(arguments[-1]) and " " in arguments[-1]:
        option = "--row" if row is not None else "--queries"
        raise InputError(f"give either {option} or the query {arguments[-1]!r}, not both")
    if row is not None:
        return arguments, [(1, row)]
    if queries is not None:
        asked = list(_read_queries(queries))
        if not asked:
            raise InputError(f"--queries {queries} holds no queries: write one per line")
        return arguments, asked
    if len(arguments) < 2 or is_store(arguments[-1]):
        raise InputError(
            'a query is missing: add a sentence with a word marked, as "I will send her a [card].", '
            "or --row or --queries"
        )
    from ctxbatch.search.queries import parse_query

    query = parse_query(arguments[-1])  # a wrong one is told at once, before the model is loaded
    if not query.marks and " " not in query.text.strip():
        raise InputError(
            f"{query.text!r} is neither a store nor a sentence: mark a word alone, as [{query.text}]"
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


def _lines(answers: "Sequence[Answer]", first_store: str, *, headings: bool) -> Iterator[str]:
    """Yield the lines of answers; only hits of the first store show their row ids, as --row takes these."""
    from ctxbatch.search.concordance import heading, keyword_in_context

    width, color = terminal.columns(), terminal.has_colors()
    for number, answer in enumerate(answers):
        if headings:
            if number:
                yield ""
            yield heading(answer, width, color=color)
        yield from keyword_in_context(answer.hits, width, color=color, numbered=first_store)
