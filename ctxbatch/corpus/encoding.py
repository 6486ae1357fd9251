"""Decodes text: checks encodings, finds byte order marks, and reports bytes that cannot be decoded."""

import codecs

from ctxbatch.errors import InputError

# The four-byte marks first: that of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


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


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding of the byte order mark at the start of a source, or ``None``."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


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
