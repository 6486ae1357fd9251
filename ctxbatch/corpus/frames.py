"""Decompresses the frames of zstd and lz4 streams, block by block.

A decoder that finds damage drops what it has decompressed in the same call. It therefore gets one block at a
time, and damage loses no block before it. Headers are read here first, because decoders report what they do
not support in the same way as damage.
"""

import functools
import io
import sys
from collections.abc import Callable, Iterator
from typing import IO

import lz4.block
import lz4.frame

from ctxbatch.corpus.read_errors import UnsupportedError
from ctxbatch.errors import ResourceError
from ctxbatch.memory import free_for_this_process

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD = b"\x28\xb5\x2f\xfd"
LZ4 = b"\x04\x22\x4d\x18"
LZ4_LEGACY = b"\x02\x21\x4c\x18"
# What decoders raise for damage: lz4 has no class of its own for it.
FRAME_ERRORS = (zstd.ZstdError, lz4.block.LZ4BlockError, RuntimeError)

# Versions 0.1 to 0.7 of zstd, before its format was settled.
OLD_ZSTD = tuple(bytes((first,)) + ZSTD[1:] for first in (0x1E, *range(0x22, 0x28)))
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_MAX_WINDOW = 1 << 31
# Larger windows are checked against the free memory.
_SMALL_WINDOW = 128 << 20
_ANY_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW.bit_length() - 1}
_RESERVED = 0x08
_RUN = 1  # the type of a zstd block that repeats one byte
_SKIPPED_AT_ONCE = 1 << 20
_LEGACY_BLOCK = 8 << 20
_MAX_LEGACY_BLOCK = _LEGACY_BLOCK + _LEGACY_BLOCK // 255 + 16  # if it cannot be compressed


def zstd_blocks(file: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield the content of a zstd stream.

    Raises:
        EOFError: It ends within a frame.
        UnsupportedError: A frame needs a dictionary, an old decoder, or a window that no decoder supports.
        ResourceError: A frame needs more memory for its window than is free.
        ZstdError: It is damaged.
    """
    while magic := file.read(4):
        if magic == ZSTD:
            yield from _zstd_frame(file, path)
        elif magic in OLD_ZSTD:
            raise UnsupportedError("compressed with zstd before version 0.8: decompress it first")
        elif not _is_skipped(file, magic):
            zstd.ZstdDecompressor().decompress(magic)  # it says what is wrong
            raise EOFError


def _zstd_frame(file: IO[bytes], path: str) -> Iterator[bytes]:
    decoder = zstd.ZstdDecompressor(options=_ANY_WINDOW)
    header = _zstd_header(file)
    if not header[4] & _RESERVED:  # else it is damaged, which the decoder says
        _check_window(_window(header), path)
    if dictionary := zstd.get_frame_info(header).dictionary_id:
        raise UnsupportedError(
            f"compressed with a zstd dictionary (number {dictionary}): decompress it first"
        )
    decoder.decompress(header)
    is_last = False
    while not is_last:
        head = _take(file, 3)
        fields = int.from_bytes(head, "little")
        is_last = bool(fields & 1)
        yield from _block(file, decoder.decompress, head, 1 if fields >> 1 & 3 == _RUN else fields >> 3)
    if header[4] & 0x04:
        decoder.decompress(_take(file, 4))  # a checksum
    if not decoder.eof:
        raise EOFError


def _zstd_header(file: IO[bytes]) -> bytes:
    """Return the header of a frame, whose magic number is read already."""
    descriptor = _take(file, 1)
    is_single, fields = descriptor[0] & 0x20, descriptor[0]
    n_window = 0 if is_single else 1
    n_dictionary = (0, 1, 2, 4)[fields & 3]
    n_content = (1 if is_single else 0, 2, 4, 8)[fields >> 6]
    return ZSTD + descriptor + _take(file, n_window + n_dictionary + n_content)


def _window(header: bytes) -> int:
    """Return the bytes of content that a frame's decoder keeps in memory."""
    if header[4] & 0x20:  # a single segment, whose window is its content
        return zstd.get_frame_info(header).decompressed_size or 0
    size = 1 << (10 + (header[5] >> 3))
    return size + (size >> 3) * (header[5] & 7)


def _check_window(window: int, path: str) -> None:
    if window > _MAX_WINDOW:
        most = f"the supported {_MAX_WINDOW >> 20:,} MiB"
        raise UnsupportedError(
            f"compressed with a window of {window >> 20:,} MiB, more than {most}: decompress it first"
        )
    if window > _SMALL_WINDOW and 2 * window > (free := free_for_this_process()):
        raise ResourceError(
            f"{path} is compressed with a window of {window >> 20:,} MiB, which needs twice as much memory, "
            f"but {free >> 20:,} MiB are free: free some or decompress it first, and run again"
        )


def lz4_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of an lz4 stream, of the frame format or the legacy one.

    Raises:
        EOFError: It ends within a frame.
        UnsupportedError: A frame needs a dictionary.
        LZ4BlockError: It is damaged.
        RuntimeError: It is damaged.
    """
    while magic := file.read(4):
        if magic == LZ4:
            yield from _lz4_frame(file)
        elif magic == LZ4_LEGACY:
            yield from _legacy_frame(file)
        elif not _is_skipped(file, magic):
            if len(magic) == 4:
                lz4.frame.LZ4FrameDecompressor().decompress(magic.ljust(7, b"\0"))  # it says what is wrong
            raise EOFError


def _lz4_frame(file: IO[bytes]) -> Iterator[bytes]:
    decoder = lz4.frame.LZ4FrameDecompressor()
    header = _take(file, 2)
    flags = header[0]
    header += _take(file, 8 * (flags >> 3 & 1) + 4 * (flags & 1) + 1)
    decoder.decompress(LZ4 + header)  # which ends in a checksum
    if flags & 1:
        number = int.from_bytes(header[-5:-1], "little")
        raise UnsupportedError(f"compressed with an lz4 dictionary (number {number}): decompress it first")
    largest = 1 << (8 + 2 * (header[1] >> 4 & 7))
    # Without the room for a whole block, the decoder keeps a part of it back until it gets the next one.
    decode = functools.partial(decoder.decompress, max_length=largest)
    while size := int.from_bytes(head := _take(file, 4), "little") & 0x7FFF_FFFF:
        # For a larger block, the decoder says that it is damaged.
        yield from _block(file, decode, head, min(size, largest) + 4 * (flags >> 4 & 1))
    decode(head + _take(file, 4 * (flags >> 2 & 1)))
    if not decoder.eof:
        raise EOFError


def _legacy_frame(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a legacy frame, which ends where the file does or another frame begins."""
    while head := file.read(4):
        size = int.from_bytes(head, "little")
        if len(head) == 4 and size > _MAX_LEGACY_BLOCK:
            file.seek(-4, io.SEEK_CUR)
            return
        block = _take(file, size if len(head) == 4 else 4)
        yield lz4.block.decompress(block, uncompressed_size=_LEGACY_BLOCK)


def _block(file: IO[bytes], decode: Callable[[bytes], bytes], head: bytes, size: int) -> Iterator[bytes]:
    """Yield the content of a block; of a block that is cut off and not compressed, what there is of it."""
    data = file.read(size)
    if content := decode(head + data):
        yield content
    if len(data) < size:
        raise EOFError


def _is_skipped(file: IO[bytes], magic: bytes) -> bool:
    """Skip a frame of no content, such as an index; return False if it is not one."""
    if len(magic) < 4 or int.from_bytes(magic, "little") not in _SKIPPABLE:
        return False
    size = int.from_bytes(_take(file, 4), "little")
    while size:
        size -= len(_take(file, min(size, _SKIPPED_AT_ONCE)))
    return True


def _take(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
