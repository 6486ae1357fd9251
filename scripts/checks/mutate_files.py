"""Mutations that leave no regular file: links, FIFOs, devices, folders; and foreign files in folders."""

import os
import random
import shutil
import socket
import stat
from pathlib import Path

from scripts.checks.targets import FILES, FOLDERS, KINDS, InapplicableError, Mutation, Target, declare_in

_HUGE_FILE = 10 << 30

MUTATIONS: list[Mutation] = []
_mutation = declare_in(MUTATIONS)


def _replace(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return path


@_mutation(*FILES)
def _missing(chance: random.Random, target: Target) -> str:  # noqa: ARG001 (as all have it)
    _replace(target.path)
    return "remove"


@_mutation(*KINDS)
def _linked_to_itself_elsewhere(chance: random.Random, target: Target) -> str:  # noqa: ARG001
    elsewhere = target.world.aside / target.path.name
    target.path.rename(elsewhere)
    target.path.symlink_to(elsewhere)
    return "a link to the same content outside"


@_mutation(*KINDS, weight=2)
def _linked(chance: random.Random, target: Target) -> str:
    canary = target.world.canary
    others = (
        canary / ".bashrc", canary / "notes.txt", canary / "folder", canary / "not-there",
        target.out / "manifest.json", Path("/dev/zero"), Path("/dev/full"), Path("/etc"),
        Path("/proc/self/mem"),
        target.path, target.world.home,
    )  # fmt: skip
    to = chance.choice(others)
    _replace(target.path).symlink_to(to)
    return f"a link to {to}"


@_mutation(*KINDS, weight=2)
def _special(chance: random.Random, target: Target) -> str:
    kind = chance.choice(("fifo", "linked fifo", "device", "socket", "folder", "full folder", "huge", "file"))
    path = _replace(target.path)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "linked fifo":
        os.mkfifo(target.world.aside / "fifo")
        path.symlink_to(target.world.aside / "fifo")
    elif kind == "device":
        _make_device(path)
    elif kind == "socket":
        _make_socket(path)
    elif kind in ("folder", "full folder"):
        path.mkdir()
        if kind == "full folder":
            (path / "something").write_text("something\n")
    elif kind == "huge":
        with path.open("wb") as stream:
            stream.truncate(_HUGE_FILE)
    else:
        path.write_text("something else\n")
    return f"a {kind} in its place"


def _make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    except OSError:
        os.mkfifo(path)  # where devices are not allowed


def _make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@_mutation(FOLDERS, weight=3)
def _foreign(chance: random.Random, target: Target) -> str:
    """Something in a folder that is not a store's, under a hostile name."""
    name = chance.choice(
        ("x\nFORGED by a name", "\x1b[31mred", "\u202eevil", "000009", ".000000.nobody.1.tmp", "words.json",
         "evil.json", "x.faiss", "y.arrow", " ", "*", ".words.arrow.nobody.1.tmp", "-rf",
         "99999999999999999999"),
    )  # fmt: skip
    path = target.path / name
    if path.exists():
        raise InapplicableError
    how = chance.choice(("file", "folder", "link", "fifo", "link to a folder"))
    if how == "file":
        path.write_text("{}")
    elif how == "folder":
        path.mkdir()
        (path / "shard.json").write_text("{}")
    elif how == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(target.world.canary / ("folder" if how == "link to a folder" else "notes.txt"))
    return f"a {how} {name!r} in it"
