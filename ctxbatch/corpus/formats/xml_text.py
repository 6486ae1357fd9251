"""Reads TEI and other XML: a record is the text of an element, such as a paragraph or a verse line.

Expat parses. Nothing outside the file is opened, and no entity is expanded but those of XML and HTML for
characters. What an element is depends on where it stands, so reading always begins at the start of the file.
"""

import html.entities
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from xml.parsers import expat

from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.streams import MAX_RECORD_BYTES
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
_JOINED = "\ue000"  # stands where a word goes on behind a break
_AROUND_JOINED = re.compile(rf"[ \t\r\n]*{_JOINED}[ \t\r\n]*")

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
            while not parser.is_broken and (data := stream.read(_STEP)):
                yield from parser.feed(data, is_last=False)
            if not parser.is_broken:
                yield from parser.feed(b"", is_last=True)
        except DamagedError as error:
            yield lost(parser.number, stream.position, error)


class _Parser:
    """Finds the records in the bytes of a source, which come piece by piece."""

    def __init__(self, source: OpenSource) -> None:
        reading = source.reading
        self.number = 0
        self.names: Counter[str] = Counter()
        self._paths = tuple(tuple(path.split("/")) for path in (reading.text_path or "").split(",") if path)
        self._id = reading.id_field
        self._wants_fields = source.wants_fields
        self._close = ">".encode(source.encoding)
        self._slash = "</".encode(source.encoding)
        self._raw = bytearray()  # from ``_begin`` on, the first byte that no unit has yet
        self._begin = 0
        self._stack: list[tuple[str, _Attributes]] = []
        self._record = 0  # the depth of the open record
        self._hidden = 0  # the depth of the open element in it that is not part of its text
        self._from = 0
        self._texts: list[str] = []
        self._problem: str | None = None
        self._is_long = False
        self.is_broken = False
        self._found: list[Unit] = []
        self._expat = self._make(None if reading.encoding == "utf-8" else reading.encoding)

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
        elif self._record and len(self._raw) >= MAX_RECORD_BYTES:
            yield from self._take_long()
        elif not self._record and len(self._raw) > 2 * _GAP:
            # Not the tag that is not yet complete: it may begin a record.
            yield from self._take(min(self._begin + len(self._raw) - _GAP, self._expat.CurrentByteIndex))

    # --- what expat calls -------------------------------------------------------------------------

    def _start(self, name: str, attributes: _Attributes) -> None:
        name = name.rpartition(":")[2]
        self._stack.append((name, attributes))
        if len(self._stack) > _DEEPEST:
            raise _TooDeepError("nested too deeply")
        if not self._record:
            if self._is_record():
                self._record, self._from = len(self._stack), self._expat.CurrentByteIndex
                self._texts, self._problem = [], None
            return
        if name in _BREAKS:
            self._texts.append(_JOINED if attributes.get("break") == "no" else " ")
        if not self._hidden and self._is_hidden(name):
            self._hidden = len(self._stack)

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
                self.names[self._stack[-1][0]] += 1
        elif not self._hidden and not self._is_long:
            self._texts.append(text)

    def _entity(self, name: str, is_parameter: bool) -> None:
        if is_parameter or not self._record or self._hidden:
            return
        character = html.entities.html5.get(f"{name};")
        if character is None:
            self._problem = f"holds the entity &{name};, which is not expanded"
        else:
            self._texts.append(character)

    def _external(self, context: str | None, _base: object, _system: object, _public: object) -> int:
        if context is None:  # the document type: read as empty
            self._expat.ExternalEntityParserCreate(None).Parse(b"", True)
        elif self._record:
            self._problem = "holds an entity of another file, which is not opened"
        return 1

    # --- records ----------------------------------------------------------------------------------

    def _is_record(self) -> bool:
        paths = self._paths or self._default_paths()
        names = [name for name, _ in self._stack]
        if not any(names[-1] == path[-1] and _leads_to(names, path) for path in paths):
            return False
        return _NO_TEXT.isdisjoint(names)

    def _default_paths(self) -> tuple[tuple[str, ...], ...]:
        defaults = _TEI_RECORDS if self._stack[0][0] in _TEI else _PLAIN_RECORDS
        self._paths = tuple(tuple(path.split("/")) for path in defaults)
        return self._paths

    def _is_hidden(self, name: str) -> bool:
        return name in _NO_TEXT or (name in _REPLACED and self._stack[-2][0] == "choice")

    def _finish(self, position: int) -> None:
        """Turn the open record into a unit, whose last tag begins at ``position``."""
        at = position - self._begin
        if self._raw[at : at + len(self._slash)] == self._slash:  # else it is an empty element, and ends here
            position = self._begin + self._raw.index(self._close, at) + len(self._close)
        text = _AROUND_JOINED.sub("", _SPACE.sub(" ", "".join(self._texts))).strip(" ")
        self._found += self._take(self._from)
        data = bytes(self._raw[: position - self._begin])
        if self._is_long or not (text or self._problem):
            self._found.append(self._unit(data, is_record=False))
        else:
            value = self._problem or Content(text, self._id_of_record(), fields=self._attributes())
            self._found.append(self._unit(data, is_record=True, value=value))
        self._drop(len(data))
        self._is_long = False

    def _id_of_record(self) -> str | None:
        """Return the id of the record's element, or of the nearest one around it that has one."""
        for _, attributes in reversed(self._stack):
            for name, value in attributes.items():
                if name.rpartition(":")[2] == self._id:
                    return value
        return None

    def _attributes(self) -> dict[str, str]:
        """Return the attributes of the record's element and of those around it; the nearest one wins."""
        if not self._wants_fields:
            return {}
        found: dict[str, str] = {}
        for element, attributes in self._stack:
            for name, value in attributes.items():
                local = name.rpartition(":")[2]
                found |= {local: value, f"{element}@{local}": value}
        return found

    def _take_long(self) -> Iterator[Unit]:
        """Reject a record that is too long, and pass its bytes on as they come."""
        if self._is_long:
            yield from self._take(self._begin + len(self._raw) - _GAP)
            return
        yield from self._take(self._from)
        data = bytes(self._raw[:-_GAP])
        yield self._unit(data, is_record=True, problem=TOO_LONG)
        self._drop(len(data))
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


def _leads_to(names: list[str], path: tuple[str, ...]) -> bool:
    """Return True if the elements of a path enclose each other among the open ones, in this order."""
    rest = iter(names)
    return all(part in rest for part in path)
