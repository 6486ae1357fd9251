"""Runs the command line as a process: its commands, its signals, its errors.

Results go to standard output, progress and messages to standard error. Errors of the project become one
line and an exit status; anything else keeps its traceback.
"""

import contextlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import UnusedCliTokensError

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.cache import cache
from ctxbatch.cli.export import export
from ctxbatch.cli.guide import guide
from ctxbatch.cli.layers import layers
from ctxbatch.cli.run import plan, run
from ctxbatch.cli.search import search
from ctxbatch.cli.senses import senses
from ctxbatch.cli.sql import sql
from ctxbatch.cli.store import index, pull, stats, status, verify
from ctxbatch.errors import CtxbatchError, InputError, Stopped

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

log = logging.getLogger("ctxbatch")
_OPTIONS = Group("Options", sort_key=1)
_WITHOUT_ARROW = (cache, guide)


def _shown_default(value: object) -> object:
    """Leave out defaults that say nothing."""
    return None if value in (None, False) else value


class _Formatter:
    """Lays out help: options in two columns under headings, without frames."""

    def render_usage(self, console: "Console", _options: "ConsoleOptions", usage: object) -> None:
        """Print the usage line."""
        console.print(f"Usage: {usage}".rstrip(), highlight=False, markup=False)
        console.print()

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Print a group of options, or the commands."""
        from cyclopts.help import specs
        from rich.padding import Padding

        if not panel.entries:
            return
        are_commands = panel.format == "command"
        columns = specs.get_default_command_columns if are_commands else specs.get_default_parameter_columns
        table = specs.TableSpec().build(columns(console, options, panel.entries), panel.entries)
        console.print(f"{panel.title}:", style="bold")
        console.print(specs.DefaultStyled(Padding(table, (0, 0, 1, 2))))


app = App(
    name="ctxbatch",
    help="Turn text into a searchable store of word-in-context vectors.",
    help_format="plaintext",
    help_formatter=_Formatter(),
    help_epilogue="Exit status: 0 done, 2 wrong command or input, 3 something rejected, damaged, missing "
    "or given up, 4 stopped by disk, network, memory, permissions, a lock or failing workers: run "
    "again to resume, 130 or 143 stopped by a signal.",
    version=lambda: ctxbatch.__version__,
    default_parameter=Parameter(negative=(), allow_repeating=True, show_default=_shown_default),
)
app["--help"].help = "Show this message and exit."
app["--version"].help = "Print the version and exit."
# How often `Stopped` is raised again while nothing heeds it.
_AGAIN_SECONDS = 0.5
_Command = Callable[..., int | None]
_ON_TEXT: tuple[_Command, ...] = (run, plan)
_ON_STORES: tuple[_Command, ...] = (search, sql, layers, senses, export, index, pull, stats, verify, status)
for _number, _command in enumerate((*_ON_TEXT, *_ON_STORES, cache, guide)):
    app.command(_command, sort_key=_number, help_epilogue="", group_parameters=_OPTIONS)


# --- the process ----------------------------------------------------------------------------------


def main() -> None:
    """Run the command line of this process, and end it."""
    terminal.make_ready()
    received = _listen_to_signals()
    log.addHandler(terminal.stderr_handler())
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        status = _status_of_command(received)
    except Stopped as stopped:
        name = signal.Signals(stopped.signum).name
        _complain(f"stopped by {name}{stopped.remedy and f'; {stopped.remedy}'}", stopped.exit_status)
        with contextlib.suppress(OSError, CtxbatchError):
            terminal.flush()
        os._exit(stopped.exit_status)  # a client of object storage would first try again for its minutes
    sys.exit(status)


def _status_of_command(received: Sequence[Stopped]) -> int:
    """Run the command; its errors become a line and a status."""
    try:
        with _raised_again(received):
            status = _run_command()
            terminal.flush()
    except BrokenPipeError:  # the reader, head or less, has gone: nobody is left to tell
        return 128 + signal.SIGPIPE
    except CtxbatchError as error:
        return _complain(str(error), error.exit_status)
    except MemoryError:
        return _complain("this machine is out of memory: free some, then run the same command again", 4)
    except OSError as error:
        return _complain(f"{error.filename or 'the disk'}: {error.strerror}: fix that and run again", 4)
    return status


@contextlib.contextmanager
def _raised_again(received: Sequence[Stopped]) -> Iterator[None]:
    """Raise what a signal has raised where a library has made another error of it."""
    try:
        yield
    finally:
        if received:
            raise received[0]


def _run_command() -> int:
    arguments = sys.argv[1:]
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"argument {os.fsencode(argument)!r} is not UTF-8: rename or retype it"
            ) from None
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _explain_usage(error)
    if isinstance(getattr(command, "__self__", None), App):  # --help and --version
        terminal.show(terminal.drawn(partial(_show_page, command, bound), min(terminal.columns(), 100)))
        return 0
    if command not in _WITHOUT_ARROW:
        from ctxbatch.arrays import leave_pandas_out

        leave_pandas_out()
    status: int | None = command(*bound.args, **bound.kwargs)
    return status or 0


def _show_page(command: Callable[..., None], bound: inspect.BoundArguments, console: "Console") -> None:
    bound.arguments["console"] = console
    command(*bound.args, **bound.kwargs)


def _explain_usage(error: CycloptsError) -> int:
    """Say what is wrong with a command line."""
    message = " ".join(str(error).split())
    if isinstance(error, UnusedCliTokensError):
        message = f"unexpected argument {(error.unused_tokens or [''])[0]!r}."
    where = " ".join(["ctxbatch", *(error.command_chain or ())])
    hint = ""
    if where == "ctxbatch search" and "[" in message:
        hint = " A query that starts with - goes after --."
    return _complain(f"{message[:1].lower()}{message[1:]}{hint} See `{where} --help`.", 2)


def _complain(message: str, status: int) -> int:
    terminal.tell(f"ctxbatch: {message}")
    return status


def _listen_to_signals() -> list[Stopped]:
    """Raise `Stopped` at a signal; return the list to which it is added.

    A library can lose what is raised in it, as Python does in a callback of a weak reference. So it is raised
    again from time to time, and at further signals, but never where the first one is on its way out.
    """
    received: list[Stopped] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(Stopped(signum))
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
        if not _is_handled(received[0]):
            raise received[0]

    sys.unraisablehook = _tell_unraisable
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) is not signal.SIG_IGN:  # nohup
            signal.signal(each, stop)
    return received


def _tell_unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Show what Python cannot raise; but a `Stopped` is raised again."""
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)


def _is_handled(stopped: Stopped) -> bool:
    """Return True while an ``except``, a ``finally`` or a ``with`` handles it, or an error that it led to."""
    error = sys.exception()
    while error is not None and error is not stopped:
        error = error.__context__
    return error is stopped
