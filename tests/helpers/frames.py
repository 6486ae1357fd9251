"""Makes zstd, lz4 and xz files that ask for what few files ask for."""

import lzma
import struct
import sys
import zlib

import lz4.block
import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"index"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def zstd_frame(content, window):
    """A zstd frame that asks for a window of ``1 << window`` bytes, its content not compressed."""
    assert len(content) < 128 << 10
    block = struct.pack("<I", len(content) << 3 | 1)[:3] + content
    return ZSTD_MAGIC + b"\x00" + bytes([(window - 10) << 3]) + block


def zstd_run(byte, n_blocks):
    """A zstd frame in a single segment, of blocks that repeat one byte 128 Ki times."""
    blocks = [struct.pack("<I", (128 << 10) << 3 | 1 << 1 | (n == n_blocks - 1))[:3] for n in range(n_blocks)]
    return ZSTD_MAGIC + b"\xa0" + struct.pack("<I", n_blocks * 128 << 10) + b"".join(b + byte for b in blocks)


def zstd_with_dictionary(content, number):
    """A zstd frame that needs a dictionary."""
    samples = [b"sample %d of a dictionary %d" % (n, n * 7919 % 1009) for n in range(500)]
    trained = zstd.train_dict(samples, 1000).dict_content
    dictionary = zstd.ZstdDict(trained[:4] + struct.pack("<I", number) + trained[8:])
    return zstd.compress(content, zstd_dict=dictionary)


def zstd_with_checksum(content):
    """A zstd frame with a checksum at its end."""
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


def lz4_frame(content, **options):
    """An lz4 frame, in blocks of 64 KiB."""
    options = {"block_size": lz4.frame.BLOCKSIZE_MAX64KB, "content_checksum": True} | options
    return lz4.frame.compress(content, **options)


def lz4_legacy(content):
    """A frame as ``lz4 -l`` writes it, in blocks of 8 MiB."""
    blocks = [
        lz4.block.compress(content[n : n + (8 << 20)], store_size=False)
        for n in range(0, len(content), 8 << 20)
    ]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


def lz4_with_dictionary(number):
    """The header of an lz4 frame that needs a dictionary."""
    fields = b"\x41\x40" + struct.pack("<I", number)
    return b"\x04\x22\x4d\x18" + fields + bytes([_xxh32_of_6_bytes(fields) >> 8 & 0xFF])


def _xxh32_of_6_bytes(data):
    value = 374761393 + len(data)
    value += struct.unpack("<I", data[:4])[0] * 3266489917
    value = _rotated(value, 17) * 668265263
    for byte in data[4:]:
        value = _rotated(value + byte * 374761393, 11) * 2654435761
    value &= 0xFFFF_FFFF
    value = (value ^ value >> 15) * 2246822519 & 0xFFFF_FFFF
    value = (value ^ value >> 13) * 3266489917 & 0xFFFF_FFFF
    return value ^ value >> 16


def _rotated(value, by):
    value &= 0xFFFF_FFFF
    return (value << by | value >> (32 - by)) & 0xFFFF_FFFF


def xz_with_dictionary(content, code):
    """An xz file whose header asks for a dictionary of another size."""
    return _xz_with(content, 16, code)


def xz_with_filter(content, number):
    """An xz file whose header asks for another filter."""
    return _xz_with(content, 14, number)


def _xz_with(content, place, value):
    data = bytearray(lzma.compress(content))
    end = 12 + 4 * (data[12] + 1)  # of the block's header, which begins at 12 and ends in a checksum
    data[place] = value
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[12 : end - 4]))
    return bytes(data)
