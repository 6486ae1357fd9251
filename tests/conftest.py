import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:  # its workers share what it keeps: converted models, rates
    _cache = tempfile.TemporaryDirectory(prefix="ctxbatch-tests-")
    os.environ["XDG_CACHE_HOME"] = _cache.name
os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # one worker where no test says how many: each imports for seconds
os.environ["OMP_NUM_THREADS"] = "1"  # models are tiny: threads would wait for each other most of the time

import ctxbatch
import ctxbatch.cli.main
from ctxbatch.execution import local_pool
from ctxbatch.model import graphs
from tests.helpers.forked_workers import SUBPROCESS
from tests.helpers.running import command
from tests.helpers.stores import make_store

if TYPE_CHECKING:
    from tests.helpers.oracle import Oracle

# The same examples everywhere, as fast as the machine is.
settings.register_profile("ctxbatch", deadline=None, derandomize=True)
settings.load_profile("ctxbatch")
# Fixtures import what imports torch: the process that starts those of the tests has no need of it.
Cli = Callable[..., subprocess.CompletedProcess[str]]
_convert_elsewhere = graphs._convert


@pytest.fixture(scope="session", autouse=True)
def _conversions_here():
    """Models are converted in this process, unless it is one of the command line."""
    from tests.helpers.conversion import convert_here

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_convert", convert_here)
        yield


@pytest.fixture(scope="session", autouse=True)
def _workers_forked():
    """Workers are forked, unless they are those of a process of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_pool, "subprocess", SUBPROCESS)
        yield


@pytest.fixture
def workers_elsewhere():
    """Workers are started as for a user: each an interpreter of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_pool, "subprocess", subprocess)
        yield


@pytest.fixture
def conversions_elsewhere(monkeypatch):
    """Models are converted as for a user: in a process of its own."""
    monkeypatch.setattr(graphs, "_convert", _convert_elsewhere)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[..., Path]:
    """A tiny random model of a family, made once."""
    from tests.helpers.models import make_model

    made: dict[str, Path] = {}

    def get(family: str = "bert") -> Path:
        if family not in made:
            made[family] = make_model(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def oracle(tiny) -> Callable[..., "Oracle"]:
    from tests.helpers.oracle import Oracle

    made: dict[str, Oracle] = {}

    def get(family: str = "bert") -> Oracle:
        if family not in made:
            made[family] = Oracle(tiny(family))
        return made[family]

    return get


@pytest.fixture
def text(tmp_path) -> Path:
    """A file of text with something of everything."""
    from tests.helpers.models import TEXT

    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def long_text(tmp_path_factory) -> Callable[[int], Path]:
    """A file of as many lines as are asked for, each with its number."""
    from tests.helpers.models import numbered_lines

    def write(n_lines: int) -> Path:
        path = tmp_path_factory.mktemp("corpus") / "long.txt"
        path.write_text(numbered_lines(n_lines), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A file of a hundred and twenty lines."""
    from tests.helpers.models import TEXT

    path = tmp_path_factory.mktemp("corpus") / "many.txt"
    lines = [line for line in TEXT.splitlines() if line.strip()]
    path.write_text("".join(f"{lines[n % len(lines)]} {n}\n" for n in range(120)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def store(corpus, tiny, tmp_path_factory):
    """A store of that file in several shards; a module has it for itself."""
    out = tmp_path_factory.mktemp("store") / "out"
    return make_store(out, [corpus], ctxbatch.RunConfig(model=str(tiny()), shard_size=2000, layers=(3, 1)))


@pytest.fixture(scope="module")
def quick_indexes():
    """Indexes are tuned with few queries: for tests that need an index, and not how well it is tuned."""
    from tests.helpers.indexes import QUICK

    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in QUICK:
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def server():
    """An object store that is reached over HTTP, and that the environment names."""
    from tests.helpers.objectstore import ENVIRONMENT, object_store

    with object_store() as store, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url}.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def bucket(server, request):
    """A bucket of the test's own, and a function that fills it."""
    name = f"bucket-{abs(hash(request.node.name)):x}"
    client = server.client()
    client.create_bucket(Bucket=name)

    def put(objects: dict[str, bytes]) -> str:
        for key, content in objects.items():
            client.put_object(Bucket=name, Key=key, Body=content)
        return f"s3://{name}"

    server.asked.clear()
    server.fails = server.refuses = lambda _: None
    yield put
    server.fails = server.refuses = lambda _: None


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run the command line; its workers are processes of their own, and so is all of it with ``cwd``.

    In this process it says and returns the same, and spares a test the seconds that imports take.
    """
    import pandas  # noqa: F401 (the command would keep it from pyarrow, for all other tests too)

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        if cwd is not None:
            return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, check=False)
        return run_here(list(map(str, arguments)))

    return run


def run_here(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, and leave no trace of it."""
    log = logging.getLogger("ctxbatch")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    signals = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            patch.setattr(sys, "argv", ["ctxbatch", *arguments])
            ctxbatch.cli.main.main()
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)
        log.propagate = propagate
        for each, handler in signals.items():
            signal.signal(each, handler)
    said, wrong = (stream.buffer.getvalue().decode() for stream in (out, errors))
    return subprocess.CompletedProcess(arguments, ended.value.code, said, wrong)
