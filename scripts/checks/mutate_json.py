"""Mutations of text under right checksums: manifest, commits, facts of indexes, rejects; and of logs."""

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from scripts.checks.targets import (
    COMMIT,
    INDEX_FACTS,
    JSON,
    LOCK,
    LOG,
    MANIFEST,
    REJECTS,
    InapplicableError,
    Mutation,
    Target,
    adopt,
    declare_in,
    shown,
)
from scripts.checks.victims import rewrite, sealed

_DEEP = 20_000
_PLACEHOLDER = "@@deep@@"

MUTATIONS: list[Mutation] = []
_mutation = declare_in(MUTATIONS)


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
    """Return a node; every depth as likely as the others, as there are many more deep ones."""
    nodes = list(_nodes(content))
    depth = chance.choice(sorted({len(path) for path in nodes}))
    return chance.choice([path for path in nodes if len(path) == depth])


def _values(target: Target) -> list[Any]:
    numbers = [0, 1, 2, 7, -1, -(2**31), 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400]
    floats = [0.5, 1e308, -1e308, 1e-320, math.nan, math.inf, -math.inf]
    others = [None, True, False, "", "1", "x", "0" * 64, [], {}, [None], [[]], {"a": 1}, [1] * 5_000]
    return [*numbers, *floats, *others, *hostile_names(target)]


def _change_json(target: Target, change: Callable[[dict[str, Any]], str]) -> str:
    """Change a sealed JSON file and what is derived from it, and seal all again."""
    content = json.loads(target.path.read_bytes())
    content.pop("checksum", None)
    said = change(content)
    target.path.write_bytes(sealed(content))
    return said


@_mutation(*JSON, sealed=True, weight=8)
def _other_value(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        path = _pick(chance, content)
        value = chance.choice(_values(target))
        _parent(content, path)[path[-1]] = value
        return f"{_name_of(path)} = {shown(value)}"

    return _change_json(target, change)


@_mutation(*JSON, sealed=True, weight=3)
def _other_number(chance: random.Random, target: Target) -> str:
    """Replace a count or a size by one near the right one."""

    def change(content: dict[str, Any]) -> str:
        numbers = [path for path in _nodes(content) if type(_parent(content, path)[path[-1]]) in (int, float)]
        path = chance.choice(numbers)
        old = _parent(content, path)[path[-1]]
        new = chance.choice((old + 1, old - 1, old * 2, old * 1_000_003, -old, old + (1 << 32), old // 2))
        _parent(content, path)[path[-1]] = new
        return f"{_name_of(path)} = {shown(new)} in place of {old}"

    return _change_json(target, change)


@_mutation(*JSON, sealed=True, weight=3)
def _without_field(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        path = _pick(chance, content)
        del _parent(content, path)[path[-1]]
        return f"without {_name_of(path)}"

    return _change_json(target, change)


@_mutation(*JSON, sealed=True, weight=2)
def _more_fields(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        name, value = chance.choice(hostile_names(target)), chance.choice(_values(target))
        objects = [
            (),
            *(path for path in _nodes(content) if isinstance(_parent(content, path)[path[-1]], dict)),
        ]
        path = chance.choice(objects)
        (content if not path else _parent(content, path)[path[-1]])[name] = value
        return f"{_name_of(path)} also has {shown(name)}: {shown(value)}"

    return _change_json(target, change)


@_mutation(*JSON, sealed=True, weight=8)
def _other_key(chance: random.Random, target: Target) -> str:
    """Replace a key, such as the name of a commit's file, by a hostile name."""

    def change(content: dict[str, Any]) -> str:
        keys = [path for path in _nodes(content) if isinstance(path[-1], str)]
        if target.kind == COMMIT and chance.random() < 0.7:
            keys = [path for path in keys if len(path) == 2 and path[0] == "files"]
        path, name = chance.choice(keys), chance.choice(hostile_names(target))
        parent = _parent(content, path)
        parent[name] = parent.pop(path[-1])
        return f"{_name_of(path)} is called {shown(name)}"

    return _change_json(target, change)


@_mutation(*JSON, sealed=True, weight=4)
def _hostile_text(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        texts = [path for path in _nodes(content) if isinstance(_parent(content, path)[path[-1]], str)]
        path, name = chance.choice(texts), chance.choice(hostile_names(target))
        _parent(content, path)[path[-1]] = name
        return f"{_name_of(path)} = {shown(name)}"

    return _change_json(target, change)


@_mutation(INDEX_FACTS, sealed=True, weight=3)
def _hostile_index_file(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        content["file"] = chance.choice(hostile_names(target))
        return f"file = {shown(content['file'])}"

    return _change_json(target, change)


@_mutation(COMMIT, sealed=True, weight=3)
def _hostile_attempt(chance: random.Random, target: Target) -> str:
    def change(content: dict[str, Any]) -> str:
        content["attempt"] = chance.choice(
            [*hostile_names(target), 1, None, [], "0123456789AB", "x/../../../../x"]
        )
        return f"attempt = {shown(content['attempt'])}"

    return _change_json(target, change)


@_mutation(COMMIT, sealed=True, weight=2)
def _other_shard(chance: random.Random, target: Target) -> str:
    """Make a commit say that it is another shard's."""

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
    return f"config.{name} = {shown(value)}, and all fingerprints with it"


@_mutation(*JSON, sealed=True, weight=2)
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


@_mutation(*JSON, weight=1)
def _no_object(chance: random.Random, target: Target) -> str:
    text = chance.choice(
        ("[]", "1", "null", '"x"', "{}", '{"checksum": 1}', "[" * 100_000, "NaN",
         '{"checksum": "' + "0" * 64 + '"}',
         "1" * 10_000, '{"a": 1, "a": 2, "checksum": ""}', "\ufeff{}", '"\\ud800"'),
    )  # fmt: skip
    target.path.write_text(text, encoding="utf-8")
    return f"{shown(text)} in place of all"


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
    return f"a line is {shown(new)}"


# --- logs and locks -------------------------------------------------------------------------------


@_mutation(LOCK, LOG)
def _hostile_line(chance: random.Random, target: Target) -> str:
    line = chance.choice(
        ("\x1b[31mred\n", "x\nFORGED by a name\n", "\x9b31m\u202e", "x" * 100_000, "\0" * 1000)
    )
    target.path.write_text(line, encoding="utf-8")
    return f"{shown(line)} in it"
