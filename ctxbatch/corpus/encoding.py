"""Decodes text: checks encodings, finds byte order marks, and reports bytes that cannot be decoded."""

import codecs
from collections.abc import Sequence

from ctxbatch.errors import InputError

# The four-byte marks first: that of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


# A text of another encoding has few lines that are UTF-8 by chance; so much of it suffices for a guess.
_BROKEN_SHARE = 0.2
_GUESSED_BYTES = 16 << 10
_USUAL = "cp1252"


def check_encoding(name: str) -> str:
    """Return the name of an encoding as Python spells it.

    Raises:
        InputError: It is unknown, or its line ends cannot be found by their bytes.
    """
    try:
        canonical = codecs.lookup(name).name
        wide = canonical.startswith(("utf-16", "utf-32"))
        b"text \xff".decode(canonical, "replace")
        if not wide and '\n\r\t,"{'.encode(canonical) != b'\n\r\t,"{':
            raise InputError(f"--encoding {name} cannot be read by line: convert the text to UTF-8 first")
    except (LookupError, UnicodeError, TypeError, ValueError):
        raise InputError(
            f"--encoding {name!r} is unknown: give a name such as utf-8, latin-1, cp1252, utf-16 or gb18030"
        ) from None
    return {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(canonical, canonical)


def reads_byte_by_byte(encoding: str) -> bool:
    """Return True if no byte of a longer character can be taken for an ASCII one: UTF-8 and code pages."""
    return encoding in ("utf-8", "ascii") or len(bytes(range(256)).decode(encoding, "replace")) == 256


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding of the byte order mark at the start of a source, or ``None``."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def guess_encoding(pieces: Sequence[bytes]) -> str | None:
    """Return the encoding that text which is not UTF-8 seems to have; ``None`` if it is, or only damaged.

    Args:
        pieces: Bytes from several places of the text.
    """
    lines = [line for piece in pieces for line in piece.split(b"\n")[1:-1] or [piece] if not line.isascii()]
    broken = [line for line in lines if not _is_utf_8(line)]
    if len(broken) < max(1, _BROKEN_SHARE * len(lines)):
        return None
    from charset_normalizer import from_bytes  # slow to import, and seldom needed

    matches = list(from_bytes(b"\n".join(broken)[:_GUESSED_BYTES]))
    if not matches:
        return None
    best = matches[0]
    # Several code pages fit Western texts; one of them is far more frequent.
    usual = any(
        _USUAL in match.could_be_from_charset
        and match.chaos <= best.chaos + 0.03
        and match.coherence >= best.coherence - 0.05
        for match in matches
    )
    try:
        return _USUAL if usual else check_encoding(best.encoding)
    except InputError:
        return None


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def newline_of(encoding: str, kind: str | None = None) -> bytes:
    """Return the bytes that end a line in an encoding: a CR if its kind is ``cr``, else an LF."""
    return ("\r" if kind == "cr" else "\n").encode(encoding)


def decode(data: bytes, encoding: str, errors: str, start: int) -> tuple[str, str | None]:
    """Decode bytes from position ``start`` of a source.

    Returns:
        The text, and ``None`` or why it cannot be decoded; the text then has replacement characters.
    """
    try:
        return data.decode(encoding, errors), None
    except UnicodeDecodeError as error:
        return data.decode(encoding, "replace"), f"not {encoding.upper()} at byte {start + error.start}"
