"""Reads TEI and other XML: a record is the text of an element, such as a paragraph or a verse line.

Expat parses. Nothing outside the file is opened, and no entity is expanded but those of XML and HTML for
characters. What an element is depends on where it stands, so reading always begins at the start of the file.
"""

import html.entities
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from xml.parsers import expat

from ctxbatch.corpus.fields import further_fields
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.streams import MAX_RECORD_BYTES, ByteStream
from ctxbatch.corpus.units import TOO_LONG, BadRecordError, Content, OpenSource, Unit, lost

_STEP = 1 << 16
# What is flushed between records stays below this.
_GAP = 1 << 20
_DEEPEST = 1_000
_TEI = ("TEI", "TEI.2", "teiCorpus")
# Paragraphs, verse lines, anonymous blocks and utterances.
_TEI_RECORDS = ("body/p", "body/l", "body/ab", "body/u")
_PLAIN_RECORDS = ("p", "l")
# Elements inside a record that are not part of its text: notes, page headers, what an editor has corrected.
_NO_TEXT = frozenset({"note", "fw"})
_REPLACED = frozenset({"sic", "orig", "abbr"})
_BREAKS = frozenset({"lb", "pb", "cb", "gb", "milestone"})
_SPACE = re.compile(r"[ \t\r\n]+")
_JOINED = "\0"  # stands where a word goes on behind a break; XML has no such character
_AROUND_JOINED = re.compile(rf"[ \t\r\n]*{_JOINED}[ \t\r\n]*")

_LONG_TAG = f"not XML: a tag or comment {TOO_LONG}: the rest is lost"
_Attributes = Mapping[str, str]


def units(source: OpenSource, start: int, _number: int) -> Iterator[Unit]:
    """Yield a unit per element that is a record, with its `Content` in ``value``, and what lies between."""
    walk = source.kept
    if walk is None or walk.position > start:
        walk = source.kept = _Walk(source)
    for unit in walk:
        if unit.start >= start:
            yield unit


def content(unit: Unit, _source: OpenSource) -> Content:
    """Return an element's text and id."""
    if isinstance(unit.value, str):
        raise BadRecordError(unit.value)
    found: Content = unit.value
    return found


def elements(source: OpenSource) -> list[str]:
    """Return the names of the elements that hold text, the most frequent ones first."""
    names: Counter[str] = source.kept.names if source.kept is not None else Counter()
    return [name for name, _ in names.most_common()]


class _TooDeepError(ValueError):
    """Elements are nested so deeply that looking at those around each would take for ever."""


class _Walk:
    """A walk over the units of a source from its start, which may stop and go on at ``position``."""

    def __init__(self, source: OpenSource) -> None:
        self.position = 0
        self._parser = _Parser(source)
        self.names = self._parser.names
        self._units = self._walk(source)

    def __iter__(self) -> Iterator[Unit]:
        for unit in self._units:
            self.position = unit.end
            yield unit

    def _walk(self, source: OpenSource) -> Iterator[Unit]:
        stream, parser = source.stream, self._parser
        assert stream is not None
        try:
            stream.seek(0)
            step = _STEP
            while not parser.is_broken and (data := _read(stream, step)):
                before = parser.reached
                yield from parser.feed(data, is_last=False)
                # Expat begins a long comment or tag again with all that comes.
                step = _STEP if parser.reached > before else min(2 * step, MAX_RECORD_BYTES)
            if not parser.is_broken:
                yield from parser.feed(b"", is_last=True)
        except DamagedError as error:
            yield lost(parser.number, stream.position, error)


def _read(stream: ByteStream, size: int) -> bytes:
    """Read so many bytes, fewer at the end."""
    data = stream.read(size)
    while data and len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


class _Open(NamedTuple):
    """An open element, with the id and the wanted attributes that it has, or the nearest one around it."""

    name: str
    is_text: bool
    id: str | None
    fields: Mapping[str, str]


class _Parser:
    """Finds the records in the bytes of a source, which come piece by piece."""

    def __init__(self, source: OpenSource) -> None:
        reading = source.reading
        self.number = 0
        self.names: Counter[str] = Counter()
        self._paths = _paths(reading.text_path.split(",")) if reading.text_path else ()
        self._id = reading.id_field
        names = further_fields(reading) if source.wants_fields else ()
        self._wanted = {name: name.rpartition("@")[2] for name in names}
        self._close, self._empty = ">".encode(source.encoding), "/>".encode(source.encoding)
        self._semicolon = ";".encode(source.encoding)
        self._raw = bytearray()  # from ``_begin`` on, the first byte that no unit has yet
        self._begin = 0
        self._stack: list[_Open] = []
        self._record = 0  # the depth of the open record
        self._hidden = 0  # the depth of the open element in it that is not part of its text
        self._from = 0
        self._texts: list[str] = []
        self._problem: str | None = None
        self._is_long = False
        self._has_children = False
        self.is_broken = False
        self._found: list[Unit] = []
        # The file says its encoding itself, unless the user says it and no byte order mark does.
        says = reading.encoding == "utf-8" or source.source.encoding != reading.encoding
        self._expat = self._make(None if says else reading.encoding.replace("utf-16-", "utf-16"))

    @property
    def reached(self) -> int:
        """The byte up to which units are found, or the record that is open has been read."""
        return max(self._begin, int(self._expat.CurrentByteIndex))

    def _make(self, encoding: str | None) -> Any:  # noqa: ANN401 (a parser of expat's)
        parser = expat.ParserCreate(encoding)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        # An empty document type makes expat report entities that nobody declares, instead of giving up.
        parser.UseForeignDTD(True)
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_ALWAYS)
        parser.ExternalEntityRefHandler = self._external
        parser.SkippedEntityHandler = self._entity
        parser.DefaultHandler = lambda _: None  # keeps expat from expanding entities
        return parser

    def feed(self, data: bytes, *, is_last: bool) -> Iterator[Unit]:
        """Yield the units that end in the next bytes."""
        self._raw += data
        self._found = []
        problem = None
        try:
            self._expat.Parse(data, is_last)
        except (expat.ExpatError, _TooDeepError) as error:
            problem = f"not XML: {error}: the rest is lost"
        yield from self._found
        if problem is not None:
            at = self._begin
            yield Unit(self.number, at, at + 1, b"", problem=problem, is_lost=True)
            self.is_broken = True
        elif is_last:
            yield from self._take(self._begin + len(self._raw))
        elif self._begin + len(self._raw) > self._expat.CurrentByteIndex + MAX_RECORD_BYTES:
            yield Unit(self.number, self._begin, self._begin + 1, b"", problem=_LONG_TAG, is_lost=True)
            self.is_broken = True
        elif self._record and len(self._raw) >= self._from - self._begin + MAX_RECORD_BYTES + _GAP:
            yield from self._take_long()
        elif not self._record and len(self._raw) > 2 * _GAP:
            # Not the tag that is not yet complete: it may begin a record.
            yield from self._take(min(self._begin + len(self._raw) - _GAP, self._expat.CurrentByteIndex))

    # --- what expat calls -------------------------------------------------------------------------

    def _start(self, name: str, attributes: _Attributes) -> None:
        name = name.rpartition(":")[2]
        around = self._stack[-1] if self._stack else _Open("", is_text=True, id=None, fields={})
        self._stack.append(self._opened(name, attributes, around))
        if len(self._stack) > _DEEPEST:
            raise _TooDeepError("nested too deeply")
        if not self._record:
            if self._is_record(name):
                self._record, self._from = len(self._stack), self._expat.CurrentByteIndex
                self._texts, self._problem, self._has_children = [], None, False
            return
        self._has_children = True
        if name in _BREAKS:
            self._texts.append(_JOINED if attributes.get("break") == "no" else " ")
        if not self._hidden and self._is_hidden(name):
            self._hidden = len(self._stack)

    def _opened(self, name: str, attributes: _Attributes, around: _Open) -> _Open:
        local = {attribute.rpartition(":")[2]: value for attribute, value in attributes.items()}
        fields = around.fields
        for wanted, attribute in self._wanted.items():
            if attribute in local and wanted in (attribute, f"{name}@{attribute}"):
                fields = {**fields, wanted: local[attribute]}
        return _Open(name, around.is_text and name not in _NO_TEXT, local.get(self._id, around.id), fields)

    def _end(self, _name: str) -> None:
        depth = len(self._stack)
        if depth == self._record:
            self._finish(self._expat.CurrentByteIndex)
            self._record = 0
        if depth == self._hidden:
            self._hidden = 0
        self._stack.pop()

    def _text(self, text: str) -> None:
        if not self._record:
            if not text.isspace():
                self.names[self._stack[-1].name] += 1
        elif not self._hidden and not self._is_long:
            self._texts.append(text)

    def _entity(self, name: str, is_parameter: bool) -> None:
        if is_parameter or self._hidden:
            return
        character = html.entities.html5.get(f"{name};")
        if character is None:
            self._refuse(f"holds the entity &{name};, which is not expanded")
        elif self._record:
            self._texts.append(character)

    def _external(self, context: str | None, _base: object, _system: object, _public: object) -> int:
        if context is None:  # the document type: read as empty
            self._expat.ExternalEntityParserCreate(None).Parse(b"", True)
        elif not self._hidden:
            self._refuse("holds an entity of another file, which is not opened")
        return 1

    def _refuse(self, why: str) -> None:
        """Reject the open record, or an entity outside all records, which may hold some."""
        if self._record:
            self._problem = why
            return
        at = self._expat.CurrentByteIndex
        self._found += self._take(at)
        end = self._raw.index(self._semicolon) + len(self._semicolon)
        self._found.append(self._unit(bytes(self._raw[:end]), is_record=True, problem=why))
        self._drop(end)

    # --- records ----------------------------------------------------------------------------------

    def _is_record(self, name: str) -> bool:
        if not self._paths:
            self._paths = _paths(_TEI_RECORDS if self._stack[0].name in _TEI else _PLAIN_RECORDS)
        if not self._stack[-1].is_text or all(path[-1] != name for path in self._paths):
            return False
        names = [each.name for each in self._stack]
        return any(name == path[-1] and _leads_to(names, path) for path in self._paths)

    def _is_hidden(self, name: str) -> bool:
        return name in _NO_TEXT or (name in _REPLACED and self._stack[-2].name == "choice")

    def _finish(self, position: int) -> None:
        """Turn the open record into a unit, whose last tag begins at ``position``."""
        at = position - self._begin
        is_empty = not self._has_children and self._raw[:at].endswith(self._empty)  # it ends here
        if not is_empty:
            position = self._begin + self._raw.index(self._close, at) + len(self._close)
        text = _AROUND_JOINED.sub("", _SPACE.sub(" ", "".join(self._texts))).strip(" ")
        self._found += self._take(self._from)
        data = bytes(self._raw[: position - self._begin])
        if self._is_long or not (text or self._problem):
            self._found.append(self._unit(data, is_record=False))
        else:
            element = self._stack[-1]
            value = self._problem or Content(text, element.id, fields=element.fields)
            self._found.append(self._unit(data, is_record=True, value=value))
        self._drop(len(data))
        self._is_long = False

    def _take_long(self) -> Iterator[Unit]:
        """Reject a record that is too long, and pass its bytes on as they come."""
        if self._is_long:
            yield from self._take(self._begin + len(self._raw) - _GAP)
            return
        yield from self._take(self._from)
        yield self._unit(bytes(self._raw[:MAX_RECORD_BYTES]), is_record=True, problem=TOO_LONG)
        self._drop(MAX_RECORD_BYTES)  # the same bytes wherever the pieces end
        self._from, self._is_long, self._texts = self._begin, True, []

    def _take(self, end: int) -> Iterator[Unit]:
        """Yield the bytes up to a position as a unit that is no record."""
        if end > self._begin:
            data = bytes(self._raw[: end - self._begin])
            yield self._unit(data, is_record=False)
            self._drop(len(data))

    def _unit(
        self, data: bytes, *, is_record: bool, problem: str | None = None, value: object = None
    ) -> Unit:
        unit = Unit(self.number, self._begin, self._begin + len(data), data, is_record, problem, value)
        self.number += is_record
        return unit

    def _drop(self, n_bytes: int) -> None:
        del self._raw[:n_bytes]
        self._begin += n_bytes


def _paths(paths: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return paths as the names of their elements, without prefixes."""
    return tuple(tuple(part.rpartition(":")[2].strip() for part in path.split("/")) for path in paths)


def _leads_to(names: list[str], path: tuple[str, ...]) -> bool:
    """Return True if the elements of a path enclose each other among the open ones, in this order."""
    rest = iter(names)
    return all(part in rest for part in path)
