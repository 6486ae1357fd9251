import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
_cache = tempfile.TemporaryDirectory(prefix="ctxbatch-tests-")  # rates of past runs, compiled models
os.environ["XDG_CACHE_HOME"] = _cache.name

from models import TEXT, make_model  # noqa: E402
from oracle import Oracle  # noqa: E402

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[..., Path]:
    """A tiny random model of a family, made once."""
    made: dict[str, Path] = {}

    def get(family: str = "bert") -> Path:
        if family not in made:
            made[family] = make_model(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def oracle(tiny) -> Callable[..., Oracle]:
    made: dict[str, Oracle] = {}

    def get(family: str = "bert") -> Oracle:
        if family not in made:
            made[family] = Oracle(tiny(family))
        return made[family]

    return get


@pytest.fixture
def text(tmp_path) -> Path:
    """A file of text with something of everything."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ctxbatch.cli", *map(str, arguments)]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run the command line in a process of its own."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, check=False)

    return run
