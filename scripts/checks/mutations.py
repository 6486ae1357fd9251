"""Mutations of a store's files: flips and cuts, other kinds of files, hostile content under right checksums.

A mutation takes a source of chance and a `Target`, changes the store, and says in words what it did. Of
those that are `Mutation.sealed`, checksums are computed again, as anybody can who makes a store up.
"""

import hashlib
import json
import math
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scripts.checks.victims import World, rewrite, sealed

PAGE = 4096
_DEEP = 20_000
_HUGE_FILE = 10 << 30
_PLACEHOLDER = "@@deep@@"
# Fields of a commit that say more of a file's content than its checksum; stores of before lack them.
EXTRA_FACTS = ("batches", "digests")


class InapplicableError(Exception):
    """This mutation cannot be made of this file."""


@dataclass(frozen=True, slots=True)
class Target:
    """A file or folder of a store, by its kind."""

    kind: str
    path: Path
    world: World
    n_shards: int = 3

    @property
    def out(self) -> Path:
        """The store."""
        return self.world.out

    @property
    def shard(self) -> Path:
        """The shard's folder that the file is in."""
        return self.path.parent

    def siblings(self) -> list[Path]:
        """Files of the same kind in the store, this one left out."""
        found = (path for path in self.out.rglob(self.path.name) if path.is_file())
        return sorted(path for path in found if path != self.path)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mutation, the kinds of files that it is for, and what it does to checksums."""

    name: str
    act: Callable[[random.Random, Target], str]
    kinds: tuple[str, ...]
    sealed: bool = False
    weight: float = 1.0


MANIFEST, COMMIT, WORDS, SENTENCES, REJECTS = (
    "manifest.json", "shard.json", "words.arrow", "sentences.arrow", "rejects.jsonl",
)  # fmt: skip
INDEX_FACTS, INDEX, POSTINGS = "index/*.json", "index/*.faiss", "index/words.arrow"
LOCK, LOG, FOLDERS = ".lock", "run.log", "folders"
FILES = (MANIFEST, COMMIT, WORDS, SENTENCES, REJECTS, INDEX_FACTS, INDEX, POSTINGS, LOCK, LOG)
KINDS = (*FILES, FOLDERS)
_JSON = (MANIFEST, COMMIT, INDEX_FACTS)
_ARROW = (WORDS, SENTENCES, POSTINGS)

MUTATIONS: list[Mutation] = []


def _mutation(*kinds: str, sealed: bool = False, weight: float = 1.0) -> Any:
    def register(act: Callable[[random.Random, Target], str]) -> Callable[[random.Random, Target], str]:
        MUTATIONS.append(Mutation(act.__name__.strip("_"), act, kinds, sealed, weight))
        return act

    return register


def targets(world: World, kind: str) -> list[Path]:
    """The files of a kind in a store; on object storage the files' names carry an attempt."""
    out = world.out
    if kind == FOLDERS:
        return [out / "shards", *sorted(out.glob("shards/[0-9]*")), *out.glob("index")]
    if kind == INDEX_FACTS:
        return sorted(out.glob("index/*.json"))
    if kind == POSTINGS:
        return sorted(out.glob("index/words.arrow"))
    if kind in (INDEX, MANIFEST, LOCK, LOG):
        return sorted(out.glob(kind))
    stem, _, suffix = kind.partition(".")
    return sorted({*out.glob(f"shards/*/{kind}"), *out.glob(f"shards/*/{stem}.*.{suffix}")})


# --- bytes ----------------------------------------------------------------------------------------


def _edit(target: Target, change: Callable[[bytearray], None]) -> None:
    content = bytearray(target.path.read_bytes())
    if not content:
        raise InapplicableError
    change(content)
    target.path.write_bytes(content)


@_mutation(*FILES, weight=10)
def _flip(chance: random.Random, target: Target) -> str:
    places = sorted(chance.random() for _ in range(chance.choice((1, 1, 1, 2, 5))))
    said = []

    def change(content: bytearray) -> None:
        for share in places:
            at, bit = int(share * len(content)), 1 << chance.randrange(8)
            content[at] ^= bit
            said.append(f"bit {bit:#04x} of byte {at}")

    _edit(target, change)
    return f"flip {', '.join(said)}"


@_mutation(*FILES)
def _truncate(chance: random.Random, target: Target) -> str:
    size = target.path.stat().st_size
    kept = chance.choice((0, 1, size // 2, int(chance.random() * size), max(0, size - 1), max(0, size - 8)))
    os.truncate(target.path, kept)
    return f"truncate from {size} to {kept} bytes"


@_mutation(*FILES)
def _extend(chance: random.Random, target: Target) -> str:
    more = chance.choice((b"\0", b"\n", b" " * 100, b"\0" * PAGE, chance.randbytes(PAGE)))
    with target.path.open("ab") as stream:
        stream.write(more)
    return f"extend by {len(more)} bytes {more[:4]!r}…"


@_mutation(*FILES)
def _zero_page(chance: random.Random, target: Target) -> str:
    size = target.path.stat().st_size
    at = chance.randrange(max(1, -(-size // PAGE))) * PAGE
    _edit(
        target, lambda content: content.__setitem__(slice(at, at + PAGE), bytes(len(content[at : at + PAGE])))
    )
    return f"zero the page at {at}"


@_mutation(*FILES)
def _swap_blocks(chance: random.Random, target: Target) -> str:
    size = target.path.stat().st_size
    length = chance.choice((8, 64, 512))
    if size < 3 * length:
        raise InapplicableError
    one, other = sorted(chance.sample(range(size // length), 2))
    a, b = slice(one * length, (one + 1) * length), slice(other * length, (other + 1) * length)

    def change(content: bytearray) -> None:
        content[a], content[b] = content[b], content[a]

    _edit(target, change)
    return f"swap {length} bytes at {a.start} and {b.start}"


@_mutation(*FILES)
def _noise(chance: random.Random, target: Target) -> str:
    size = target.path.stat().st_size
    target.path.write_bytes(chance.randbytes(size))
    return "random bytes in place of all"


@_mutation(COMMIT, WORDS, SENTENCES, REJECTS, INDEX_FACTS)
def _sibling(chance: random.Random, target: Target) -> str:
    siblings = target.siblings()
    if target.kind == INDEX_FACTS:
        siblings = sorted(path for path in target.path.parent.glob("*.json") if path != target.path)
    if not siblings:
        raise InapplicableError
    other = chance.choice(siblings)
    if chance.random() < 0.5:
        shutil.copyfile(other, target.path)
        return f"copy {other.relative_to(target.out)} over it"
    mine, its = target.path.read_bytes(), other.read_bytes()
    target.path.write_bytes(its)
    other.write_bytes(mine)
    return f"swap with {other.relative_to(target.out)}"


# --- other kinds of files -------------------------------------------------------------------------


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


# --- sealed JSON ----------------------------------------------------------------------------------


def hostile_names(target: Target) -> list[str]:
    """Names that want to be something else."""
    canary = target.world.canary
    return [
        "../../x", "../../../x", "../../../../x", "../x", "..", ".", "", "/", "\0", "~/.bashrc", "*", "-",
        str(canary / "x"), str(canary / "notes.txt"), str(canary / "folder"),
        "../../../../../../canary/notes.txt",
        "x\nFORGED by a name", "\x1b[31mred", "\x9b31mred", "\x07\x08", "\u202eevil", "\u2066evil", "\ud800",
        "x" * 5_000, "words.arrow", "words.arrow/", "./words.arrow", "shard.json", "manifest.json", ".lock",
        "run.log", "words.x.arrow", "WORDS.ARROW", "/dev/zero", "/dev/stdin", "/proc/self/environ", "http://127.0.0.1:9/x",
        "s3://no-such-bucket/x", "bert-base-uncased", "../model", "%s%n{0}{x.__class__}", "é" * 200, "000001",
    ]  # fmt: skip


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _nodes(inner, (*path, key))


def _parent(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content


def _name_of(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _pick(chance: random.Random, content: dict[str, Any]) -> tuple[Any, ...]:
    """A node; every depth as likely as the others, as there are many more deep ones."""
    nodes = list(_nodes(content))
    depth = chance.choice(sorted({len(path) for path in nodes}))
    return chance.choice([path for path in nodes if len(path) == depth])


def _values(target: Target) -> list[Any]:
    numbers = [0, 1, 2, 7, -1, -(2**31), 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400]
    floats = [0.5, 1e308, -1e308, 1e-320, math.nan, math.inf, -math.inf]
    others = [None, True, False, "", "1", "x", "0" * 64, [], {}, [None], [[]], {"a": 1}, [1] * 5_000]
    return [*numbers, *floats, *others, *hostile_names(target)]


def _shown(value: Any) -> str:
    text = (
        repr(value)
        if not isinstance(value, int) or abs(value) < 1 << 70
        else f"an integer of {value.bit_length()} bits"
    )
    return text if len(text) < 60 else f"{text[:50]}…"


def _change_json(target: Target, change: Callable[[dict[str, Any]], str]) -> str:
    """Change a sealed JSON file and what is derived from it, and seal all again."""
    content = json.loads(target.path.read_bytes())
    content.pop("checksum", None)
    said = change(content)
    target.path.write_bytes(sealed(content))
    return said


@_mutation(*_JSON, sealed=True, weight=8)
def _other_value(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        path = _pick(chance, content)
        value = chance.choice(_values(target))
        _parent(content, path)[path[-1]] = value
        return f"{_name_of(path)} = {_shown(value)}"

    return _change_json(target, change)


@_mutation(*_JSON, sealed=True, weight=3)
def _other_number(chance: random.Random, target: Target) -> str:
    """A count or a size that is near the right one."""

    def change(content: dict[str, Any]) -> str:
        numbers = [path for path in _nodes(content) if type(_parent(content, path)[path[-1]]) in (int, float)]
        path = chance.choice(numbers)
        old = _parent(content, path)[path[-1]]
        new = chance.choice((old + 1, old - 1, old * 2, old * 1_000_003, -old, old + (1 << 32), old // 2))
        _parent(content, path)[path[-1]] = new
        return f"{_name_of(path)} = {_shown(new)} in place of {old}"

    return _change_json(target, change)


@_mutation(*_JSON, sealed=True, weight=3)
def _without_field(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        path = _pick(chance, content)
        del _parent(content, path)[path[-1]]
        return f"without {_name_of(path)}"

    return _change_json(target, change)


@_mutation(*_JSON, sealed=True, weight=2)
def _more_fields(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        name, value = chance.choice(hostile_names(target)), chance.choice(_values(target))
        objects = [
            (),
            *(path for path in _nodes(content) if isinstance(_parent(content, path)[path[-1]], dict)),
        ]
        path = chance.choice(objects)
        (content if not path else _parent(content, path)[path[-1]])[name] = value
        return f"{_name_of(path)} also has {_shown(name)}: {_shown(value)}"

    return _change_json(target, change)


@_mutation(*_JSON, sealed=True, weight=8)
def _other_key(chance: random.Random, target: Target) -> str:
    """A hostile name in place of a key, as of one of a commit's files."""

    def change(content: dict[str, Any]) -> str:
        keys = [path for path in _nodes(content) if isinstance(path[-1], str)]
        if target.kind == COMMIT and chance.random() < 0.7:
            keys = [path for path in keys if len(path) == 2 and path[0] == "files"]
        path, name = chance.choice(keys), chance.choice(hostile_names(target))
        parent = _parent(content, path)
        parent[name] = parent.pop(path[-1])
        return f"{_name_of(path)} is called {_shown(name)}"

    return _change_json(target, change)


@_mutation(*_JSON, sealed=True, weight=4)
def _hostile_text(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        texts = [path for path in _nodes(content) if isinstance(_parent(content, path)[path[-1]], str)]
        path, name = chance.choice(texts), chance.choice(hostile_names(target))
        _parent(content, path)[path[-1]] = name
        return f"{_name_of(path)} = {_shown(name)}"

    return _change_json(target, change)


@_mutation(INDEX_FACTS, sealed=True, weight=3)
def _hostile_index_file(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        content["file"] = chance.choice(hostile_names(target))
        return f"file = {_shown(content['file'])}"

    return _change_json(target, change)


@_mutation(COMMIT, sealed=True, weight=3)
def _hostile_attempt(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        content["attempt"] = chance.choice(
            [*hostile_names(target), 1, None, [], "0123456789AB", "x/../../../../x"]
        )
        return f"attempt = {_shown(content['attempt'])}"

    return _change_json(target, change)


@_mutation(COMMIT, sealed=True, weight=2)
def _other_shard(chance: random.Random, target: Target) -> str:
    """A commit that says it is another shard's."""

    def change(content: dict[str, Any]) -> str:
        content["shard"] = chance.choice((0, 1, 2, 3, -1, 10**6, 2**40))
        return f"shard = {content['shard']}"

    return _change_json(target, change)


@_mutation(MANIFEST, sealed=True, weight=2)
def _renumbered(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        numbers = chance.choice(([2, 1, 0], [0, 0, 0], [1, 2, 3], [0, 1, 10**9], [-1, 0, 1], [0, 1], []))
        shards = content["shards"]
        content["shards"] = [
            {**shard, "shard": number} for shard, number in zip(shards, numbers, strict=False)
        ]
        return f"shards are numbered {numbers}"

    return _change_json(target, change)


@_mutation(MANIFEST, sealed=True, weight=2)
def _consistent_config(chance: random.Random, target: Target) -> str:
    """Another configuration, with the fingerprint that belongs to it, also in the commits."""
    from ctxbatch.config import ResolvedConfig

    content = json.loads(target.path.read_bytes())
    content.pop("checksum")
    name = chance.choice(sorted(content["config"]))
    value = chance.choice(_values(target))
    content["config"][name] = value
    try:
        fingerprint = ResolvedConfig.from_dict(content["config"]).fingerprint
    except Exception:
        raise InapplicableError from None
    content["fingerprint"] = fingerprint
    target.path.write_bytes(sealed(content))
    for commit in target.out.glob("shards/*/shard.json"):
        rewrite(commit, lambda facts: {**facts, "fingerprint": fingerprint})
    return f"config.{name} = {_shown(value)}, and all fingerprints with it"


@_mutation(*_JSON, sealed=True, weight=2)
def _nested(chance: random.Random, target: Target) -> str:
    """JSON nested too deep for Python to write, sealed all the same."""
    content = json.loads(target.path.read_bytes())
    content.pop("checksum", None)
    path = _pick(chance, content)
    _parent(content, path)[path[-1]] = _PLACEHOLDER
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    inner = opening * _DEEP + ("1" if opening != "[" else "") + closing * _DEEP
    marked = json.dumps(_PLACEHOLDER)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    checksum = hashlib.sha256(canonical.replace(marked, inner).encode()).hexdigest()
    text = json.dumps({**content, "checksum": checksum}, indent=1, ensure_ascii=False) + "\n"
    target.path.write_text(text.replace(marked, inner), encoding="utf-8")
    return f"{_name_of(path)} nested {_DEEP} deep"


@_mutation(*_JSON, weight=1)
def _no_object(chance: random.Random, target: Target) -> str:
    text = chance.choice(
        ("[]", "1", "null", '"x"', "{}", '{"checksum": 1}', "[" * 100_000, "NaN",
         '{"checksum": "' + "0" * 64 + '"}',
         "1" * 10_000, '{"a": 1, "a": 2, "checksum": ""}', "\ufeff{}", '"\\ud800"'),
    )  # fmt: skip
    target.path.write_text(text, encoding="utf-8")
    return f"{_shown(text)} in place of all"


@_mutation(REJECTS, sealed=True, weight=5)
def _hostile_rejects(chance: random.Random, target: Target) -> str:
    lines = target.path.read_text().splitlines()
    line = json.loads(lines[0])
    new = chance.choice(
        (
            "[]", "1", "", "{}", "{", "[" * 50_000, '{"reason": 1}', "x" * 1_000_000,
            json.dumps({**line, "source": "\x1b[31mred"}, ensure_ascii=False),
            json.dumps({**line, "reason": "\x9b31m \u202e"}, ensure_ascii=False),
            json.dumps({**line, "record": 10**400}), '"\\ud800"',
        )
    )  # fmt: skip
    lines[chance.randrange(len(lines))] = new
    target.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    adopt(target)
    return f"a line is {_shown(new)}"


# --- checksums ------------------------------------------------------------------------------------


def _facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def adopt(target: Target, **counts: int) -> None:
    """Have all checksums be those of a file that has been changed, as its author would."""
    path = target.path
    if path.parent.name == "index":
        rewrite(path.with_suffix(".json"), lambda facts: {**facts, **_facts(path)})
        return

    def change(commit: dict[str, Any]) -> dict[str, Any]:
        commit["files"][target.kind] = _facts(path)
        commit["counts"] |= counts
        return {name: value for name, value in commit.items() if name not in EXTRA_FACTS}

    rewrite(path.with_name("shard.json"), change)
    if target.kind == WORDS:
        shard = str(int(path.parent.name))
        for facts in target.out.glob("index/*.json"):
            rewrite(
                facts, lambda of: {**of, "built_from": {**of["built_from"], shard: _facts(path)["sha256"]}}
            )


@_mutation(*_ARROW, INDEX, REJECTS, sealed=True, weight=5)
def _sealed_flip(chance: random.Random, target: Target) -> str:
    said = _flip(chance, target)
    adopt(target)
    return f"{said}, sealed"


@_mutation(*_ARROW, INDEX, REJECTS, sealed=True)
def _sealed_cut(chance: random.Random, target: Target) -> str:
    said = chance.choice((_truncate, _extend, _zero_page, _swap_blocks, _noise))(chance, target)
    adopt(target)
    return f"{said}, sealed"


@_mutation(*_ARROW, sealed=True, weight=4)
def _sealed_edges(chance: random.Random, target: Target) -> str:
    """Flips where an Arrow file says what it holds: its head, its tail, and the heads of its batches."""
    content = bytearray(target.path.read_bytes())
    places = [*range(8, 64), *range(max(0, len(content) - 2_000), len(content))]
    at = content.find(b"\xff\xff\xff\xff", 16)
    while at >= 0:
        places += range(at, min(at + 400, len(content)))
        at = content.find(b"\xff\xff\xff\xff", at + 4)
    said = []
    for _ in range(chance.choice((1, 2, 8))):
        place = chance.choice(places)
        content[place] = chance.choice((0, 0xFF, 0x7F, 0x80, content[place] ^ (1 << chance.randrange(8))))
        said.append(f"{place} = {content[place]:#04x}")
    target.path.write_bytes(content)
    adopt(target)
    return f"metadata: bytes {', '.join(said)}, sealed"


# --- Arrow ----------------------------------------------------------------------------------------


def buffers(path: Path, column: str) -> list[tuple[int, int]]:
    """Where the buffers of a column lie in a file: begin and length, validity, offsets and values."""
    content = pa.py_buffer(path.read_bytes())
    table = pa.ipc.open_file(content).read_all()
    places = []
    for chunk in table[column].chunks:
        for buffer in chunk.buffers():
            if buffer is not None and content.address <= buffer.address < content.address + content.size:
                places.append((buffer.address - content.address, buffer.size))
    return places


@_mutation(*_ARROW, sealed=True, weight=4)
def _offsets(chance: random.Random, target: Target) -> str:
    """A text's or a list's offset far outside."""
    column = {WORDS: ["word"], SENTENCES: ["text", "source", "doc_id"], POSTINGS: ["word", "rows"]}[
        target.kind
    ]
    name = chance.choice(column)
    content = bytearray(target.path.read_bytes())
    table = pa.ipc.open_file(pa.py_buffer(bytes(content))).read_all()
    whole = pa.py_buffer(bytes(content))
    chunk = chance.choice(pa.ipc.open_file(whole).read_all()[name].chunks)
    place = chunk.buffers()[1].address - whole.address
    at = place + 4 * chance.choice((0, 1, len(chunk) // 2, len(chunk) - 1, len(chunk)))
    value = chance.choice((2**31 - 1, -1, -(2**31), 2**30, 0, 10**6))
    content[at : at + 4] = int(value).to_bytes(4, "little", signed=True)
    target.path.write_bytes(content)
    adopt(target)
    return f"an offset of {name} of {len(table)} rows is {value}, sealed"


def _write_table(target: Target, table: pa.Table, **options: Any) -> None:
    with pa.ipc.new_file(str(target.path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    adopt(target)


def _read_table(target: Target) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(target.path.read_bytes())).read_all()


@_mutation(*_ARROW, sealed=True, weight=3)
def _schema(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    number = chance.randrange(table.num_columns)
    name = table.column_names[number]
    how = chance.choice(
        ("drop", "nulls", "rename", "twice", "text", "large text", "list", "int8", "metadata", "dict")
    )
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "rename":
        table = table.rename_columns([f"{each}x" if each == name else each for each in table.column_names])
    elif how == "twice":
        table = table.append_column(table.field(number), table.column(number))
    elif how == "metadata":
        table = table.replace_schema_metadata(chance.choice((None, {"ctxbatch.fingerprint": "\x1b[31m"})))
    else:
        kinds = {
            "nulls": pa.nulls(len(table)),
            "text": pa.array(["\x1b[31m"] * len(table)),
            "large text": pa.array(["x"] * len(table), pa.large_string()),
            "list": pa.array([[1]] * len(table)),
            "int8": pa.array(np.zeros(len(table), np.int8)),
            "dict": pa.array(["x"] * len(table)).dictionary_encode(),
        }
        table = table.set_column(number, name, kinds[how])
    _write_table(target, table)
    return f"column {name}: {how}, sealed"


@_mutation(*_ARROW, sealed=True, weight=3)
def _rows(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    how = chance.choice(
        ("none", "half", "double", "one less", "reversed", "many batches", "lz4", "zstd", "counted")
    )
    options: dict[str, Any] = {}
    if how in ("none", "counted"):
        table = table.slice(0, 0)
    elif how == "half":
        table = table.slice(0, len(table) // 2)
    elif how == "double":
        table = pa.concat_tables([table, table])
    elif how == "one less":
        table = table.slice(0, len(table) - 1)
    elif how == "reversed":
        table = table.take(pa.array(range(len(table) - 1, -1, -1)))
    elif how == "many batches":
        table = pa.concat_tables([table.slice(at, 7) for at in range(0, len(table), 7)])
    else:
        options["compression"] = how
    _write_table(target, table, **options)
    if how == "counted" and target.kind in (WORDS, SENTENCES):
        adopt(target, **{"rows" if target.kind == WORDS else "sentences": 0})
    return f"rows: {how}, sealed"


@_mutation(*_ARROW, sealed=True, weight=4)
def _content(chance: random.Random, target: Target) -> str:
    """Values that no run writes, in a table of the right form."""
    table = _read_table(target)
    names = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
    name = chance.choice(names)
    number = table.schema.get_field_index(name)
    kind = table.schema.field(number).type
    values = table[name].to_pylist()
    at = chance.randrange(len(values))
    if pa.types.is_string(kind):
        values[at] = chance.choice(
            ("\x1b[31mred", "\x9b31m", "\u202e", "", "x\nFORGED", "\0", "x" * 100_000, "\r")
        )
    elif pa.types.is_floating(kind):
        values[at] = chance.choice((math.nan, math.inf, -1.0))
    elif pa.types.is_list(kind):
        values[at] = chance.choice(([], [-1], [2**31 - 1], [0, 0], [len(values)] * 1_000))
    else:
        values[at] = chance.choice((0, -1, 2**31 - 1, -(2**31), (values[at] or 0) + 1))
    array = pa.array(values, kind)
    _write_table(target, table.set_column(number, table.schema.field(number), array))
    return f"{name} of row {at} is {_shown(values[at])}, sealed"


@_mutation(WORDS, sealed=True, weight=2)
def _vectors(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    numbers = [n for n, field in enumerate(table.schema) if pa.types.is_fixed_size_list(field.type)]
    number = chance.choice(numbers)
    field = table.schema.field(number)
    column = table.column(number).combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).copy()
    value = chance.choice((np.nan, np.inf, 0.0, -65504.0))
    flat[: chance.choice((1, len(flat)))] = value
    array = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=field.type)
    _write_table(target, table.set_column(number, field, array))
    return f"{field.name} holds {value}, sealed"


@_mutation(*_ARROW, sealed=True)
def _other_format(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    how = chance.choice(("stream", "parquet", "empty file", "magic alone"))
    if how == "stream":
        with pa.ipc.new_stream(str(target.path), table.schema) as writer:
            writer.write_table(table)
    elif how == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, target.path)
    else:
        target.path.write_bytes(b"" if how == "empty file" else b"ARROW1\0\0" * 2 + b"\xff\xff\xff\x7fARROW1")
    adopt(target)
    return f"{how}, sealed"


# --- FAISS ----------------------------------------------------------------------------------------


@_mutation(INDEX, sealed=True, weight=5)
def _other_index(chance: random.Random, target: Target) -> str:
    import faiss

    index = faiss.read_index(str(target.path))
    how = chance.choice(
        ("fewer", "more", "none", "ids", "dimension", "flat", "l2", "untrained", "lists", "binary")
    )
    vectors = np.random.default_rng(1).standard_normal((500, index.d)).astype(np.float32)
    if how == "fewer":
        index.remove_ids(np.arange(0, index.ntotal, 2))
    elif how == "more":
        index.add(vectors)
    elif how == "none":
        index.reset()
    elif how == "ids":
        total = index.ntotal
        index.reset()
        ids = np.random.default_rng(2).integers(-(2**40), 2**40, 500)
        index.add_with_ids(vectors, ids)
        index.ntotal = total
    elif how == "dimension":
        index = faiss.index_factory(16, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:, :16].copy())
        index.add(vectors[:, :16].copy())
    elif how == "flat":
        index = faiss.IndexFlatIP(index.d)
        index.add(vectors)
    elif how == "l2":
        index = faiss.index_factory(index.d, "IVF4,Flat")
        index.train(vectors)
        index.add(vectors)
    elif how == "untrained":
        index = faiss.index_factory(index.d, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    elif how == "lists":
        index = faiss.index_factory(index.d, "IVF64,PQ4x4fs", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
    if how == "binary":
        faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(target.path))
    else:
        faiss.write_index(index, str(target.path))
    adopt(target)
    return f"{how}, sealed"


@_mutation(INDEX, sealed=True, weight=5)
def _index_fields(chance: random.Random, target: Target) -> str:
    """Numbers in the head of the index, where its sizes are."""
    content = bytearray(target.path.read_bytes())
    width = chance.choice((4, 8))
    at = chance.choice((*range(0, 160, 4), *range(len(content) - 200, len(content) - 8, 4)))
    value = chance.choice(
        (0, 1, 2**31 - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 2**33, 10**9)
    ) % 2 ** (8 * width)
    content[at : at + width] = value.to_bytes(width, "little")
    target.path.write_bytes(content)
    adopt(target)
    return f"{width} bytes at {at} = {value}, sealed"


# --- logs and locks -------------------------------------------------------------------------------


@_mutation(LOCK, LOG)
def _hostile_line(chance: random.Random, target: Target) -> str:
    line = chance.choice(
        ("\x1b[31mred\n", "x\nFORGED by a name\n", "\x9b31m\u202e", "x" * 100_000, "\0" * 1000)
    )
    target.path.write_text(line, encoding="utf-8")
    return f"{_shown(line)} in it"
