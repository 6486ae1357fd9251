"""The errors that a user can cause or meet, each with the exit status that the command line gives it.

Every message is one line that names the value, the place and the remedy. Anything else that is
raised is a defect of the program and keeps its traceback. Wordings that several packages need are here too.
"""

import contextlib
from collections.abc import Iterable, Iterator

# So many characters of what a library says go into a message.
SHOWN_REASON = 200


class CtxbatchError(Exception):
    """Base of all errors that end a command with one line instead of a traceback."""

    exit_status = 2


class InputError(CtxbatchError):
    """A command, an option, a model or a source that cannot be used as it is."""


class StoreError(CtxbatchError):
    """A store or an index that is damaged, stale, of another configuration or not one at all."""


class TooManyRejectsError(CtxbatchError):
    """More of the input is rejected than ``--max-rejects`` allows; what is committed is kept."""

    exit_status = 3


class ResourceError(CtxbatchError):
    """The environment stopped the run (disk, network, permissions, lock, memory): fix that and run again."""

    exit_status = 4


class Stopped(BaseException):
    """A signal asked the program to stop.

    It is no ``Exception``, so that it passes every ``except Exception`` of the libraries on its way out.
    ``remedy`` says how to go on, if there is something to go on with.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.remedy = ""

    @property
    def exit_status(self) -> int:
        """128 + the number of the signal, as shells report it; a hang-up counts as a termination."""
        import signal

        return 128 + (signal.SIGTERM if self.signum == signal.SIGHUP else self.signum)


@contextlib.contextmanager
def resumable(remedy: str) -> Iterator[None]:
    """Add a remedy to a signal that stops the program meanwhile."""
    try:
        yield
    except Stopped as stopped:
        stopped.remedy = remedy
        raise


def error_of_kind(kind: str, message: str) -> CtxbatchError:
    """The error that a worker met in another process, by the name of its class."""
    kinds = {each.__name__: each for each in (InputError, StoreError, TooManyRejectsError, ResourceError)}
    return kinds.get(kind, CtxbatchError)(message)


# --- shared wordings ------------------------------------------------------------------------------


def cannot_be_read(path: object, why: OSError | str) -> ResourceError:
    """Return the error for a file that is there, and that the disk or a permission does not let be read."""
    said = why if isinstance(why, str) else why.strerror or why
    return ResourceError(f"{path} cannot be read ({said}): fix that and run again")


def out_of_memory(path: object, why: str = "") -> ResourceError:
    """Return the error for a file that cannot be read for want of memory; ``why`` is what a library says."""
    said = f" ({why[:SHOWN_REASON]})" if why else ""
    return ResourceError(f"{path} cannot be read: there is not enough memory{said}: free some, and run again")


def one_line(error: object) -> str:
    """Return what a library's error says on one line."""
    return " ".join(str(error).split())


def shortened(names: Iterable[str], at_most: int) -> str:
    """Return names in one line: all of them, or the first ones and an ellipsis."""
    names = list(names)
    return ", ".join(names[:at_most]) + (", …" if len(names) > at_most else "")
