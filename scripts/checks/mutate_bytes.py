"""Mutations of bytes, whatever they say: flips, cuts, pages of zeros, swaps, noise."""

import os
import random
import shutil
from collections.abc import Callable

from scripts.checks.targets import (
    ARROW,
    COMMIT,
    FILES,
    INDEX,
    INDEX_FACTS,
    MOMENTS,
    REJECTS,
    SENTENCES,
    WORDS,
    InapplicableError,
    Mutation,
    Target,
    adopt,
    declare_in,
)

_PAGE = 4096

MUTATIONS: list[Mutation] = []
SEALED: list[Mutation] = []
_mutation, _sealed_mutation = declare_in(MUTATIONS), declare_in(SEALED)


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
    more = chance.choice((b"\0", b"\n", b" " * 100, b"\0" * _PAGE, chance.randbytes(_PAGE)))
    with target.path.open("ab") as stream:
        stream.write(more)
    return f"extend by {len(more)} bytes {more[:4]!r}…"


@_mutation(*FILES)
def _zero_page(chance: random.Random, target: Target) -> str:
    size = target.path.stat().st_size
    at = chance.randrange(max(1, -(-size // _PAGE))) * _PAGE

    def change(content: bytearray) -> None:
        content[at : at + _PAGE] = bytes(len(content[at : at + _PAGE]))

    _edit(target, change)
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


# --- under right checksums ------------------------------------------------------------------------


@_sealed_mutation(*ARROW, INDEX, MOMENTS, REJECTS, sealed=True, weight=5)
def _sealed_flip(chance: random.Random, target: Target) -> str:
    said = _flip(chance, target)
    adopt(target)
    return f"{said}, sealed"


@_sealed_mutation(*ARROW, INDEX, MOMENTS, REJECTS, sealed=True)
def _sealed_cut(chance: random.Random, target: Target) -> str:
    said = chance.choice((_truncate, _extend, _zero_page, _swap_blocks, _noise))(chance, target)
    adopt(target)
    return f"{said}, sealed"


@_sealed_mutation(*ARROW, sealed=True, weight=4)
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
