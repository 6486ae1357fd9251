"""Answers queries from a terminal or a pipe: each line is answered before the next is read.

Owns the prompt, and the line of JSON that ends the answer to a query.
"""

import codecs
import contextlib
import io
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ctxbatch import terminal
from ctxbatch.cli.answers import json_lines, lines, tell_no_hit, tell_salient, tell_word
from ctxbatch.errors import InputError, Stopped, cannot_be_read
from ctxbatch.search.filters import Filters

if TYPE_CHECKING:
    from ctxbatch.search.hits import Answer

log = logging.getLogger("ctxbatch")

_PROMPT = "query> "


def answer_each(
    ask: Callable[..., "list[Answer]"], first_store: str, filters: Filters, *, as_json: bool
) -> int:
    """Answer each line of standard input until it ends, and return the exit status.

    Args:
        ask: Answers a list of queries, as `ctxbatch.search.searcher.Searcher.ask`.
        first_store: The store whose hits show their row ids.
        filters: The conditions on hits.
        as_json: Print JSON.
    """
    asked = wrong = 0
    is_typed = _is_edited()
    for number, query in _queries():
        place = "" if is_typed else f"standard input, line {number}: "
        answers, errors = _answer(ask, query)
        answers = [replace(answer, query=number - 1) for answer in answers]
        for error in errors:
            log.warning("%s%s", place, error)
        for answer in answers:
            tell_word(answer, place)
        if as_json:
            terminal.show([*json_lines(answers), _end(number, answers, errors)])
        else:
            _show(answers, first_store, is_first=not asked, is_typed=is_typed)
        terminal.flush()
        tell_no_hit(answers, filters, place)
        asked += 1
        wrong += bool(errors)
    if wrong:
        log.warning("%d of %d queries have errors", wrong, asked)
    return 3 if wrong else 0


def _answer(
    ask: Callable[..., "list[Answer]"], query: str | InputError
) -> tuple["list[Answer]", list[InputError]]:
    """Return the answers to a query, and what is wrong with it."""
    if isinstance(query, InputError):
        return [], [query]
    errors: list[InputError] = []
    return ask([query], on_reject=lambda _, error: errors.append(error)), errors


def _end(number: int, answers: "list[Answer]", errors: list[InputError]) -> str:
    """Return the line of JSON that ends the answer to a query, also to one without hits."""
    n_hits = sum(len(answer.hits) for answer in answers)
    return terminal.json_line({"query": number - 1, "hits": n_hits, "errors": [str(each) for each in errors]})


def _show(answers: "list[Answer]", first_store: str, *, is_first: bool, is_typed: bool) -> None:
    """Print the answers to a query; the query stands above them already if it was typed."""
    with_headings = not is_typed or len(answers) > 1
    if not with_headings:
        for answer in answers:
            tell_salient(answer)
    elif answers and not is_first and not is_typed:
        terminal.show([""])
    terminal.show(lines(answers, first_store, headings=with_headings))


def _queries() -> Iterator[tuple[int, str | InputError]]:
    """Yield each line of standard input that is not empty, with its number, or what is wrong with it."""
    read = _edited_lines() if _is_edited() else _line
    for number in itertools.count(1):
        try:
            raw = read()
        except OSError as error:
            raise cannot_be_read("standard input", error) from error
        except Stopped:
            _end_prompt()
            raise
        if not raw:
            _end_prompt()
            return
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            text = raw.decode().rstrip("\r\n")  # UTF-8 whatever the locale, as text is
        except UnicodeDecodeError as error:
            yield number, InputError(f"byte {error.start + 1} is not UTF-8: send UTF-8")
        else:
            if text.strip():
                yield number, text


def _is_edited() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _edited_lines() -> Callable[[], bytes]:
    """Return a function that lets a line be edited on the terminal; it returns nothing at the end."""
    with contextlib.suppress(ImportError):  # Python may be built without it
        import readline  # noqa: F401 (`input` uses it)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")

    def read() -> bytes:
        try:
            return f"{input(_PROMPT)}\n".encode("utf-8", "surrogateescape")
        except EOFError:
            return b""

    return read


def _line() -> bytes:
    """Return the next line of standard input, as soon as it is there; nothing at its end."""
    if sys.stdin.isatty():
        terminal.prompt(_PROMPT)
    return sys.stdin.buffer.readline()


def _end_prompt() -> None:
    """End the line of the prompt on a terminal."""
    if sys.stdin.isatty():
        terminal.tell("")
