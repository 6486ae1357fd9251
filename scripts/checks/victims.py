"""The stores that are attacked, the world around each, and what must not change in it."""

import hashlib
import http.client
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

N_RECORDS = 64
FACTORY = "IVF4,Flat"
ATTEMPT = "0123456789ab"
# Options of a run by the variant of the store that it makes.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"layers": (3, 1)},
    "salience": {"salience": True, "vectors": ("static", "contextual")},
    "pieces": {"pool": "none", "layers": (2,)},
    "parts": {"layers": (2,), "vectors": ("static", "contextual")},
}
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Base:
    """What all cases begin with: a model, a corpus, the intact stores, and their answers."""

    folder: Path
    url: str | None = None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """A tiny random model."""
        return self.folder / "model"

    @property
    def corpus(self) -> Path:
        """What the stores were made of."""
        return self.folder / "inputs" / "corpus.jsonl"

    @property
    def queries(self) -> Path:
        """A file for ``search --queries``."""
        return self.folder / "inputs" / "queries.txt"

    @property
    def cache(self) -> Path:
        """A cache in which the model is converted."""
        return self.folder / "cache"

    def store(self, variant: str) -> Path:
        """Return an intact store."""
        return self.folder / variant / "out"

    def stamp(self) -> dict[str, Any]:
        """Return what tells whether anything here has changed, without reading it."""
        return {
            str(path): [(found := path.lstat()).st_size, found.st_mtime_ns, found.st_ino, found.st_mode]
            for path in sorted(self.folder.rglob("*"))
            if not path.is_dir()
        }


def write_inputs(base: Base) -> None:
    """Write the model and the corpus; some records are rejected, and some words."""
    from tests.helpers.models import TEXT, make_model

    make_model(base.model, "bert")
    base.corpus.parent.mkdir(parents=True)
    lines = [line for line in TEXT.splitlines() if line.strip()]
    records = [
        json.dumps({"id": f"doc {n // 10}", "text": f"{n}: {lines[n % len(lines)]}"}, ensure_ascii=False)
        for n in range(N_RECORDS)
    ]
    records[7::25] = ["{"] * len(records[7::25])
    base.corpus.write_text("\n".join(records) + "\n", encoding="utf-8")
    base.queries.write_text("I want an [apple].\nThe old [bank] stood by the [river].\n", encoding="utf-8")


def run_options(base: Base, variant: str) -> dict[str, Any]:
    """Return the options of a variant, for `ctxbatch.RunConfig`."""
    shared = {"model": str(base.model), "shard_size": base.corpus.stat().st_size // 3 + 1}
    return {**shared, "id_field": "id", **VARIANTS[variant]}


def run_arguments(base: Base, variant: str, out: object) -> list[str]:
    """Return the command that makes a variant."""
    arguments = ["run", str(base.corpus), "-o", str(out)]
    for name, value in run_options(base, variant).items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        else:
            arguments += [option, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return arguments


def make_victim(base: Base, variant: str) -> None:
    """Make a store with an index; the same bytes each time, but for the paths in it."""
    import ctxbatch
    from ctxbatch.model import graphs
    from ctxbatch.search import index_build
    from tests.helpers.conversion import convert_here
    from tests.helpers.stores import make_store

    os.environ["XDG_CACHE_HOME"] = str(base.cache)  # in a child
    graphs._convert = convert_here  # a process of its own would import for seconds what is imported here
    out = base.store(variant)
    store = make_store(out, [base.corpus], ctxbatch.RunConfig(**run_options(base, variant)))
    (out / ".lock").write_text("process 1 on nowhere\n")
    (out / "run.log").write_text("2026-01-01 00:00:00,000 DEBUG planned 3 shards from 1 sources\n")
    factory, index_build.SCAN_ROWS = None if variant == "parts" else FACTORY, 1_000
    index_build.build(store, store.config.column(), index_build.IndexOptions(factory=factory, recall=1.0))
    assert len(store.commits) == 3, len(store.commits)
    assert store.n_rows >= 1_000, store.n_rows
    for path in out.glob("shards/*/shard.json"):
        rewrite(path, _without_times)
    for path in out.glob("index/*.json"):
        rewrite(path, lambda facts: {**facts, "seconds": 1.0} if "seconds" in facts else facts)


def _without_times(commit: dict[str, Any]) -> dict[str, Any]:
    shard = commit["shard"]
    stages = {stage: dict.fromkeys(seconds, 0.25) for stage, seconds in commit["timing"]["stages"].items()}
    commit["timing"] |= {"started": 1_700_000_000.0 + shard, "finished": 1_700_000_001.0 + shard}
    commit["timing"]["stages"] = stages
    return {**commit, "peak_memory_bytes": 300_000_000}


def rewrite(path: Path, change: Any) -> None:
    """Change a sealed JSON file, and seal it again."""
    content = json.loads(path.read_bytes())
    content.pop("checksum", None)
    path.write_bytes(sealed(change(content)))


def sealed(content: dict[str, Any]) -> bytes:
    """Return what the program would write, also where it would refuse to."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    checksum = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
    text = json.dumps({**content, "checksum": checksum}, indent=1, ensure_ascii=False) + "\n"
    return text.encode(errors="surrogatepass")


def arrow_digests(out: Path) -> dict[str, str]:
    """Checksums of all Arrow files of a store's shards by their place in it."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("shards/*/*.arrow"))
        if path.is_file()
    }


def as_on_object_storage(out: Path) -> None:
    """Give the files of a store's folder the names that they have on object storage."""
    shutil.rmtree(out / "index", ignore_errors=True)
    for name in (".lock", "run.log"):
        (out / name).unlink(missing_ok=True)
    for folder in out.glob("shards/*"):
        for path in folder.iterdir():
            if path.name != "shard.json":
                stem, _, suffix = path.name.partition(".")
                path.rename(folder / f"{stem}.{ATTEMPT}.{suffix}")
        rewrite(folder / "shard.json", lambda commit: {**commit, "attempt": ATTEMPT})


def upload(url: str, bucket: str, out: Path) -> None:
    """Copy a folder into a bucket of the object store at ``url``."""
    connection = http.client.HTTPConnection(url.partition("://")[2], timeout=10)
    objects = {
        f"/out/{path.relative_to(out)}": path.read_bytes() for path in out.rglob("*") if path.is_file()
    }
    for name, content in {"": b"", **objects}.items():
        connection.request("PUT", f"/{bucket}{name}", body=content)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the object store answers {answer.status}")
    connection.close()


# --- the object store -----------------------------------------------------------------------------

_SERVER = """
import sys
from tests.helpers.objectstore import object_store
with object_store() as store:
    print(store.url, flush=True)
    sys.stdin.read()
"""


def start_object_store() -> "subprocess.Popen[str] | None":
    """Start an S3 server of this machine in a process of its own; ``None`` where moto is not installed."""
    try:
        import importlib.util

        if any(importlib.util.find_spec(name) is None for name in ("moto", "boto3", "werkzeug")):
            return None
    except ImportError:
        return None
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


# --- the world of a case --------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A case's folder: the store, places that commands may write to, and places that they may not."""

    root: Path

    @property
    def watched(self) -> Path:
        """All that must stay as it is, but for what is in `Base` and the places named below."""
        return self.root / "world"

    @property
    def home(self) -> Path:
        """The folder that the store is in; deep, so that names with .. stay under `watched`."""
        return self.watched / "a" / "b" / "c" / "d"

    @property
    def out(self) -> Path:
        """The store."""
        return self.home / "out"

    @property
    def pulled(self) -> Path:
        """Where a store is pulled to."""
        return self.home / "pulled"

    @property
    def cache(self) -> Path:
        """The program's cache."""
        return self.home / "cache"

    @property
    def scratch(self) -> Path:
        """Where temporary files go; empty again when a command has ended."""
        return self.home / "scratch"

    @property
    def canary(self) -> Path:
        """What hostile names point to."""
        return self.watched / "canary"

    @property
    def aside(self) -> Path:
        """What mutations put beside the store; watched too."""
        return self.home / "aside"

    @property
    def said(self) -> Path:
        """What commands print."""
        return self.root / "said"

    def make(self, store: Path, cache: Path) -> None:
        """Make the world, with copies of a store and of a cache in which the model is converted."""
        for folder in (self.home, self.scratch, self.aside, self.said, self.canary / "folder"):
            folder.mkdir(parents=True)
        (self.home / "user").mkdir()
        (self.home / "here").mkdir()
        (self.canary / ".bashrc").write_text("# start-up file\n")
        (self.canary / "notes.txt").write_text("notes\n")
        (self.canary / "folder" / "inner.txt").write_text("inner\n")
        shutil.copytree(store, self.out)
        shutil.copytree(cache, self.cache)

    def environment(self, url: str | None) -> dict[str, str]:
        """Return what a command finds in its environment."""
        found = {
            "HOME": str(self.home / "user"),
            "XDG_CACHE_HOME": str(self.cache),
            "TMPDIR": str(self.scratch),
        }
        if url is not None:
            found |= {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_MAX_ATTEMPTS": "2",
            }
        return found

    def snapshot(self) -> dict[str, list[Any]]:
        """Everything in the watched places."""
        return dict(self._look(self.watched))

    def _look(self, folder: Path) -> Iterator[tuple[str, list[Any]]]:
        allowed = (self.out, self.pulled, self.cache)
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if path in allowed:
                    continue
                yield str(path.relative_to(self.watched)), _facts(path)
                if entry.is_dir(follow_symlinks=False):
                    yield from self._look(path)


def _facts(path: Path) -> list[Any]:
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        return [found.st_mode]
    if stat.S_ISLNK(found.st_mode):
        return [found.st_mode, str(path.readlink())]
    content = ""
    if stat.S_ISREG(found.st_mode) and found.st_size <= _HASHED_BYTES:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return [found.st_mode, found.st_size, found.st_mtime_ns, content]
