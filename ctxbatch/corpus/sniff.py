"""Recognises the format of a text file by its first bytes, where its suffix leaves it open."""

import json
import re

from ctxbatch.choices import FormatName
from ctxbatch.corpus.encoding import marked_encoding

# The suffixes that leave the format open, and how many bytes tell it.
SNIFFED = {"": 4096, ".txt": 4096, ".conll": 4096, ".json": 1 << 20}
# Control characters that texts hold: tab, line ends, form feed, and the escape of terminal colours.
_IN_TEXT = frozenset(b"\t\n\r\f\x1b")
_WIKIEXTRACTOR = re.compile(rb'\s*<doc id="')
_MARKUP = re.compile(r"\s*<(\?xml|!doctype|html|tei|[a-z][\w:.-]*(\s[^<>]*)?>\s*<)", re.IGNORECASE)
LEIPZIG_LINE = re.compile(r"(\d+)\t([^\t]*)")
_CONLL_ROW = re.compile(r"\d+([-.]\d+)?\t([^\t]*\t){6}")
_FEWEST_LINES = 3


def sniff(suffix: str, head: bytes) -> FormatName | None:
    """Return the format of a file whose suffix is one of `SNIFFED`, or ``None`` if it is not text."""
    if not suffix and not _is_text(head):
        return None
    text = head.decode("utf-8-sig", "replace")
    lines = text.splitlines() if len(head) < SNIFFED[suffix] else text.splitlines()[:-1]
    if suffix == ".conll":
        rows = [line for line in lines if line and not line.startswith("#")]
        return "conllu" if rows and all(map(_CONLL_ROW.match, rows)) else "vertical"
    if suffix == ".json" or (not suffix and text.lstrip().startswith("{")):
        first = next((line for line in lines if line.strip()), "")
        return "jsonl" if _is_object(first) else "json" if suffix else "txt"
    if _WIKIEXTRACTOR.match(head):
        return "wikiextractor"
    numbered = sum(LEIPZIG_LINE.fullmatch(line) is not None for line in lines)
    if len(lines) >= _FEWEST_LINES and numbered >= 0.9 * len(lines):
        return "leipzig"
    return "txt"


def looks_like_markup(head: bytes) -> bool:
    """Return True if text begins as XML or HTML does."""
    return _MARKUP.match(head.decode("utf-8-sig", "replace")) is not None


def _is_text(head: bytes) -> bool:
    """Return True if bytes begin with a byte order mark, or are not empty and hold no control characters."""
    if marked_encoding(head):
        return True
    return bool(head) and all(byte >= 32 or byte in _IN_TEXT for byte in set(head))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
