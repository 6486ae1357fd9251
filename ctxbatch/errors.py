"""Defines the errors that a user can cause or meet, and the exit status of each.

Every message is one line that names the value, the place and the remedy. Any other exception is a defect of
the program and keeps its traceback. Also owns wordings that several packages share.
"""

import contextlib
from collections.abc import Iterable, Iterator

# The most characters that a message quotes from a library's error, or from a text.
SHOWN_REASON = 200


class CtxbatchError(Exception):
    """Base of all errors that end a command with one line instead of a traceback."""

    exit_status = 2


class InputError(CtxbatchError):
    """A command, an option, a model or a source cannot be used as it is."""


class StoreError(CtxbatchError):
    """A store or an index is damaged, stale, of another configuration, or not one at all."""


class TooManyRejectsError(CtxbatchError):
    """More records are rejected than ``--max-rejects`` allows. Committed shards are kept."""

    exit_status = 3


class ResourceError(CtxbatchError):
    """The environment stopped the run (disk, network, permissions, lock, memory): fix that and run again."""

    exit_status = 4


class Stopped(BaseException):
    """A signal asked the program to stop.

    It is not an ``Exception``, so that no ``except Exception`` of a library catches it. ``remedy`` says how
    to resume, if that is possible.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.remedy = ""

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells report it; a hang-up counts as a termination."""
        import signal

        return 128 + (signal.SIGTERM if self.signum == signal.SIGHUP else self.signum)


@contextlib.contextmanager
def resumable(remedy: str) -> Iterator[None]:
    """Add a remedy to a `Stopped` that is raised in the block."""
    try:
        yield
    except Stopped as stopped:
        stopped.remedy = remedy
        raise


def error_of_kind(kind: str, message: str) -> CtxbatchError:
    """Return the error that another process raised, from the name of its class and its message."""
    kinds = {each.__name__: each for each in (InputError, StoreError, TooManyRejectsError, ResourceError)}
    return kinds.get(kind, CtxbatchError)(message)


# --- shared wordings ------------------------------------------------------------------------------


def cannot_be_read(path: object, why: OSError | str) -> ResourceError:
    """Return the error for an existing file that the disk or a permission does not let us read."""
    said = why if isinstance(why, str) else why.strerror or why
    return ResourceError(f"{path} cannot be read ({said}): fix that and run again")


def out_of_memory(path: object, why: str = "") -> ResourceError:
    """Return the error for a file that does not fit into memory; ``why`` is a library's message."""
    said = f" ({why[:SHOWN_REASON]})" if why else ""
    return ResourceError(f"{path} cannot be read: not enough memory{said}: free some and run again")


def one_line(error: object) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def beginning(text: str) -> str:
    """Return a text; of a long one the beginning, and an ellipsis."""
    return text if len(text) <= SHOWN_REASON else f"{text[:SHOWN_REASON]}…"


def quoted(text: str) -> str:
    """Return a text, or the beginning of a long one, in quotes as Python writes it."""
    return repr(beginning(text))


def shortened(names: Iterable[str], at_most: int) -> str:
    """Return names on one line: all of them, or the first ``at_most`` and an ellipsis."""
    names = list(names)
    return ", ".join(names[:at_most]) + (", …" if len(names) > at_most else "")
