"""Recognises the format of a text file by its first bytes, where its suffix leaves it open."""

import json

from ctxbatch.choices import FormatName
from ctxbatch.corpus.compression import Compression
from ctxbatch.corpus.encoding import marked_encoding
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.streams import ByteStream

# The suffixes that leave the format open, and how many bytes tell it.
SNIFFED = {"": 4096, ".json": 1 << 20}
# Control characters that texts hold: tab, line ends, form feed, and the escape of terminal colours.
_IN_TEXT = frozenset(b"\t\n\r\f\x1b")


def sniff(path: str, suffix: str, compression: Compression | None) -> FormatName | None:
    """Return the format of a file whose suffix is one of `SNIFFED`, or ``None`` if it is not text.

    Raises:
        InputError: It cannot be opened.
        ResourceError: The disk, the network or a permission prevents reading.
    """
    head = _head(path, compression, SNIFFED[suffix])
    if not suffix and not _is_text(head):
        return None
    first_line = head.lstrip().partition(b"\n")[0]
    if first_line.startswith(b"{") and _is_object(first_line):
        return "jsonl"
    return "json" if suffix else "txt"


def _head(path: str, compression: Compression | None, size: int) -> bytes:
    """Return the first bytes of a file; fewer if it is damaged."""
    stream = ByteStream(path, compression)
    head = b""
    try:
        while len(head) < size and (more := stream.read(size - len(head))):
            head += more
    except DamagedError:
        pass
    finally:
        stream.close()
    return head


def _is_text(head: bytes) -> bool:
    """Return True if bytes begin with a byte order mark, or are not empty and hold no control characters."""
    if marked_encoding(head):
        return True
    return bool(head) and all(byte >= 32 or byte in _IN_TEXT for byte in set(head))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
