"""Prints and logs every line of the program, with control characters escaped.

Names of files, models and devices, documents and whole stores come from anybody. So this module escapes the
characters that a terminal obeys, that break a line, or that make it look like something else.
"""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ctxbatch.errors import ResourceError

if TYPE_CHECKING:
    from rich.console import Console
    from tqdm import tqdm

# Control characters (C0, DEL, C1), Unicode's Bidi_Control, line and paragraph separators, and surrogates:
# bytes of a file name that are not UTF-8, or halves of characters.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = "\x1b[0m"
_MOST_COLUMNS = 1_000


# --- text -----------------------------------------------------------------------------------------


class Styled(str):
    """A printable line with colours, which `printable` leaves as it is."""

    __slots__ = ()


def styled(style: str, text: str, before: str = "", after: str = "") -> Styled:
    """Return ``text`` in a style, a control sequence, with unstyled text before and after it."""
    return Styled(f"{printable(before)}{style}{printable(text)}{_PLAIN}{printable(after)}")


def printable(text: str) -> str:
    r"""Return a text on one line, its control characters escaped, such as ``\x1b``."""
    return text if isinstance(text, Styled) else _UNSAFE.sub(_escaped, text)


def flat(text: str) -> str:
    """Return a text on one line for reading, with single spaces for white space and control characters."""
    return re.sub(r"\s+", " ", _UNSAFE.sub(" ", text))


def json_line(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return a value as JSON on one line, without control characters or any that stdout cannot encode."""
    text = json.dumps(value, ensure_ascii=False)
    text = _UNSAFE.sub(lambda char: f"\\u{ord(char[0]):04x}", text)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(value).replace("\x7f", "\\u007f")
    return text


def readable_size(n_bytes: float) -> str:
    """Return a number of bytes in the unit that suits it; units are powers of 1000."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if n_bytes >= u), (1, "B"))
    return f"{n_bytes / unit:,.1f} {name}" if unit > 1 else f"{n_bytes:,.0f} B"


def readable_time(seconds: float) -> str:
    """Return a duration in hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _escaped(char: re.Match[str]) -> str:
    return char[0].encode("unicode_escape").decode("ascii")


# --- standard output and standard error -----------------------------------------------------------


def make_ready() -> None:
    """Prepare the descriptors, streams and tracebacks of the process for output."""
    _open_missing_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal without Unicode
    escape_tracebacks()


def _open_missing_descriptors() -> None:
    """Open closed descriptors 0 to 2 on the null device, so that no file of a store becomes one of them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def columns() -> int:
    """Return the width of lines: that of the terminal, or 100 without one."""
    return min(shutil.get_terminal_size((100, 24)).columns, _MOST_COLUMNS)


def has_terminal() -> bool:
    """Return True if results go to a terminal."""
    return sys.stdout.isatty()


def has_colors() -> bool:
    """Return True if results may be coloured."""
    return has_terminal() and not os.environ.get("NO_COLOR")


def show(lines: Iterable[str]) -> None:
    """Print results.

    Raises:
        BrokenPipeError: The reader of standard output is gone.
        ResourceError: Standard output cannot be written to.
    """
    for line in lines:
        with _writing():
            sys.stdout.write(f"{printable(line)}\n")


def show_data(lines: Iterable[str]) -> None:
    """Print data, exactly unless they go to a terminal; raise what `show` raises."""
    if has_terminal():
        show(lines)
        return
    for line in lines:
        with _writing():
            sys.stdout.write(f"{line}\n")


def show_paged(lines: Sequence[Styled]) -> None:
    """Print lines, through the user's pager if they do not fit; raise what `show` raises."""
    if len(lines) < shutil.get_terminal_size((100, 24)).lines:
        show(lines)
        return
    import pydoc

    os.environ["LESS"] = f"{os.environ.get('LESS', '')} -R".strip()  # less then shows colours
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pydoc then leaves Ctrl-C to the pager
    try:
        with _writing():
            pydoc.pager("\n".join(lines) + "\n")
    finally:
        signal.signal(signal.SIGINT, handler)


def drawn(draw: "Callable[[Console], None]", width: int) -> list[Styled]:
    """Return what rich draws on a console of this width, as lines, styled if results go to a terminal.

    Only for text that ships with the program, or that `printable` has escaped.
    """
    from rich.console import Console

    file = io.StringIO()
    draw(Console(file=file, force_terminal=has_terminal(), no_color=not has_colors(), width=width))
    return [Styled(line.rstrip()) for line in file.getvalue().splitlines()]


def bar_of_bytes(total: int, *, quiet: bool, before: int = 0) -> "tqdm[None]":
    """Return a bar on standard error that counts bytes and tells the time left; none where no terminal is.

    It begins with what was done ``before``.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=before,
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        file=sys.stderr,
        leave=False,
        disable=quiet or not sys.stderr.isatty(),
        bar_format="{percentage:3.0f}% {bar} {n_fmt}B/{total_fmt}B, {remaining} left{postfix}",
    )


def flush() -> None:
    """Write buffered results; raise what `show` raises."""
    with _writing():
        sys.stdout.flush()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _drop_results()
        if isinstance(error, BrokenPipeError):
            raise
        raise ResourceError(
            f"standard output cannot be written to ({error.strerror}): the results are incomplete"
        ) from error


def _drop_results() -> None:
    """Redirect standard output to the null device: Python flushes it at exit, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def tell(message: str) -> None:
    """Write a message to standard error on one line; drop it if that fails."""
    _write_to_stderr(f"{printable(message)}\n")


def prompt(text: str) -> None:
    """Write a prompt to standard error, if that is a terminal."""
    if sys.stderr.isatty():
        _write_to_stderr(printable(text))


def _write_to_stderr(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


# --- logs -----------------------------------------------------------------------------------------


def stderr_handler() -> logging.Handler:
    """Return the log handler for standard error."""
    return _Handler(sys.stderr, logging.INFO, "ctxbatch: %(message)s")


def file_handler(stream: IO[str]) -> logging.Handler:
    """Return the log handler for a file."""
    return _Handler(stream, logging.DEBUG, "%(asctime)s %(levelname)s %(message)s")


class _Handler(logging.StreamHandler[IO[str]]):
    """Writes one line per record, and drops it if that fails: the error that ends the program says why."""

    def __init__(self, stream: IO[str], level: int, form: str) -> None:
        super().__init__(stream)
        self.setLevel(level)
        self.setFormatter(_Formatter(form))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not isinstance(sys.exception(), OSError | ValueError):  # ValueError: the stream is closed
            super().handleError(record)


class _Formatter(logging.Formatter):
    """Escapes log records; only tracebacks span several lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 (logging's name and type)
        return _printable_lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 (logging's name)
        return _printable_lines(stack_info)


# --- tracebacks -----------------------------------------------------------------------------------


def escape_tracebacks() -> None:
    """Escape tracebacks line by line, in this thread and in others."""
    sys.excepthook = _tell_traceback
    threading.excepthook = _tell_traceback_of_thread


def _tell_traceback(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    _write_to_stderr(_printable_lines("".join(traceback.format_exception(kind, error, trace))) + "\n")


def _tell_traceback_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        _tell_traceback(args.exc_type, args.exc_value, args.exc_traceback)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.rstrip("\n").split("\n")))
