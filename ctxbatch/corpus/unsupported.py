"""Recognises files that hold no text to read: archives, and compressions that are not supported."""

import re
import tarfile

from ctxbatch.corpus.frames import OLD_ZSTD

# What `why_unsupported` needs to see of a file: the header of a tar archive.
HEAD_BYTES = tarfile.BLOCKSIZE
_UNPACK = "archive: unpack it first"
_DECOMPRESS = "which is not supported: decompress it first"
_TAR = f"a tar {_UNPACK}"
_BEGINNINGS = (
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", f"a zip {_UNPACK}"),
    (rb"7z\xbc\xaf\x27\x1c", f"a 7z {_UNPACK}"),
    (rb"Rar!\x1a\x07", f"a rar {_UNPACK}"),
    (rb"\x1f\x9d[\x09-\x10\x89-\x90]", f"compressed with compress (.Z), {_DECOMPRESS}"),
    # Properties, the size of the dictionary, and that of the content or -1.
    (rb"\x5d\0\0..(\xff{8}|.{5}\0{3})", f"compressed as .lzma, {_DECOMPRESS}"),
    (rb"LZIP\x01", f"compressed with lzip, {_DECOMPRESS}"),
    (rb"\x89LZO\0\r\n\x1a\n", f"compressed with lzop, {_DECOMPRESS}"),
    (rb"\xff\x06\0\0sNaPpY", f"compressed with snappy, {_DECOMPRESS}"),
    (b"|".join(map(re.escape, OLD_ZSTD)), f"compressed with zstd before version 0.8, {_DECOMPRESS}"),
)
_BY_BEGINNING = [(re.compile(begins, re.DOTALL), reason) for begins, reason in _BEGINNINGS]
_BY_SUFFIX = {
    **dict.fromkeys((".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"), _TAR),
    **{f".{name}": f"a {name} {_UNPACK}" for name in ("zip", "7z", "rar")},
    **{f".{name}": f"compressed as .{name}, {_DECOMPRESS}" for name in ("lzma", "lz", "lzo", "br", "sz")},
    ".z": f"compressed with compress (.Z), {_DECOMPRESS}",
}


def why_unsupported(head: bytes) -> str | None:
    """Return what a file is that cannot be read, and the remedy; ``None`` if nothing speaks against it.

    Args:
        head: Its first `HEAD_BYTES`.
    """
    if _is_tar(head):
        return _TAR
    return next((reason for begins, reason in _BY_BEGINNING if begins.match(head)), None)


def why_unsupported_suffix(suffix: str) -> str | None:
    """Return what files with a suffix are, such as ``.tar``, as `why_unsupported` does."""
    return _BY_SUFFIX.get(suffix)


def _is_tar(head: bytes) -> bool:
    """Return True if a file begins with a header of a tar archive, which has a checksum."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True
