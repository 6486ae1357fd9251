"""Decides from a sample how a source's text is laid out: its line ends, its records, its quotes.

Each decision is made once, for the plan, and is stored with the source.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctxbatch.choices import QuoteKind, TextRecord
from ctxbatch.corpus.formats.treebank import split_columns
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
_FEWEST_WRAPPED = 0.2
# A text of more lines than this has a blank one, or its paragraphs cannot be found.
_LONGEST_PARAGRAPH = 500


def choose_record(pieces: Sequence[Sequence[str]]) -> TextRecord:
    """Return ``paragraph`` for hard-wrapped text, whose lines are cut where they are full, else ``line``.

    A paragraph is wrapped if three quarters of its lines but the last are so long that the next word did not
    fit. A text is hard-wrapped if a fifth of its lines stand in such paragraphs, and if these lines leave
    their sentences open, and the next ones go on with small letters, in scripts that have them.

    Args:
        pieces: Consecutive lines from several places of the text.
    """
    n_lines = sum(map(len, pieces))
    runs = [run for piece in pieces for run in _runs(piece)]
    if n_lines > _LONGEST_PARAGRAPH * (1 + n_lines - sum(map(len, runs))):
        return "line"
    pairs_of_runs = [list(itertools.pairwise(run)) for run in runs]
    pairs = list(itertools.chain.from_iterable(pairs_of_runs))
    if len(pairs) < _FEWEST_PAIRS or sum(len(line) > _WIDEST for line, _ in pairs) > 0.05 * len(pairs):
        return "line"
    width = _width([line for line, _ in pairs])
    wrapped = [pair for run in pairs_of_runs if _is_wrapped(run, width) for pair in run]
    share = len(wrapped) / len(pairs)
    if width < _NARROWEST or share < _FEWEST_WRAPPED:
        return "line"
    # Some verse has a few long lines, many of which end a sentence.
    return "paragraph" if _goes_on(wrapped, 0.85 if share < 2 * _FEWEST_WRAPPED else 0.7) else "line"


def _runs(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the runs of lines between blank ones."""
    for is_blank, run in itertools.groupby(lines, lambda line: not line.strip()):
        if not is_blank:
            yield [line.rstrip() for line in run]


def _width(lines: Sequence[str]) -> int:
    """Return the length that one in twenty lines reaches: few are longer, such as tables and links."""
    return sorted(map(len, lines))[len(lines) * 19 // 20]


def _is_wrapped(pairs: Sequence[tuple[str, str]], width: int) -> bool:
    """Return True if most lines of a paragraph have no room for the next line's first word."""
    full = sum(len(line) + 1 + _first_word(following) >= width - 1 for line, following in pairs)
    return full >= 0.75 * len(pairs)


def _goes_on(pairs: Sequence[tuple[str, str]], share: float) -> bool:
    """Return True if sentences go on from line to line in more than this share of them."""
    is_open = sum(not _ends_sentence(line) for line, _ in pairs)
    starts = [following.lstrip()[0] for _, following in pairs]
    n_small, n_caseless = sum(map(str.islower, starts)), sum(map(_is_caseless, starts))
    return is_open > share * len(pairs) and (n_small > 0.3 * len(pairs) or n_caseless > 0.5 * len(pairs))


def _ends_sentence(line: str) -> bool:
    return line.rstrip(_CLOSING).endswith(_ENDS_SENTENCE)


def _is_caseless(letter: str) -> bool:
    return letter.isalpha() and letter.lower() == letter.upper()


def _first_word(line: str) -> int:
    """Return the length of a line's first word; of a text without spaces, of its first character."""
    word = line.split(maxsplit=1)[0]
    return len(word) if word.isascii() or len(word) < 20 else 1


# --- columns of vertical files --------------------------------------------------------------------

# Tags of spans of tokens, such as names.
_SPAN_TAG = re.compile(r"O|[BIESLU]-.*")
_FEW_TAGS, _MOST_TAGS = 20, 1_500


def choose_columns(pieces: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the names of a vertical file's second and third columns: lemma, upos, or empty.

    Lemmas begin as forms do. Parts of speech are few, and no tags of spans.
    """
    lines = itertools.chain.from_iterable(pieces)
    rows = [split_columns(line) for line in lines if line.strip() and not line.startswith(("<", "#"))]
    names = []
    for number in (1, 2):
        pairs = [(row[0].lower(), row[number]) for row in rows if len(row) > number]
        values = {value for _, value in pairs}
        alike = sum(form[:2] == value.lower()[:2] for form, value in pairs if form[:1].isalpha())
        spans = sum(_SPAN_TAG.fullmatch(value) is not None for _, value in pairs)
        name = ""
        if pairs and alike > 0.5 * sum(form[:1].isalpha() for form, _ in pairs):
            name = "lemma"
        elif (
            pairs
            and len(values) <= min(_MOST_TAGS, max(_FEW_TAGS, len(pairs) / 2))
            and spans < 0.5 * len(pairs)
        ):
            name = "upos"
        names.append("" if name in names else name)
    return tuple(names)


def _most_tags(n_tokens: int) -> float:
    """Return how many different parts of speech so many tokens can have."""
    return min(_MOST_TAGS, max(_FEW_TAGS, n_tokens / 2))


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
