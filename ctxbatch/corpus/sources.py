"""Makes a source of an input file: finds its format and compression from its name and first bytes.

Owns which suffix means which format, and what is said of how to read. Reads no text.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from ctxbatch.choices import DecodeErrors, FormatName, QuoteKind, Quoting, RecordKind, TextRecord
from ctxbatch.corpus.compression import COMPRESSIONS, Compression, find_compression, why_unsupported_inside
from ctxbatch.corpus.read_errors import DamagedError, unreadable
from ctxbatch.corpus.sniff import SNIFFED, sniff
from ctxbatch.corpus.streams import ByteStream
from ctxbatch.corpus.unsupported import HEAD_BYTES, why_unsupported, why_unsupported_suffix
from ctxbatch.filesystem import Entry, read_file
from ctxbatch.sealed import Count, Positive

FORMATS: dict[str, FormatName] = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
    ".rst": "txt",
    ".log": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".xml": "xml",
    ".tei": "xml",
    ".srt": "subtitles",
    ".vtt": "subtitles",
    ".conllu": "conllu",
    ".conll": "vertical",
    ".vrt": "vertical",
    ".vert": "vertical",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TABLE_FORMATS: tuple[FormatName, ...] = ("parquet", "arrow")
ANNOTATED_FORMATS: tuple[FormatName, ...] = ("conllu", "vertical")
_HEAD_BYTES = max(4096, HEAD_BYTES)
# How the reason begins why a file of another format is not a source.
UNKNOWN = "unknown format"

LineEnd = Literal["cr"]


@dataclass(frozen=True, slots=True)
class Source:
    """An input file: its path as given, how to read it, and its size and time when the run was planned.

    ``encoding`` is ``None`` for tables. ``columns`` are those of a CSV or TSV file, or the second and third
    of a vertical one. Without a ``newline``, lines end with LF or CRLF. ``record`` is what a record of a text
    file is; without one, `Reading` says it. Sources of versions that did not decide on ``quoting`` have none:
    their quotes enclose fields.
    """

    path: str
    format: FormatName
    compression: Compression | None
    size: Count
    mtime_ns: int
    encoding: str | None = None
    columns: tuple[str, ...] | None = None
    newline: LineEnd | None = None
    record: TextRecord | None = None
    quoting: QuoteKind | None = None

    @property
    def is_table(self) -> bool:
        """True for an Arrow or Parquet file, whose records are placed by row, not by byte."""
        return self.format in TABLE_FORMATS


@dataclass(frozen=True, slots=True)
class Reading:
    """How sources become records and shards; ``tapered`` ones shrink toward the end of the corpus.

    ``annotated`` if some sources say the lemmas and parts of speech of their words. ``keep_field`` are names,
    in a store each with its type, such as ``year:integer``.
    """

    format: FormatName | None
    record: RecordKind
    text_field: str
    id_field: str
    encoding: str
    errors: DecodeErrors
    delimiter: str | None
    limit: Count | None
    shard_size: Positive
    tapered: bool = False
    quoting: Quoting = "auto"
    escape: str | None = None
    header: bool = True
    text_path: str | None = None
    annotated: bool = False
    tokens_field: str | None = None
    span_field: tuple[str, ...] = ()
    keep_field: tuple[str, ...] = ()


_HOW_READ: dict[FormatName, str] = {
    "jsonl": "JSON lines",
    "json": "JSON, by object",
    "csv": "CSV, by row",
    "tsv": "TSV, by row",
    "xml": "XML, by element",
    "subtitles": "subtitles, by sentence",
    "wikiextractor": "articles of WikiExtractor, by line",
    "leipzig": "Leipzig sentences",
    "conllu": "CoNLL-U, by sentence",
    "vertical": "a token a line, by sentence",
    "parquet": "Parquet, by row",
    "arrow": "Arrow, by row",
}


def how_read(source: Source, reading: Reading) -> str:
    """Return in words how a source is read."""
    if source.format != "txt":
        quotes = ", quotes are text" if source.quoting == "none" else ""
        return _HOW_READ[source.format] + quotes
    record = source.record or reading.record
    if record == "file":
        return "text, each file one record"
    return f"text, by {'line' if record == 'auto' else record}"


def local_source(path: Path, format_name: FormatName | None) -> Source | str:
    """Return a regular file as a source, or the reason why it is not one.

    Raises:
        InputError: Its name is wrong.
        ResourceError: The disk or a permission does not let it be read.
    """
    if printable(path) != str(path):
        return "its name is not UTF-8: rename it"
    if (reason := _unknown_format(str(path), format_name)) is not None:
        return reason
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            head = stream.read(_HEAD_BYTES)
        return _source_that_begins(head, str(path), format_name, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise unreadable(str(path), error) from error


def remote_source(entry: Entry, format_name: FormatName | None) -> Source | str:
    """Return an object as a source, or the reason why it is not one.

    Raises:
        RemoteError: It cannot be read.
    """
    if (reason := _unknown_format(entry.url, format_name)) is not None:
        return reason
    head = read_file(entry.url, _HEAD_BYTES) if entry.size else b""
    return _source_that_begins(head, entry.url, format_name, entry.size, entry.mtime_ns)


def known_formats() -> str:
    """Return the known suffixes, for a message."""
    return f"{', '.join(FORMATS)}, and for compressed text {', '.join(COMPRESSIONS)}"


def _unknown_format(name: str, format_name: FormatName | None) -> str | None:
    """Return why a file's format is unknown, or ``None`` if it is known."""
    suffix = suffix_of(name)
    if format_name is not None or not suffix or suffix in FORMATS:
        return None
    return why_unsupported_suffix(suffix) or f"{UNKNOWN} {suffix!r}"


def suffix_of(name: str) -> str:
    """Return a name's suffix in small letters, without that of a compression; empty if there is none."""
    path = PurePath(name)
    return (PurePath(path.stem) if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def _source_that_begins(
    head: bytes, name: str, format_name: FormatName | None, size: int, mtime_ns: int
) -> Source | str:
    if reason := why_unsupported(head):
        return reason
    compression = find_compression(PurePath(name), head)
    suffix = suffix_of(name)
    kind = format_name or FORMATS.get(suffix)
    if compression and kind in TABLE_FORMATS:
        return f"{kind} files are compressed inside: decompress this one first ({compression})"
    if compression and head and (reason := why_unsupported_inside(name, compression)):
        return reason
    if format_name is None and suffix in SNIFFED:
        kind = sniff(suffix, _text_head(name, compression, head, size, SNIFFED[suffix]))
    if kind is None:
        return f"{UNKNOWN}: no suffix, and not text"
    return Source(name, kind, compression, size, mtime_ns)


def _text_head(name: str, compression: Compression | None, head: bytes, size: int, wanted: int) -> bytes:
    """Return the first bytes of a file's text, fewer if it is damaged; ``head`` are those of the file."""
    if compression is None and len(head) >= min(size, wanted):
        return head
    stream = ByteStream(name, compression)
    text = b""
    try:
        while len(text) < wanted and (more := stream.read(wanted - len(text))):
            text += more
    except DamagedError:
        pass
    finally:
        stream.close()
    return text


def printable(path: Path | str) -> str:
    """Return a path as text for messages, even if its name is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")
