"""The search command: where its queries come from, and how its answers are shown."""

import contextlib
import dataclasses
import io
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import AsJson, Layer, StoredModel, VectorKind
from ctxbatch.errors import InputError
from ctxbatch.search.filters import Filters

if TYPE_CHECKING:
    from ctxbatch.search.hits import Answer
    from ctxbatch.search.searcher import Searcher

log = logging.getLogger("ctxbatch")


def search(
    outs: Annotated[
        list[str],
        Argument(
            metavar="OUT... [QUERY]",
            help="Stores of one configuration, then a sentence with a word "
            'marked: "I will send her a [card]." Without a mark its most salient word is meant.',
            show_default=False,
        ),
    ],
    k: Annotated[int, Option("-k", metavar="N", help="How many hits.")] = 10,
    row: Annotated[
        int | None, Option(metavar="ID", help="More like this row of the first store, in place of QUERY.")
    ] = None,
    queries: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="Answer the queries of a file, one a line, in place of QUERY; - is standard input.",
        ),
    ] = None,
    on: VectorKind = None,
    layer: Layer = None,
    same_word: Annotated[bool, Option("--same-word", help="Only occurrences of the marked word.")] = False,
    other_words: Annotated[bool, Option("--other-words", help="Only occurrences of other words.")] = False,
    word: Annotated[
        list[str] | None, Option(metavar="W", help="Only occurrences of this word; may be repeated.")
    ] = None,
    exclude_word: Annotated[
        list[str] | None, Option(metavar="W", help="No occurrences of this word; may be repeated.")
    ] = None,
    source: Annotated[
        list[str] | None,
        Option(metavar="GLOB", help="Only from sources that match, as 'letters/*.txt'; may be repeated."),
    ] = None,
    doc: Annotated[
        list[str] | None, Option(metavar="ID", help="Only from this document; may be repeated.")
    ] = None,
    min_score: Annotated[float | None, Option(metavar="X", help="Only cosines of X or more.")] = None,
    distinct: Annotated[
        str | None,
        Option(metavar="sentence|document|word", help="At most one hit of each: the best."),
    ] = None,
    context: Annotated[int, Option(metavar="N", help="Show N sentences before and after, too.")] = 0,
    explain: Annotated[bool, Option("--explain", help="Show which dimensions a score comes from.")] = False,
    model: StoredModel = None,
    as_json: AsJson = False,
) -> None:
    r"""Find the nearest contexts of a word used in a sentence.

    A query that starts with - goes after --; \[ is a literal bracket.
    """
    filters = Filters(
        same_word=same_word,
        other_words=other_words,
        words=tuple(word or ()),
        exclude_words=tuple(exclude_word or ()),
        sources=tuple(source or ()),
        docs=tuple(doc or ()),
        min_score=min_score,
        distinct=distinct,  # type: ignore[arg-type]  # `Filters` checks it
    )
    folders, asked = _split_queries(outs, row, queries)
    searcher = ctxbatch.searcher(folders, on, layer, model)
    _tell_unindexed(searcher)
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
    if as_json:
        terminal.show(terminal.json_line(row) for answer in answers for row in answer.rows())
    else:
        terminal.show(_lines(answers, headings=queries is not None or len(answers) > 1))
    if not any(answer.hits for answer in answers) and answers:
        log.warning("no row of the store matches")
    if rejected:
        log.warning("%d of %d queries were not answered in full", len(set(rejected)), len(wanted))
        raise typer.Exit(3)


def _split_queries(
    arguments: list[str], row: int | None, queries: str | None
) -> tuple[list[str], list[tuple[int, str | int]]]:
    """The stores, and the queries with the numbers of their lines, wherever the queries come from."""
    if row is not None and queries is not None:
        raise InputError("--row and --queries exclude each other: give one")
    if (row is not None or queries is not None) and not _is_store(arguments[-1]) and " " in arguments[-1]:
        option = "--row" if row is not None else "--queries"
        raise InputError(f"{option} takes the place of the query {arguments[-1]!r}: give one of them")
    if row is not None:
        return arguments, [(1, row)]
    if queries is not None:
        asked = list(_read_queries(queries))
        if not asked:
            raise InputError(f"--queries {queries} holds no queries: write one a line")
        return arguments, asked
    if len(arguments) < 2 or _is_store(arguments[-1]):
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


def _is_store(argument: str) -> bool:
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
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--queries {path} cannot be read: {reason}") from None


def _tell_unindexed(searcher: "Searcher") -> None:
    from ctxbatch.search.index_build import SCAN_ROWS
    from ctxbatch.search.index_files import facts_path, rebuild_command

    for store in searcher.unindexed:
        if store.n_rows >= SCAN_ROWS:
            log.warning(
                "no index on %s: all rows are read; `%s` makes it fast",
                searcher.column,
                rebuild_command(facts_path(store.path, searcher.column)),
            )


def _lines(answers: "Sequence[Answer]", *, headings: bool) -> Iterator[str]:
    from ctxbatch.search.concordance import heading, keyword_in_context

    width, color = terminal.columns(), terminal.has_colors()
    for number, answer in enumerate(answers):
        if headings:
            if number:
                yield ""
            yield heading(answer, width, color=color)
        yield from keyword_in_context(answer.hits, width, color=color)
