"""What the scripts share on the command line: options, complaints of one line, progress, exit status.

Imports nothing of ctxbatch at the top: some of what is compared with it runs without it.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Reads the options of a script; its help is the script's docstring, its complaint one line.

    Args:
        module: The script's module.
        docstring: The module's docstring.
    """

    def __init__(self, module: str, docstring: str | None) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m {module}", description=docstring, formatter_class=form)

    def add_model(self) -> None:
        """Add ``--model``, which must be given."""
        self.add_argument("--model", required=True, help="name or folder of a model")

    def add_text(self) -> None:
        """Add ``corpus``, a text file."""
        self.add_argument("corpus", type=existing_file, help="text, a record a line")

    def add_shard_size(self) -> None:
        """Add ``--shard-size``, small enough that a run has many shards."""
        self.add_argument("--shard-size", default="100kb", help="as of ctxbatch run")

    def add_seed(self) -> None:
        """Add ``--seed``."""
        self.add_argument("--seed", type=int, default=1, help="of all chance")

    def add_work(self) -> None:
        """Add ``--work``, a folder in which a temporary one is made."""
        told = "folder to write in; the system's temporary one by default"
        self.add_argument("--work", type=existing_folder, help=told)

    def add_kept_work(self) -> None:
        """Add ``--work``, the folder for `working_folder`."""
        told = "folder to work in, which is kept; a temporary one by default"
        self.add_argument("--work", type=Path, help=told)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        self.exit(2, f"{self.prog.rpartition('.')[2]}: {message}; `{self.prog} --help` lists the options\n")


def run(main: Callable[[], int]) -> int:
    """Run a script; returns its exit status. Says in one line what a user can cause."""
    from ctxbatch.errors import CtxbatchError

    name = Path(sys.argv[0]).stem
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, too
    try:
        return main()
    except CtxbatchError as error:
        say(f"{name}: {error}")
        return error.exit_status
    except subprocess.CalledProcessError as error:
        if error.returncode != 2:  # else its own line has said what is wrong with an argument
            say(f"{name}: exit status {error.returncode}: {shlex.join(map(str, error.cmd))}")
        return error.returncode if error.returncode > 0 else 1
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def working_folder(given: Path | None) -> Iterator[Path]:
    """Yield a folder to work in: a given one, which is created and kept, or a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="ctxbatch-check-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command in a process group of its own; kill it at the end if it still runs."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def say(message: str) -> None:
    """Report progress, on standard error."""
    print(message, file=sys.stderr, flush=True)


def program(*arguments: object) -> list[str]:
    """Return the command line of the program, in this Python."""
    return [sys.executable, "-m", "ctxbatch", *map(str, arguments)]


# --- kinds of arguments ---------------------------------------------------------------------------


def existing_file(text: str) -> Path:
    """Return a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return path


def existing_folder(text: str) -> Path:
    """Return a folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return path


def positive(text: str) -> int:
    """Return a whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 up")
    return int(text)


def positives(text: str) -> list[int]:
    """Whole numbers from 1 up between commas; in order, each once."""
    return sorted({positive(part) for part in text.split(",")})


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Names between commas, all of them known."""

    def names(text: str) -> list[str]:
        given = text.split(",")
        if unknown := [name for name in given if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return given

    return names
