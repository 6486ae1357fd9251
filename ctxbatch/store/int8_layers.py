"""Keeps the int8 layers of a store's model in the store, under their checksum.

All processes that write to the store run these very files, since another quantisation would round otherwise.
What only reads a store never opens them.
"""

import hashlib
from pathlib import Path

from ctxbatch.config import INT8_LAYERS, ResolvedConfig
from ctxbatch.errors import StoreError
from ctxbatch.files import replacing
from ctxbatch.sealed import file_digest, is_there
from ctxbatch.store.manifest import MODEL

_SUFFIXES = ("xml", "bin")


def layers_names(digest: str) -> tuple[str, ...]:
    """Return the names of the two files of layers, relative to the store."""
    return tuple(f"{MODEL}/layers-{digest[:16]}.{suffix}" for suffix in _SUFFIXES)


def digest_of(made: Path) -> str:
    """Return the checksum of layers; ``made`` is their XML file, with the BIN file beside it."""
    digests = [file_digest(made.with_suffix(f".{suffix}")) for suffix in _SUFFIXES]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def place_layers(out: Path, made: Path) -> str:
    """Move layers into a store's folder, whole or not at all, and return their checksum.

    Raises:
        OSError: The disk refuses.
    """
    digest = digest_of(made)
    (out / MODEL).mkdir(parents=True, exist_ok=True)
    for name, suffix in zip(layers_names(digest), _SUFFIXES, strict=True):
        with replacing(out / name) as beside:
            beside.write_bytes(made.with_suffix(f".{suffix}").read_bytes())
    return digest


def find_layers(out: Path, config: ResolvedConfig) -> Path | None:
    """Return the XML file of a store's int8 layers; ``None`` if its model is not an int8 one.

    Raises:
        StoreError: They are missing or damaged.
    """
    if config.precision != "int8":
        return None
    digest = config.digests[INT8_LAYERS]
    paths = [out / name for name in layers_names(digest)]
    if not all(map(is_there, paths)) or digest_of(paths[0]) != digest:
        raise StoreError(
            f"{out}/{MODEL}: the int8 layers of the model are missing or damaged: run its `ctxbatch run` "
            "command again"
        )
    return paths[0]
