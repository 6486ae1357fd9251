"""Runs the command line on a pseudo-terminal of 80 columns."""

import fcntl
import os
import pty
import struct
import subprocess
import termios

from tests.helpers.running import command


def on_a_terminal(*arguments: object, rows: int = 24, **environment: str) -> tuple[str, int]:
    """Return what ``ctxbatch`` writes to a terminal of so many rows, and its exit status."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
    unset = ("COLUMNS", "LINES", "LESS", "MANPAGER", "NO_COLOR")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        command(*arguments),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**inherited, "TERM": "xterm", **environment},
    )
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(master)
    return written.decode().replace("\r\n", "\n"), process.wait()
