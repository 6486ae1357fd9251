"""Settings that give stores of some thousand rows an index, here and in processes of their own."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time

from ctxbatch.search.index_files import facts_path
from tests.helpers.models import TEXT

COLUMN = "shift_2"
# Stores of some thousand rows get an index, which is tuned with few queries.
SETTINGS = {
    "index_build.SCAN_ROWS": 10_000,
    "index_tuning._QUERIES": 20,
    "index_tuning._FILTERED_QUERIES": 8,
    "best_scores._ROWS": 200,
    "new_queries._ALTERED": 10,
}
# The same in a process of its own; {} is what it does.
SCRIPT = """
import sys
from ctxbatch.search import best_scores, index_build, index_tuning, new_queries
{}
"""
SCRIPT = SCRIPT.format("\n".join(f"{name} = {value}" for name, value in SETTINGS.items()) + "\n{}")
COMMAND_LINE = SCRIPT.format("from ctxbatch.cli.main import main; sys.argv[0] = 'ctxbatch'; main()")
# Builds an index, and kills itself when it is about to sync its n-th file.
BUILD = SCRIPT.format("""
import os, signal
from ctxbatch.store.reader import Store
writes, real = 0, os.fsync
def fsync(descriptor):
    global writes
    writes += 1
    if writes == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
options = index_build.IndexOptions(factory=sys.argv[4] or None)
index_build.build(Store(sys.argv[1]), sys.argv[3], options)
""")


def is_killed(out, at, column=COLUMN, factory=""):
    """Build an index in a process of its own; say if it was killed at the at-th file that it synced."""
    command = [sys.executable, "-c", BUILD, str(out), str(at), column, factory]
    status = subprocess.run(command, check=False).returncode
    assert status in (0, -signal.SIGKILL)
    return status != 0


def write(path, lines, seed=0):
    words = sorted({word for word in TEXT.split() if word.isalpha() and len(word) < 12})
    chance = random.Random(seed)
    path.write_text("".join(f"{' '.join(chance.choices(words, k=9))} {n}\n" for n in range(lines)))
    return path


def set_all(patch):
    for name, value in SETTINGS.items():
        patch.setattr(f"ctxbatch.search.{name}", value)


def index_digests(out):
    """The checksums of all files of the indexes, without the seconds that a build took."""
    found = {}
    for path in sorted((out / "index").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if path == facts_path(out, COLUMN):
            facts = json.loads(content)
            content = json.dumps({**facts, "seconds": 0, "checksum": ""}).encode()
        found[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return found


def wait_until(condition):
    for _ in range(6_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never became true")
