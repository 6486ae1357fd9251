"""The errors that a user can cause or meet, each with the exit status that the command line gives it.

Every message is one line that names the value, the place and the remedy. Anything else that is
raised is a defect of the program and keeps its traceback.
"""

import contextlib
from collections.abc import Iterator


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
