"""Reads a sample of a source: some records from its beginning and from evenly spread places.

Never reads a whole large source: of a compressed one at most 256 MB of its text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ctxbatch.corpus.raw_records import units
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.records import Record, Reject, to_record
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.streams import ByteStream
from ctxbatch.corpus.tables import Table
from ctxbatch.corpus.units import OpenSource

_PLACES_A_SOURCE = 16
# Formats in which a record cannot be found from the middle on.
_FROM_START = ("csv", "tsv", "json", "xml", "wikiextractor", "vertical")
_FEW_ROWS = 2_000
# How far a compressed source is decompressed to learn what a compressed byte is worth.
_PROBED_BYTES = 4 << 20
_MAX_DECOMPRESSED = 256 << 20
_PROBE_STEP = 1 << 20


@dataclass(slots=True)
class SourceSample:
    """What was read of a source.

    ``share`` is the share of the source that it stands for. ``records`` are those that can be read,
    ``n_records`` and ``n_rejected`` count all; they are no integers where a record is larger than the budget.
    ``lost_at`` is where the source is damaged.
    """

    source: Source
    share: float = 1.0
    bytes: float = 0
    n_records: float = 0
    n_rejected: float = 0
    records: list[Record] = field(default_factory=list)
    first_reject: str | None = None
    lost_at: int | None = None
    reached: float = 0
    read_to: int = 0


def spread(group: Sequence[Source], most: int) -> list[Source]:
    """Return at most ``most`` sources, spread evenly over the group."""
    if len(group) <= most:
        return list(group)
    return [group[number * len(group) // most] for number in range(most)]


def sample_source(source: Source, reading: Reading, budget: int) -> SourceSample:
    """Read a sample of about ``budget`` bytes of a source.

    Raises:
        InputError: The source cannot be opened.
    """
    try:
        extent, exact = _extent(source)
    except DamagedError as error:
        return SourceSample(source, n_records=1, n_rejected=1, first_reject=str(error))
    if (source.record or reading.record) == "file":  # parts of a file have to do
        source = replace(source, record="paragraph")
    sample = SourceSample(source)
    places = _places(source, exact, budget)
    opened = OpenSource(source, reading)
    try:
        for start, end in zip(places, [*places[1:], extent], strict=True):
            if sample.lost_at is None:
                _read_from(sample, opened, start, end, budget / len(places))
    finally:
        opened.close()
    extent = extent if sample.lost_at is None else sample.lost_at
    if extent and sample.reached:
        sample.share = min(1.0, sample.reached / extent)
    if sample.lost_at is not None:  # one reject stands for all that is lost, however much was sampled
        sample.n_records += sample.share
        sample.n_rejected += sample.share
    return sample


def _extent(source: Source) -> tuple[float, int]:
    """Return the length of a source in rows or decompressed bytes, and how much of it is known to exist."""
    if source.is_table:
        n_rows = Table(source.path, source.format).n_rows
        return n_rows, n_rows
    if source.compression is None:
        return source.size, source.size
    stream = ByteStream(source.path, source.compression)
    # Decompressors read ahead: what was read is used up once more is.
    read = used = used_for = 0
    try:
        while used < _PROBED_BYTES and (stream.position < _MAX_DECOMPRESSED or not used):
            position = stream.position
            if not stream.read(_PROBE_STEP):
                return position, position
            if stream.compressed_position() > read:
                used, used_for, read = read, position, stream.compressed_position()
    except DamagedError:
        return stream.position, stream.position
    finally:
        stream.close()
    return used_for / used * source.size, stream.position


def _places(source: Source, length: int, budget: int) -> list[int]:
    """Return where to read: at the beginning, and at evenly spread places if records can be found there."""
    if source.format in _FROM_START or length <= (_FEW_ROWS if source.is_table else budget):
        return [0]
    if source.compression is not None:
        length = min(length, _MAX_DECOMPRESSED)
    return [number * length // _PLACES_A_SOURCE // 4 * 4 for number in range(_PLACES_A_SOURCE)]


def _read_from(sample: SourceSample, opened: OpenSource, start: int, end: float, budget: float) -> None:
    """Read from one place on, up to the next place or the budget.

    Of a record that is larger than the budget, only a share is read and counted.
    """
    if start < sample.read_to:
        return
    taken = 0
    found = units(opened, start)
    if start and not opened.source.is_table:
        next(found, None)  # what is left of a record
    for unit in found:
        if unit.is_lost:
            sample.lost_at = unit.start
            sample.first_reject = sample.first_reject or unit.problem
        if unit.is_lost or unit.start >= end or taken >= budget:
            return
        sample.read_to = unit.end
        share = min(1.0, budget / max(1, len(unit.data)))
        sample.reached += (unit.end - unit.start) * share
        sample.bytes += len(unit.data) * share
        taken += len(unit.data)
        if not unit.is_record:
            continue
        sample.n_records += share * unit.times
        record = to_record(unit, 0, opened)
        if isinstance(record, Reject):
            sample.n_rejected += share
            sample.first_reject = sample.first_reject or record.reason
        else:
            text = record.text[: max(1, int(len(record.text) * share))]
            sample.records.append(record._replace(text=text))
