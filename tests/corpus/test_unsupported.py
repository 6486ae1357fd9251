"""Archives and compressions that are not supported are named, and are neither damage nor text."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from ctxbatch.corpus.inputs import find_sources
from ctxbatch.errors import InputError
from tests.helpers.corpora import COMPRESS, as_lines, read_all, texts_of
from tests.helpers.frames import (
    ZSTD_MAGIC,
    lz4_with_dictionary,
    xz_with_filter,
    zstd_frame,
    zstd_with_dictionary,
)

CONTENT = as_lines([f"line {n}" for n in range(100)])
ZSTD, LZ4 = COMPRESS[".zst"], COMPRESS[".lz4"]


def tar(name_of_format):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=name_of_format) as archive:
        entry = tarfile.TarInfo("text.txt")
        entry.size = len(CONTENT)
        archive.addfile(entry, io.BytesIO(CONTENT))
    return sink.getvalue()


def without_magic(archive):
    """An archive as tar made it before POSIX, with another checksum."""
    header = bytearray(archive[:512])
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[512:]


def zipped():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("text.txt", CONTENT)
    return sink.getvalue()


TAR, ZIP = tar(tarfile.USTAR_FORMAT), zipped()
A_TAR, A_ZIP = "a tar archive: unpack it first", "a zip archive: unpack it first"
OLD_ZSTD = "compressed with zstd before version 0.8"
DICTIONARIES = {
    "a zstd dictionary": (
        "a.txt.zst",
        zstd_with_dictionary(CONTENT, 77_000),
        "a zstd dictionary (number 77000)",
    ),
    "an lz4 dictionary": ("a.txt.lz4", lz4_with_dictionary(77_000), "an lz4 dictionary (number 77000)"),
    "an xz filter": (
        "a.txt.xz",
        xz_with_filter(CONTENT, 0x3F),
        "an xz filter or option that is not supported",
    ),
    "a window of 4 GiB": ("a.txt.zst", zstd_frame(CONTENT, 32), "more than the supported 2,048 MiB"),
    "zstd 0.7": ("a.txt.zst", b"\x27" + ZSTD_MAGIC[1:] + bytes(99), OLD_ZSTD),
}
UNSUPPORTED = {
    **DICTIONARIES,
    "zstd 0.1 without its suffix": ("a.txt", b"\x1e" + ZSTD_MAGIC[1:] + bytes(99), OLD_ZSTD),
    "tar": ("a.txt", TAR, A_TAR),
    "gnu tar": ("a.txt", tar(tarfile.GNU_FORMAT), A_TAR),
    "pax tar": ("a.jsonl", tar(tarfile.PAX_FORMAT), A_TAR),
    "tar before posix": ("a.txt", without_magic(TAR), A_TAR),
    "tar in gzip": ("a.txt.gz", gzip.compress(TAR), A_TAR),
    "tar in gzip without its suffix": ("a.txt", gzip.compress(TAR), A_TAR),
    "tar in bzip2": ("a.csv.bz2", bz2.compress(TAR), A_TAR),
    "tar in xz": ("a.txt.xz", lzma.compress(TAR), A_TAR),
    "tar in zstd": ("a.txt.zst", ZSTD(TAR), A_TAR),
    "tar in lz4": ("a.txt.lz4", LZ4(TAR), A_TAR),
    "zip in gzip": ("a.txt.gz", gzip.compress(ZIP), A_ZIP),
    "gzip in gzip": (
        "a.txt.gz",
        gzip.compress(gzip.compress(CONTENT)),
        "compressed twice: decompress it first",
    ),
    "zip": ("a.txt.gz", ZIP, A_ZIP),
    "an empty zip": ("a.txt", b"PK\x05\x06" + bytes(18), A_ZIP),
    "7z": ("a.txt", b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(99), "a 7z archive: unpack it first"),
    "rar": ("a.txt", b"Rar!\x1a\x07\x01\x00" + bytes(99), "a rar archive: unpack it first"),
    "compress": ("a.txt", b"\x1f\x9d\x90" + bytes(99), "compressed with compress (.Z)"),
    "lzma": ("a.txt", lzma.compress(CONTENT, format=lzma.FORMAT_ALONE), "compressed as .lzma"),
    "lzip": ("a.txt", b"LZIP\x01\x0c" + bytes(99), "compressed with lzip"),
    "lzop": ("a.txt", b"\x89LZO\0\r\n\x1a\n" + bytes(99), "compressed with lzop"),
    "snappy": ("a.txt", b"\xff\x06\0\0sNaPpY" + bytes(99), "compressed with snappy"),
    "the suffix .tar": ("a.tar", TAR, A_TAR),
    "the suffix .tar.gz": ("a.tar.gz", gzip.compress(TAR), A_TAR),
    "the suffix .tgz": ("a.tgz", gzip.compress(TAR), A_TAR),
    "the suffix .zip": ("a.zip", ZIP, A_ZIP),
    "the suffix .7z": ("a.7z", b"7z", "a 7z archive: unpack it first"),
    "the suffix .lzma": ("a.txt.lzma", b"\x5d", "compressed as .lzma"),
    "the suffix .Z": ("a.txt.Z", b"\x1f\x9d", "compressed with compress (.Z)"),
}


@pytest.mark.parametrize("kind", list(UNSUPPORTED))
def test_what_is_not_supported_is_named_with_a_remedy_and_left_out_of_folders(tmp_path, kind):
    name, content, said = UNSUPPORTED[kind]
    path, good = tmp_path / name, tmp_path / "z.txt"
    path.write_bytes(content)
    good.write_text("good\n")
    with pytest.raises(InputError) as refusal:
        read_all([path])
    assert said in str(refusal.value)
    assert str(refusal.value).startswith(f"{path}: ")
    assert str(refusal.value).endswith(("decompress it first", "unpack it first"))
    sources, (left_out,) = find_sources([tmp_path], tmp_path / "out")
    assert [source.path for source in sources] == [str(good)]
    assert f"{left_out.name}: {left_out.why}" == str(refusal.value)


@pytest.mark.parametrize("kind", list(DICTIONARIES))
def test_what_is_not_supported_in_a_later_frame_is_no_damage(tmp_path, kind):
    name, content, said = DICTIONARIES[kind]
    path = tmp_path / name
    path.write_bytes(COMPRESS[path.suffix](CONTENT) + content)
    with pytest.raises(InputError) as refusal:
        read_all([path])
    assert said in str(refusal.value)
    assert str(refusal.value).endswith("decompress it first")


def test_what_is_not_supported_ends_a_run_with_exit_status_2(tmp_path, tiny, cli):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(ZSTD(CONTENT) + DICTIONARIES["a zstd dictionary"][1])
    result = cli("run", path, "-o", tmp_path / "out", "--model", tiny())
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("(number 77000): decompress it first")


def test_a_format_that_is_named_reads_no_archive_as_text(tmp_path):
    for name, content in {"a.tar": TAR, "a.tar.gz": gzip.compress(TAR), "a.zip": ZIP}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: a (tar|zip) archive: unpack it first"):
            read_all([tmp_path / name], format="txt")


def test_a_file_is_decompressed_by_what_it_is_if_its_suffix_names_another_compression(tmp_path):
    for number, compress in enumerate(list(COMPRESS.values())[1:]):
        path = tmp_path / f"{number}.txt.{'gz' if number else 'zst'}"
        path.write_bytes(compress(CONTENT))
        assert len(texts_of(read_all([path])[2])) == 100


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("PK and BZh and LZIP is text, as is Rar!", "utf-8"),
        ("BZhang said", "utf-8"),
        ("7z", "utf-8"),
        ("\u9d1f\u90ff said", "utf-16-le"),
        ("] said", "utf-32-le"),
        ("]\u0100 said", "utf-32-le"),
    ],
)
def test_text_that_begins_like_an_archive_is_read(tmp_path, text, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert texts_of(read_all([path], encoding=encoding)[2]) == [text]
