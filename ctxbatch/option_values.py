r"""Reads the values of options from the command line: sizes, shares, lists, parts, files of words.

Each function takes the option's name, for its error, and the text. All raise `InputError` if they cannot read
the text.
"""

from pathlib import Path

from ctxbatch.errors import InputError

_UNITS = {"": 1, "b": 1} | {
    unit: 1 << 10 * power for power, letter in enumerate("kmg", 1) for unit in (letter, f"{letter}b")
}


def names(_option: str, text: str) -> tuple[str, ...]:
    """Return comma-separated names."""
    return tuple(text.split(","))


def character(_option: str, text: str) -> str:
    r"""Return one character, which may be written ``\t``."""
    return "\t" if text == "\\t" else text


def layer_numbers(option: str, text: str) -> tuple[int, ...] | str:
    """Return layer numbers, or ``all``."""
    try:
        return text if text == "all" else tuple(int(each) for each in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} must be all, or layer numbers such as -1 or 2,4,6") from None


def count_or_auto(option: str, text: str) -> int | None:
    """Return a number; ``None`` for ``auto``."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise InputError(f"{option} {text!r} must be auto or a number") from None


def part(option: str, text: str) -> tuple[int, int]:
    """Return (i, n) from ``i/n``."""
    number, _, of = text.partition("/")
    try:
        return int(number), int(of)
    except ValueError:
        raise InputError(f"{option} {text!r} must be I/N, such as 2/4 for the second of four parts") from None


def share(option: str, text: str) -> float:
    """Return a share, given as a number or in percent."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise InputError(f"{option} {text!r} must be a share, such as 0.01 or 1%") from None


def count_or_share(option: str, text: str) -> int | float:
    """Return a count as an ``int``, a share as a ``float``."""
    try:
        return share(option, text) if text.endswith("%") or "." in text else int(text)
    except (ValueError, InputError):
        raise InputError(f"{option} {text!r} must be a count, such as 100, or a share, such as 1%") from None


def size(option: str, text: str) -> int:
    """Return a number of bytes, given as 4MB or 4000000; units are powers of 1024."""
    return _size(option, text, "a size such as 4MB")


def size_or_auto(option: str, text: str) -> int | None:
    """Return a number of bytes; ``None`` for ``auto``."""
    return None if text == "auto" else _size(option, text, "auto or a size such as 4MB")


def _size(option: str, text: str, wanted: str) -> int:
    lower = text.lower().replace(" ", "")
    number = lower.rstrip("kmgb")
    try:
        return int(float(number) * _UNITS[lower[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        raise InputError(f"{option} {text!r} must be {wanted}") from None


def words_of_file(option: str, path: str) -> tuple[str, ...]:
    """Return the words in a file, one per line, without the white space around them and blank lines."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise not_a_text(option, path, error) from None
    words = tuple(word for line in lines if (word := line.strip()))
    if not words:
        raise InputError(f"{option} {path} holds no words: write one per line")
    return words


def not_a_text(option: str, path: str, error: OSError | UnicodeDecodeError) -> InputError:
    """Return the error that says why a file that an option names cannot be read as text."""
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return InputError(f"{option} {path} cannot be read: {reason}")
