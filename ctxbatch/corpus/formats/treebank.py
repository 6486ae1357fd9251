"""Reads CoNLL-U and vertical files, with a token on each line: a record is a sentence, whose words are given.

In CoNLL-U, offsets point into ``# text =``, or into the forms joined where that is missing or different. In
vertical files, such as those of the Corpus Workbench and of CoNLL-2003, the first column is the form, and the
text is the forms joined by spaces.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ctxbatch.corpus.units import BadRecordError, Content, OpenSource, Tokens, Unit, joined, trimmed

_LINE_END = re.compile(r"\r\n?|\n")
_COMMENT = re.compile(r"#\s*([\w.:-]+)\s*=\s*(.*)")
_VALUE = r"""\s++[\w:.-]++\s*+=\s*+(?:"[^"]*+"|'[^']*+')"""
_TAG = re.compile(rf"<(/?)([A-Za-z][\w.:-]*+)((?:{_VALUE})*+|\s[^<>]*+)\s*+/?>\s*+")
_ATTRIBUTE = re.compile(r"""(?<![\w:.-])([\w:.-]++)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_LONGEST_TAG = 4_096
# Elements that hold whole sentences; others, such as names, stand inside one.
_AROUND_SENTENCES = frozenset(
    {"s", "sent", "sentence", "p", "par", "head", "l", "lg", "u", "sp", "div", "text", "doc", "corpus"}
)
_DOCUMENTS = frozenset({"text", "doc"})
_GLUE = "g"  # no space before the next token
_DOC_START = "-DOCSTART-"
# The number of a word, of an empty node behind it, and of the last of several words.
_NUMBER = re.compile(r"(\d{1,9})(?:(\.\d{1,9})|-(\d{1,9}))?")
# Columns of CoNLL-U, and of CoNLL-X before it.
_ID, _FORM, _LEMMA, _UPOS, _MISC = 0, 1, 2, 3, 9
_FEWEST_COLUMNS = 8
# A vertical file without ends of sentences is cut, so that not all of it is one record.
_MOST_TOKENS = 10_000
_MOST_LINES = 100_000
_TOO_MANY = f"a sentence of {_MOST_LINES:,} lines"


class _Word(NamedTuple):
    form: str
    lemma: str | None
    upos: str | None
    space_after: bool


# --- CoNLL-U --------------------------------------------------------------------------------------


def conllu_units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per sentence, which a blank line ends; blank lines are no records."""
    lines: list[Unit] = []
    for line in source.lines(start, 0):
        if line.problem is None and line.is_record and not source.is_blank(line):
            lines.append(line)
            if len(lines) < _MOST_LINES:
                continue
            yield joined(lines, _TOO_MANY)._replace(number=number)
            number += 1
            lines = []
            continue
        if lines:
            yield joined(lines)._replace(number=number)
            number += 1
            lines = []
        is_record = line.is_record and line.problem is not None
        yield line._replace(number=number, is_record=is_record)
        number += is_record
    if lines:
        yield joined(lines)._replace(number=number)


def conllu_content(unit: Unit, source: OpenSource) -> Content:
    """Return a sentence's text, id and words."""
    comments: dict[str, str] = {}
    rows: list[list[str]] = []
    for line in _LINE_END.split(source.decoded(unit)):
        if match := _COMMENT.match(line) if line.startswith("#") else None:
            comments[match[1]] = match[2]
        elif not line.startswith("#"):
            rows.append(line.split("\t"))
    words = list(_conllu_words(rows))
    name = comments.get("sent_id" if source.reading.id_field == "id" else source.reading.id_field)
    return _content(words, name, comments.get("text"), comments)


def _conllu_words(rows: Sequence[Sequence[str]]) -> Iterator[_Word]:
    """Yield the words of a sentence: a token of several words is one, and empty nodes are none."""
    until = 0
    parts: list[Sequence[str]] = []
    whole: Sequence[str] = ()
    for row in rows:
        if len(row) < _FEWEST_COLUMNS:
            raise BadRecordError(f"a line has {len(row)} columns, not the ten of CoNLL-U")
        if (match := _NUMBER.fullmatch(row[_ID])) and match[2]:
            continue
        first, last = (match[1], match[3]) if match else ("", "")
        if not first:
            raise BadRecordError(f"a line begins with {row[_ID][:20]!r}, not with the number of a word")
        if last:
            until, whole, parts = int(last), row, []
        elif int(first) <= until:
            parts.append(row)
        else:
            yield _word(row, [row])
        if whole and int(first) == until:
            yield _word(whole, parts)
            whole = ()
    if whole:
        raise BadRecordError(f"the words of {whole[_ID]} are missing")


def _word(row: Sequence[str], parts: Sequence[Sequence[str]]) -> _Word:
    misc = row[_MISC] if len(row) > _MISC else ""
    return _Word(
        row[_FORM], _together(parts, _LEMMA), _together(parts, _UPOS), "SpaceAfter=No" not in misc.split("|")
    )


def _together(parts: Sequence[Sequence[str]], column: int) -> str | None:
    """Return the values of a word's parts, joined by a plus sign; ``None`` where one has none."""
    values = [_known(part[column]) for part in parts]
    return None if None in values else "+".join(filter(None, values))


def _known(value: str) -> str | None:
    return None if value in ("", "_") else value


# --- vertical files -------------------------------------------------------------------------------


def vertical_units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per sentence, with the attributes of its document in ``value``.

    A sentence ends with a blank line, a comment, or a tag of an element that holds whole sentences.
    """
    lines: list[Unit] = []
    has_tokens = in_comment = False
    attributes: dict[str, str] | None = None
    for line in source.lines(start, 0):
        is_odd = line.problem is not None or not line.is_record
        text = "" if is_odd else source.text_of(line)[0].strip()
        in_comment = in_comment or text.startswith(("<!--", "<?", "<!DOCTYPE"))
        tags = [] if in_comment else _tags(text)
        is_between = in_comment or text.startswith(_DOC_START) or any(map(_is_around_sentences, tags))
        in_comment = in_comment and not text.endswith(">")
        if text and not is_between:
            lines.append(line)
            has_tokens = has_tokens or not tags
            if len(lines) < _MOST_TOKENS:
                continue
        if lines:
            yield _sentence(lines, attributes, number, has_tokens)
            number += has_tokens
            lines, has_tokens = [], False
        if text and not is_between:
            continue
        opened = [tag for tag in tags if tag.name in _DOCUMENTS and not tag.closes]
        if any(tag.name in _DOCUMENTS for tag in tags):
            attributes = opened[-1].attributes if opened else None
        is_reject = line.is_record and line.problem is not None
        may_begin = attributes is None
        yield line._replace(number=number, is_record=is_reject, opens=bool(opened), may_begin=may_begin)
        number += is_reject
    if lines:
        yield _sentence(lines, attributes, number, has_tokens)


def _sentence(lines: list[Unit], attributes: dict[str, str] | None, number: int, has_tokens: bool) -> Unit:
    unit = joined(lines, None, attributes or {})
    return unit._replace(number=number, is_record=has_tokens, may_begin=attributes is None)


class _Tag(NamedTuple):
    name: str
    closes: bool
    attributes: dict[str, str]


def _tags(line: str) -> list[_Tag]:
    """Return the tags of a line that holds nothing else, or none."""
    found: list[_Tag] = []
    position = 0
    while line.startswith("<", position) and (match := _TAG.match(line, position)):
        position = match.end()
        attributes = _ATTRIBUTE.findall(match[3][:_LONGEST_TAG])
        values = {name: html.unescape(double or single) for name, double, single in attributes}
        found.append(_Tag(match[2].lower(), bool(match[1]), values))
    return found if position == len(line) else []


def _is_around_sentences(tag: _Tag) -> bool:
    return tag.name in _AROUND_SENTENCES


def vertical_content(unit: Unit, source: OpenSource) -> Content:
    """Return a sentence's text, the id of its document, and its words."""
    words: list[_Word] = []
    columns = source.source.columns or ()
    for line in _LINE_END.split(source.decoded(unit)):
        line = line.strip(" ")
        if tags := _tags(line.strip()):
            if words and any(tag.name == _GLUE for tag in tags):
                words[-1] = words[-1]._replace(space_after=False)
        elif line:
            form, *others = map(html.unescape, split_columns(line))
            values = dict(zip(columns, others, strict=False))
            words.append(_Word(form, _known(values.get("lemma", "")), _known(values.get("upos", "")), True))
    return _content(words, unit.value.get(source.reading.id_field), None, unit.value)


def split_columns(line: str) -> list[str]:
    """Return the columns of a line of a vertical file, which tabs part, or spaces if there are none."""
    return [column.strip() for column in line.split("\t")] if "\t" in line else line.split()


# --- both -----------------------------------------------------------------------------------------


def _content(
    words: Sequence[_Word], name: str | None, text: str | None, fields: Mapping[str, str]
) -> Content:
    places = None if text is None else _places_in(text, words)
    if text is None or places is None:
        text, places = _joined_forms(words)
    found = [
        (trimmed(text, *place), word) for place, word in zip(places, words, strict=True) if word.form.strip()
    ]
    tokens = Tokens(
        tuple(place for place, _ in found),
        tuple(word.lemma for _, word in found),
        tuple(word.upos for _, word in found),
        is_sentence=True,
    )
    return Content(text, name, tokens, fields)


def _places_in(text: str, words: Sequence[_Word]) -> list[tuple[int, int]] | None:
    """Return where each form stands in a text; ``None`` if they do not follow each other in it."""
    places = []
    position = 0
    for word in words:
        while text[position : position + 1].isspace() and not text.startswith(word.form, position):
            position += 1
        if not word.form or not text.startswith(word.form, position):
            return None
        places.append((position, position + len(word.form)))
        position += len(word.form)
    return None if text[position:].strip() else places


def _joined_forms(words: Sequence[_Word]) -> tuple[str, list[tuple[int, int]]]:
    text, places = "", []
    for word in words:
        places.append((len(text), len(text) + len(word.form)))
        text += word.form + " " * word.space_after
    return text.rstrip(), places
