"""Plans shards: decides which records of which sources make up each shard.

A shard is a list of segments. The plan is computed once, from the bytes alone, and pins them by checksum.
Before that, `examine` looks at every source for what would make the whole run useless: another encoding, a
missing field.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ctxbatch.corpus.encoding import marked_encoding
from ctxbatch.corpus.formats.json_lines import has_json_field, json_field_names, json_object
from ctxbatch.corpus.raw_records import units
from ctxbatch.corpus.read_errors import DamagedError, telling_of_memory, unreadable
from ctxbatch.corpus.records import Segment
from ctxbatch.corpus.source_files import size_and_time
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.streams import ByteStream
from ctxbatch.corpus.table_columns import column_type, find_column, is_text
from ctxbatch.corpus.tables import Table
from ctxbatch.corpus.units import OpenSource, Unit
from ctxbatch.errors import InputError, shortened
from ctxbatch.sealed import Count

# What a record is taken to hold where only the order of size matters.
_RECORD_BYTES = 1024
# What a compressed byte is taken to be worth where only the order of size matters.
EXPANSION = 4
# So many shards keep the cores of most machines at work, and small ones cost little.
_SHARDS, _SMALLEST, _LARGEST = 64, 64 << 10, 256 << 20
# The last of tapered shards: an eighth of the others, but not less than this, as padding grows.
_TAPER, _SMALLEST_TAPERED = 8, 32 << 10
_SAMPLE_RECORDS = 1_000
_SHOWN_FIELDS = 12
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """The unit of planning, batching, commit, retry and distribution."""

    shard: Count
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Bytes of input."""
        return sum(segment.size for segment in self.segments)


def corpus_bytes(sources: Sequence[Source], limit: int | None = None) -> int:
    """Return the approximate size of the decompressed text, in bytes, of at most ``limit`` records."""
    size = sum(source.size * (EXPANSION if source.compression else 1) for source in sources)
    return size if limit is None else min(size, limit * _RECORD_BYTES)


def default_shard_size(sources: Sequence[Source], limit: int | None = None) -> int:
    """Return the bytes of input per shard: about a 64th of the corpus, from 64 kB to 256 MB."""
    corpus_size = corpus_bytes(sources, limit)
    target = min(max(corpus_size // _SHARDS, _SMALLEST), _LARGEST)
    n_shards = max(1, round(corpus_size / target))
    return max(_SMALLEST, -(-corpus_size // n_shards))


def number_of_shards(reading: Reading, size: int) -> int:
    """Return about how many shards a text of so many bytes is cut into."""
    if not reading.tapered:
        return max(1, round(size / reading.shard_size))
    n_shards = planned = 0
    while planned < size:
        planned += _next_size(reading, size, planned)
        n_shards += 1
    return n_shards


def _next_size(reading: Reading, expected: int, planned: int) -> int:
    """Return the bytes of the next shard: fewer at the end, where cores would wait for the last one."""
    whole, left = reading.shard_size, expected - planned
    if not reading.tapered or left <= 0:  # a compressed text can be larger than was expected
        return whole
    smallest = min(whole, max(whole // _TAPER, _SMALLEST_TAPERED))
    end = max(expected // 4, 3 * whole)
    return min(whole, max(smallest, left * whole // end))


# --- looking at sources ---------------------------------------------------------------------------


def examine(sources: Iterable[Source], reading: Reading, id_field: str | None = None) -> tuple[Source, ...]:
    """Complete sources with what their first bytes tell: encoding and header.

    Args:
        sources: What `ctxbatch.corpus.inputs.find_sources` has found.
        reading: How they are read.
        id_field: The field of the documents' ids, if one is asked for: then it has to be there.

    Raises:
        InputError: A source has no field of the name that is asked for, or cannot be opened.
    """
    wanted = {"--text-field": reading.text_field}
    if id_field is not None:
        wanted["--id-field"] = id_field
    examined = []
    for source in sources:
        with telling_of_memory(source.path):
            examined.append(_examine(source, reading, wanted))
    return tuple(examined)


def _examine(source: Source, reading: Reading, wanted: Mapping[str, str]) -> Source:
    """Complete a source. ``wanted`` are the fields that it must have, by the options that name them."""
    if source.is_table:
        with contextlib.suppress(DamagedError):  # it is rejected by name when it is read
            _check_table(source, wanted)
        return source
    if not source.size:
        return source
    head = _head(source)
    source = replace(source, encoding=marked_encoding(head) or reading.encoding)
    if source.encoding == "utf-8" and _looks_like_utf_16(head):
        raise InputError(f"{source.path} looks like UTF-16 without a byte order mark: say --encoding utf-16")
    if source.format in ("csv", "tsv"):
        return _with_header(source, reading, wanted)
    if source.format == "jsonl":
        _check_json(source, reading, wanted)
    return source


def _head(source: Source) -> bytes:
    """Return the first bytes of a source; fewer if it is damaged."""
    stream = ByteStream(source.path, source.compression)
    head = b""
    try:
        while len(head) < _HEAD_BYTES and (more := stream.read(_HEAD_BYTES - len(head))):
            head += more
    except DamagedError:
        pass
    finally:
        stream.close()
    return head


def _looks_like_utf_16(head: bytes) -> bool:
    """Return whether every second byte is NUL and most of the others are letters."""
    for nul, other in ((head[::2], head[1::2]), (head[1::2], head[::2])):
        if len(nul) >= 8 and nul.count(0) > 0.9 * len(nul) and sum(map(_is_letter, other)) > 0.5 * len(other):
            return True
    return False


def _is_letter(byte: int) -> bool:
    return bytes((byte,)).isalnum()


def _check_table(source: Source, wanted: Mapping[str, str]) -> None:
    table = Table(source.path, source.format)
    schema = table.schema
    for option, name in wanted.items():
        _check_once(source, name, schema.names)
        if (path := find_column(schema, name)) is None:
            raise _no_field(source, option, name, table.columns)
        if option == "--text-field" and not is_text(kind := column_type(schema, path)):
            raise InputError(f"{source.path}: field {name!r} is {kind}, not text: name another with {option}")


def _with_header(source: Source, reading: Reading, wanted: Mapping[str, str]) -> Source:
    opened = OpenSource(source, reading)
    try:
        header = next((unit for unit in units(opened) if unit.is_record or unit.value), None)
    finally:
        opened.close()
    if header is None or header.is_lost:
        return replace(source, columns=())
    if header.problem is not None:
        raise InputError(f"{source.path} has no header that can be read: {header.problem}")
    columns: tuple[str, ...] = tuple(header.value)
    for option, name in wanted.items():
        _check_once(source, name, columns)
        if name not in columns:
            raise _no_field(source, option, name, columns, _delimiter_hint(reading, columns))
    return replace(source, columns=columns)


def _check_once(source: Source, name: str, columns: Sequence[str]) -> None:
    if columns.count(name) > 1:
        raise InputError(
            f"{source.path} has {columns.count(name)} fields {name!r}: give them different names"
        )


def _delimiter_hint(reading: Reading, columns: Sequence[str]) -> str:
    if len(columns) != 1 or reading.delimiter is not None:
        return ""
    found = next((sign for sign in ";\t|," if sign in columns[0]), None)
    return f", or set --delimiter {found!r}" if found else ""


def _check_json(source: Source, reading: Reading, wanted: Mapping[str, str]) -> None:
    """Refuse a file whose first thousand records all lack a field that is asked for."""
    opened = OpenSource(source, reading)
    missing = dict(wanted)
    names: dict[str, None] = {}
    first_line = ""
    try:
        for unit in itertools.islice(units(opened), _SAMPLE_RECORDS):
            if unit.problem is not None:
                return
            text = opened.text_of(unit)[0]
            try:
                fields = json_object(text)
            except ValueError:
                first_line = first_line or text.strip()
                continue
            names |= dict.fromkeys(json_field_names(fields))
            missing = {o: name for o, name in missing.items() if not has_json_field(fields, name)}
            if not missing:
                return
    finally:
        opened.close()
    if names:
        option, name = next(iter(missing.items()))
        raise _no_field(source, option, name, list(names))
    if first_line in ("[", "{") or first_line.startswith("[{"):
        raise InputError(f"{source.path} is not one JSON object per line: convert it with `jq -c '.[]' FILE`")


def _no_field(source: Source, option: str, name: str, there: Sequence[str], hint: str = "") -> InputError:
    shown = shortened(map(_shown, there), _SHOWN_FIELDS)
    return InputError(
        f"{source.path} has no field {name!r}; its fields are {shown}: name one with {option}{hint}"
    )


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)


# --- planning -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _OpenSegment:
    source: int
    first: Unit
    end: int = 0
    size: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, unit: Unit) -> None:
        self.digest.update(unit.content)
        self.size += len(unit.data)
        self.end = unit.end

    def close(self) -> Segment:
        first = self.first
        return Segment(self.source, first.start, self.end, first.number, self.size, self.digest.hexdigest())


class _Planner:
    def __init__(self, reading: Reading, expected: int) -> None:
        self.shards: list[ShardSpec] = []
        self.left = reading.limit
        self.n_readable = 0
        self.problem: str | None = None
        self._reading = reading
        self._expected = expected
        self._planned = 0
        self._shard_size = _next_size(self._reading, self._expected, self._planned)
        self._segments: list[Segment] = []
        self._closed_size = 0
        self._open: _OpenSegment | None = None

    def add(self, source: int, opened: OpenSource) -> None:
        """Take over all units of a source, or as many as the limit leaves."""
        for unit in self._cut(units(opened)):
            if unit.is_record:
                if self.left == 0:
                    break
                self.left = None if self.left is None else self.left - unit.times
                self._count(unit, opened.source)
                if unit.may_begin and self._is_full():
                    self._close_segment()
                    self.close_shard()
            if self._open is None:
                self._open = _OpenSegment(source, unit)
            self._open.add(unit)
        self._close_segment()
        if self._is_full():
            self.close_shard()

    def _cut(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Cut units of many lines where a shard is full or the limit is reached."""
        for unit in units:
            while unit.is_record and unit.times > 1 and unit.times > (room := self._room()):
                head, unit = unit.split(room)
                yield head
            yield unit

    def _room(self) -> int:
        """Return how many lines of one byte fit before the shard is full or the limit is reached."""
        room = self._shard_size - self._size()
        room = room if room > 0 else self._shard_size
        return room if self.left is None else max(1, min(room, self.left))

    def _count(self, unit: Unit, source: Source) -> None:
        if unit.problem is None:
            self.n_readable += unit.times
        elif self.problem is None:
            self.problem = f"{source.path}: {unit.problem}"

    def _is_full(self) -> bool:
        return self._size() >= self._shard_size

    def _size(self) -> int:
        return self._closed_size + (self._open.size if self._open else 0)

    def _close_segment(self) -> None:
        if self._open is not None:
            self._segments.append(self._open.close())
            self._closed_size += self._open.size
            self._open = None

    def close_shard(self) -> None:
        if self._segments:
            self.shards.append(ShardSpec(len(self.shards), tuple(self._segments)))
            self._planned += self._closed_size
            self._segments, self._closed_size = [], 0
            self._shard_size = _next_size(self._reading, self._expected, self._planned)


def plan(sources: Sequence[Source], reading: Reading) -> list[ShardSpec]:
    """Cut the sources into shards of ``shard_size`` bytes or a little more; small files share one.

    Tapered ones get smaller in the last quarter, or from the third before the last on, so that all cores
    finish at about the same time. A pure function of the sources' bytes and of ``reading``. A compressed
    source is decompressed once.

    Args:
        sources: What `examine` has made of the sources.
        reading: How they are read.

    Raises:
        InputError: A source cannot be read, or none holds a record that can be.
    """
    planner = _Planner(reading, corpus_bytes(sources, reading.limit))
    for number, source in enumerate(sources):
        if planner.left == 0:
            break
        if not source.size:
            continue
        opened = OpenSource(source, reading)
        try:
            with telling_of_memory(source.path):
                planner.add(number, opened)
        finally:
            opened.close()
        _check_unchanged(source)
    planner.close_shard()
    if not planner.n_readable and planner.problem is not None:
        raise InputError(f"nothing can be read: {planner.problem}")
    return planner.shards


def _check_unchanged(source: Source) -> None:
    try:
        now = size_and_time(source.path)
    except OSError as error:
        raise unreadable(source.path, error) from error
    if now != (source.size, source.mtime_ns):
        raise InputError(f"{source.path} changed while it was planned: run again when it is complete")
