r"""Reads and checks values of options: choices, counts, sizes, shares, lists, parts, files of words.

Each function takes the option's name, for its error, and the text or the value. All raise `InputError` if
that will not do. `option` says how the command line reads a field with one of them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cyclopts import Group, Parameter, Token

from ctxbatch.errors import InputError

_UNITS = {"": 1, "b": 1} | {
    unit: 1 << 10 * power for power, letter in enumerate("kmg", 1) for unit in (letter, f"{letter}b")
}


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of the choices."""
    if value not in choices:
        raise InputError(f"{option} {value!r} is not one of {', '.join(choices)}")


def check_positive(option: str, value: int | None) -> None:
    """Refuse a number below 1."""
    if value is not None and value < 1:
        raise InputError(f"{option} {value} is too small: it must be 1 or more")


def check_count_or_share(option: str, value: int | float | None) -> None:
    """Refuse a negative count, or a share, which is a ``float``, outside 0 to 1."""
    highest = 1 if isinstance(value, float) else float("inf")
    if value is not None and not 0 <= value <= highest:
        given = f"{value:.0%}" if highest == 1 else value
        raise InputError(f"{option} {given} must be a count or a share up to 100%")


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


def option(
    group: Group,
    metavar: str | None = None,
    *,
    read: Callable[[str, str], Any] | None = None,
    default: str | None = None,
) -> Parameter:
    """Return how the command line shows and reads a field.

    ``read`` takes the option's name and text and returns the value, if the field's type does not say how.
    ``default`` describes what applies if the field is ``None``.
    """

    def convert(_kind: object, tokens: Sequence[Token]) -> Any:  # noqa: ANN401 (whatever `read` makes)
        assert read is not None
        return read(tokens[0].keyword or "", tokens[0].value)

    return Parameter(
        group=group,
        metavar=metavar,
        converter=convert if read else None,
        n_tokens=1 if read else None,
        allow_leading_hyphen=read is not None,
        show_choices=read is None,
        show_default=default or (lambda value: None if value in (None, False) else value),
    )
