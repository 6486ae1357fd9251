"""Plans shards: decides which records of which sources make up each shard.

A shard is a list of segments. The plan is computed once, from the bytes alone, and pins them by checksum.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ctxbatch.corpus.raw_records import units
from ctxbatch.corpus.read_errors import telling_of_memory, unreadable
from ctxbatch.corpus.records import Segment
from ctxbatch.corpus.source_files import size_and_time
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.units import OpenSource, Unit
from ctxbatch.errors import InputError
from ctxbatch.sealed import Count

# What a record is taken to hold where only the order of size matters.
_RECORD_BYTES = 1024
# What a compressed byte is taken to be worth where only the order of size matters.
EXPANSION = 4
# So many shards keep the cores of most machines at work, and small ones cost little.
_SHARDS, _SMALLEST, _LARGEST = 64, 64 << 10, 256 << 20
# The last of tapered shards: an eighth of the others, but not less than this, as padding grows.
_TAPER, _SMALLEST_TAPERED = 8, 32 << 10
# How often the records that some sources lack of a limit are divided among the others.
_ROUNDS = 8


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


def number_of_shards(sources: Sequence[Source], reading: Reading, size: int) -> int:
    """Return about how many shards sources are cut into, whose text has so many bytes."""
    if not reading.tapered:
        return max(1, round(size / reading.shard_size))
    expected = corpus_bytes(sources, reading.limit)  # as the plan expects, which does not know the size
    n_shards = planned = 0
    while planned < size:
        planned += _next_size(reading, expected, planned)
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
        self.left: int | None = None
        self.n_readable = 0
        self.problem: str | None = None
        self._reading = reading
        self._expected = expected
        self._planned = 0
        self._shard_size = _next_size(self._reading, self._expected, self._planned)
        self._segments: list[Segment] = []
        self._closed_size = 0
        self._open: _OpenSegment | None = None

    def add(self, source: int, opened: OpenSource, most: int | None) -> int:
        """Take over all units of a source, or those of its first records; return how many were left."""
        self.left = most
        for unit in self._cut(units(opened)):
            if unit.is_record:
                if self.left == 0:
                    break
                self.left = None if self.left is None else self.left - unit.times
                self._count(unit, opened.source)
            if (unit.opens or (unit.is_record and unit.may_begin)) and self._is_full():
                self._close_segment()
                self.close_shard()
            if self._open is None:
                self._open = _OpenSegment(source, unit)
            self._open.add(unit)
        self._close_segment()
        if self._is_full():
            self.close_shard()
        return self.left or 0

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
    source is decompressed once. With a limit, every source gives a share of the records, as its size is.

    Args:
        sources: What `examine` has made of the sources.
        reading: How they are read.

    Raises:
        InputError: A source cannot be read, or none holds a record that can be.
    """
    if reading.limit is None:
        return _plan(sources, reading, dict.fromkeys(range(len(sources))))[0]
    sizes = {number: corpus_bytes([source]) for number, source in enumerate(sources) if source.size}
    most: dict[int, int | None] = {}
    most |= shares(sizes, reading.limit)
    for _ in range(_ROUNDS):
        shards, missing = _plan(sources, reading, most)
        most |= {number: (most[number] or 0) - count for number, count in missing.items() if count}
        # Sources that have fewer records than their share have no more: the others give more.
        sizes = {number: size for number, size in sizes.items() if not missing.get(number)}
        left = sum(missing.values())
        if not left or not sizes:
            return shards
        for number, more in shares(sizes, left).items():
            most[number] = (most.get(number) or 0) + more
    most |= dict.fromkeys(sizes, reading.limit)  # the first ones give all that is still missing
    return _plan(sources, reading, most)[0]


def shares(sizes: Mapping[int, int], total: int) -> dict[int, int]:
    """Divide a number of records among sources by their sizes, at least one for each, if they suffice."""
    numbers = list(sizes)
    if total <= len(numbers):
        return {numbers[each * len(numbers) // total]: 1 for each in range(total)}
    rest, whole, given, reached = total - len(numbers), sum(sizes.values()), 0, 0
    found = {}
    for number in numbers:
        reached += sizes[number]
        upto = rest * reached // whole
        found[number] = 1 + upto - given
        given = upto
    return found


def _plan(
    sources: Sequence[Source], reading: Reading, most: Mapping[int, int | None]
) -> tuple[list[ShardSpec], dict[int, int]]:
    """Plan at most so many records of each source; return also how many fewer some sources have."""
    planner = _Planner(reading, corpus_bytes(sources, reading.limit))
    left = reading.limit
    missing: dict[int, int] = {}
    for number in sorted(most):
        source = sources[number]
        few = most[number] if left is None else min(most[number] or 0, left)
        if not source.size or few == 0:
            continue
        opened = OpenSource(source, reading)
        try:
            with telling_of_memory(source.path):
                missing[number] = planner.add(number, opened, few)
                left = None if left is None else left - (few or 0) + missing[number]
        finally:
            opened.close()
        _check_unchanged(source)
    planner.close_shard()
    if not planner.n_readable and planner.problem is not None:
        raise InputError(f"nothing can be read: {planner.problem}")
    return planner.shards, missing


def _check_unchanged(source: Source) -> None:
    try:
        now = size_and_time(source.path)
    except OSError as error:
        raise unreadable(source.path, error) from error
    if now != (source.size, source.mtime_ns):
        raise InputError(f"{source.path} changed while it was planned: run again when it is complete")
