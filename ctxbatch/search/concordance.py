"""Formats hits as keyword-in-context lines for people.

Owns only the layout. Widths are columns of the terminal; wide characters take two.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from wcwidth import wcswidth, wcwidth, wrap

from ctxbatch.search.hits import Answer, Explanation, Hit
from ctxbatch.terminal import Styled, flat, styled

# How many characters to consider for each column of the terminal, since some take no column.
_CHARS_PER_COLUMN = 4
# Beside row ids and copies, source:line is cut to leave so many columns to the text, but not below its least.
_ENOUGH_TEXT = 40
_LEAST_PLACE = 12
# Row ids, and then copies, that would leave fewer columns to the text are not shown.
_LEAST_TEXT = 24
_EMPHASIS, _DIM = "\x1b[1;32m", "\x1b[2m"


def keyword_in_context(
    hits: Sequence[Hit], width: int, *, color: bool = False, numbered: str | None = None
) -> Iterator[str]:
    """Yield a line for each hit, aligned on the word, with its score, source:line, copies and row id.

    If a hit has surrounding sentences or an explanation, they follow on lines of their own.

    Args:
        hits: The hits.
        width: The columns of the terminal.
        color: Show the word in colour, and copies and row ids dim.
        numbered: The store whose hits show their row ids.
    """
    numbers = _numbers(hits, numbered, width - _LEAST_PLACE - 10 - _LEAST_TEXT)
    numbers_room = max(map(len, numbers), default=0)
    most = min(width // 3, width - numbers_room - 10 - _ENOUGH_TEXT) if numbers_room else width // 3
    places = [_tail(place, max(_LEAST_PLACE, most)) for place in _places(hits)]
    longest = max(map(_columns, places), default=0)
    room = max(12, width - longest - 10 - numbers_room)
    word_room = max((_columns(flat(hit.word)) for hit in hits), default=0)
    left_room = max(6, (room - word_room) // 2)
    right_room = max(6, room - word_room - left_room)
    for hit, place, numbers_of_it in zip(hits, places, numbers, strict=True):
        before = _cut_between_words(flat(hit.text[: hit.char_start])[::-1], left_room)[::-1]
        word = _cut(flat(hit.text[hit.char_start : hit.char_end]), word_room + right_room)
        room_after = word_room + right_room - _columns(word)
        after = _cut_between_words(flat(hit.text[hit.char_end :]), room_after)
        padding = " " * (word_room + right_room - _columns(word) - _columns(after))
        indent = " " * (left_room - _columns(before))
        first, last = f"{hit.score:6.3f}  {indent}{before}", f"{after}{padding}  {place}"
        edge = (" " * (longest - _columns(place)) + numbers_of_it).rstrip()
        if color:
            yield Styled(styled(_EMPHASIS, word, first, last) + (styled(_DIM, edge) if edge else ""))
        else:
            yield f"{first}{word}{last}{edge}"
        yield from _around(hit, width)
        if hit.explanation is not None:
            yield from _indented(_explained(hit.explanation), width)


def heading(answer: Answer, width: int, *, color: bool = False) -> str:
    """Return the query of an answer on one line, its word in brackets; cut a long query around the word."""
    start, end = answer.char_start, answer.char_end
    note = " (its most salient word)" if answer.salient else ""
    word = _cut(f"[{flat(answer.text[start:end])}]", width)
    # A query can be as long as a book and have an answer for each of its words, so most of it is skipped.
    begin = max(0, start - _CHARS_PER_COLUMN * width)
    before = flat(answer.text[begin:start])
    after = flat(answer.text[end : end + _CHARS_PER_COLUMN * width])
    room = max(0, width - _columns(word) - _columns(note))
    if begin or _columns(before) > room - min(room // 2, _columns(after)):
        before = _tail(f"…{before}" if begin else before, max(1, room // 2))
    line = before + word + _cut(after, max(0, room - _columns(before))).rstrip() + note
    return styled(_DIM, line) if color else line


def _around(hit: Hit, width: int) -> Iterator[str]:
    """Yield the lines of a hit's sentence together with the sentences before and after it."""
    if hit.before is not None and hit.after is not None:
        yield from _indented(flat(" ".join((*hit.before, hit.text, *hit.after))), width)


def _indented(text: str, width: int) -> Iterator[str]:
    yield from wrap(text, max(20, width), initial_indent=" " * 8, subsequent_indent=" " * 8)


def _explained(explanation: Explanation) -> str:
    largest = ", ".join(f"{number} ({share:+.3f})" for number, share in explanation.dimensions)
    return (
        f"{explanation.shared} of {explanation.of} dimensions are nonzero in both vectors; "
        f"the largest contributions to the cosine: {largest}"
    )


def _places(hits: Sequence[Hit]) -> list[str]:
    """Return the source:line of every hit, without the folders that all sources share."""
    sources = {hit.source: os.path.abspath(hit.source) for hit in hits}  # noqa: PTH100 (follows no links)
    shared = os.path.commonpath([str(PurePath(path).parent) for path in sources.values()] or [""])
    return [f"{flat(os.path.relpath(sources[hit.source], shared))}:{hit.record + 1}" for hit in hits]


def _numbers(hits: Sequence[Hit], numbered: str | None, at_most: int) -> list[str]:
    """Return the copies and the row id of each hit, in columns; only what fits."""
    copies = _right_aligned([f"+{hit.copies}" if hit.copies else "" for hit in hits])
    row_ids = _right_aligned([str(hit.row_id) if hit.store == numbered else "" for hit in hits])
    both = [one + other for one, other in zip(copies, row_ids, strict=True)]
    fitting = (each for each in (both, copies) if all(len(text) <= at_most for text in each))
    return next(fitting, [""] * len(hits))


def _right_aligned(texts: Sequence[str]) -> list[str]:
    """Return texts as a column after two spaces; no column if all are empty."""
    longest = max(map(len, texts), default=0)
    return [f"  {text:>{longest}}" if longest else "" for text in texts]


def _columns(text: str) -> int:
    return max(0, int(wcswidth(text)))


def _tail(text: str, columns: int) -> str:
    """Return a text; if it does not fit, an ellipsis and the end of it that fits."""
    return text if _columns(text) <= columns else f"…{_cut(text[::-1], columns - 1)[::-1]}"


def _cut_between_words(text: str, columns: int) -> str:
    """Return a text; if it does not fit, the words at its beginning that do, and an ellipsis."""
    # A sentence can be as long as a book, and only its beginning can fit.
    some = text[: _CHARS_PER_COLUMN * (columns + 1)]
    if len(some) == len(text) and _columns(text) <= columns:
        return text
    fits = _cut(some, columns - 1)
    words = fits if some[len(fits) : len(fits) + 1].isspace() else fits.rpartition(" ")[0]
    return f"{words.rstrip() or fits}…" if columns > 0 else ""


def _cut(text: str, columns: int) -> str:
    """Return the beginning of a text that fits."""
    used = 0
    for number, char in enumerate(text):
        used += wcwidth(char)
        if used > columns:
            return text[:number]
    return text
