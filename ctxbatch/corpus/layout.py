"""Decides from a sample how a source's text is laid out: its line ends, its records, its quotes.

Each decision is made once, for the plan, and is stored with the source.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctxbatch.choices import QuoteKind, TextRecord
from ctxbatch.corpus.sources import LineEnd
from ctxbatch.corpus.text_sample import TextSample

# --- line ends ------------------------------------------------------------------------------------


def choose_newline(sample: TextSample, encoding: str) -> LineEnd | None:
    """Return ``cr`` if the lines end with CR, as on old Macintoshes; ``None`` if they end with LF or CRLF."""
    texts = sample.texts(encoding)
    if any("\n" in text for text in texts):
        return None
    return "cr" if any("\r" in text for text in texts) else None


# --- lines or paragraphs --------------------------------------------------------------------------

# What may follow the mark that ends a sentence.
_CLOSING = "\"'”’»›)]}*_"  # noqa: RUF001 (quotes of other languages)
_ENDS_SENTENCE = tuple(".!?:;…。！？।؟۔։჻።")  # noqa: RUF001 (marks of other scripts)
# Lines are wrapped to a width between these, in characters.
_NARROWEST, _WIDEST = 20, 140
_FEWEST_PAIRS = 3
# A text of more lines than this has a blank one, or its paragraphs cannot be found.
_LONGEST_PARAGRAPH = 500


def choose_record(pieces: Sequence[Sequence[str]]) -> TextRecord:
    """Return ``paragraph`` for hard-wrapped text, whose lines are cut where they are full, else ``line``.

    A text is hard-wrapped if most lines that another one follows do not end a sentence, if most are so long
    that the next word did not fit, and if many of the next lines begin with a small letter (in scripts that
    have them).

    Args:
        pieces: Consecutive lines from several places of the text.
    """
    n_lines = sum(map(len, pieces))
    n_blank = sum(not line.strip() for piece in pieces for line in piece)
    if n_lines > _LONGEST_PARAGRAPH * (1 + n_blank):
        return "line"
    pairs = [pair for piece in pieces for pair in _pairs(piece)]
    wide = [max(len(line), len(following)) > _WIDEST for line, following in pairs]
    if len(pairs) < _FEWEST_PAIRS or sum(wide) > 0.05 * len(pairs):
        return "line"
    width = _width([line for line, _ in pairs])
    open_ended = sum(not _ends_sentence(line) for line, _ in pairs)
    full = sum(len(line) + 1 + _first_word(following) >= width for line, following in pairs)
    small = sum(following.lstrip()[0].islower() for _, following in pairs)
    caseless = sum(_is_caseless(following.lstrip()[0]) for _, following in pairs)
    is_wrapped = width >= _NARROWEST and open_ended > 0.5 * len(pairs) and full > 0.5 * len(pairs)
    goes_on = small > 0.3 * len(pairs) or caseless > 0.5 * len(pairs)
    return "paragraph" if is_wrapped and goes_on else "line"


def _pairs(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield lines that are not blank with the line that follows, if that is not blank either."""
    for line, following in itertools.pairwise(lines):
        if line.strip() and following.strip():
            yield line.rstrip(), following.rstrip()


def _width(lines: Sequence[str]) -> int:
    """Return the length that one in twenty lines reaches: few are longer, such as tables and links."""
    return sorted(map(len, lines))[len(lines) * 19 // 20]


def _ends_sentence(line: str) -> bool:
    return line.rstrip(_CLOSING).endswith(_ENDS_SENTENCE)


def _is_caseless(letter: str) -> bool:
    return letter.isalpha() and letter.lower() == letter.upper()


def _first_word(line: str) -> int:
    """Return the length of a line's first word; of a text without spaces, of its first character."""
    word = line.split(maxsplit=1)[0]
    return len(word) if word.isascii() or len(word) < 20 else 1


# --- quotes ---------------------------------------------------------------------------------------

_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_LONGEST_QUOTED = 1 << 16


@dataclass(slots=True)
class _Quotes:
    """Counts of a sample's fields with quotes: those that only CSV quoting explains, and those it does not.

    ``plain`` are fields in quotes that need none. ``bare`` are fields without quotes.
    """

    csv: int = 0
    text: int = 0
    plain: int = 0
    bare: int = 0


def choose_quoting(sample: TextSample, encoding: str, newline: LineEnd | None, delimiter: str) -> QuoteKind:
    """Return ``csv`` if quotes enclose fields, ``none`` if they are text like other characters.

    A writer of CSV puts a field in quotes if it holds a quote, which it doubles, a delimiter or a line end. A
    quote inside a field that does not begin with one, or one that opens a field and does not close it, is
    therefore text. If every quote could be both, only CSV with commas is believed to quote without need.
    """
    found = _Quotes()
    for lines in sample.lines(encoding, newline):
        _count_quotes("\n".join(lines), delimiter, found)
    if found.csv or found.text:
        return "csv" if found.csv >= found.text else "none"
    quotes_all = found.plain > found.bare
    if delimiter == "\t" and not quotes_all and (found.plain or not sample.is_whole):
        return "none"
    return "csv"


def _count_quotes(text: str, delimiter: str, found: _Quotes) -> None:
    """Count the fields of consecutive lines by what their quotes can mean."""
    n_columns = text.partition("\n")[0].count(delimiter) + 1
    position = column = 0
    while position < len(text):
        match = _QUOTED.match(text, position) if text[position] == '"' else None
        end = match.end() if match else position
        if (
            match
            and (end == len(text) or text[end] in (delimiter, "\n"))
            and end - position < _LONGEST_QUOTED
        ):
            if _joins_rows(match[1], delimiter, column, n_columns):
                found.text += 1
            elif '""' in match[1] or "\n" in match[1] or delimiter in match[1]:
                found.csv += 1
            else:
                found.plain += 1
        else:
            end = _end_of_field(text, position, delimiter)
            field = text[position:end]
            found.text += '"' in field
            found.bare += '"' not in field and bool(field)
        column = column + 1 if text[end : end + 1] == delimiter else 0
        position = end + 1


def _joins_rows(inner: str, delimiter: str, column: int, n_columns: int) -> bool:
    """Return True if the text between two quotes begins and ends in a column of its name, rows apart.

    Then each quote belongs to the text of its own row. In prose, commas say nothing.
    """
    _, *between = inner.split("\n")
    if not between or not column or delimiter == ",":
        return False
    *whole, last = (line.count(delimiter) for line in between)
    return last == column and all(count == n_columns - 1 for count in whole)


def _end_of_field(text: str, start: int, delimiter: str) -> int:
    ends = [end for end in (text.find(delimiter, start), text.find("\n", start)) if end >= 0]
    return min(ends, default=len(text))
