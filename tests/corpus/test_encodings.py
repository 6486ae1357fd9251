"""Text in any encoding is read with its byte offsets, and bytes that are no text are told or replaced."""

import pyarrow as pa
import pytest

from ctxbatch.corpus.records import Reject
from tests.helpers.corpora import (
    as_delimited,
    as_lines,
    read_all,
    texts_of,
    write_parquet,
)


@pytest.mark.parametrize(
    ("encoding", "given"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-8-sig", "latin-1"),  # a mark is certain
        ("cp1252", "cp1252"),
        ("latin-1", "ISO-8859-1"),
        ("utf-16", None),
        ("utf-32", None),
        ("utf-16-le", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("gb18030", "gb18030"),
        ("shift_jis", "shift_jis"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_text_in_any_encoding_is_read_with_its_byte_offsets(tmp_path, encoding, given, name):
    texts = ["naïve"] if encoding in ("cp1252", "latin-1") else ["ਊ ok"] if "utf" in encoding else ["汉字"]
    texts = [*texts, "", "plain, with comma", "end"]
    if encoding == "shift_jis":
        texts[0] = "表示"  # whose second byte is a backslash
    text = as_lines(texts).decode() if name == "a.txt" else as_delimited(texts, ",").decode()
    path = tmp_path / name
    path.write_bytes(content := text.encode(encoding))
    _, _, items = read_all([path], encoding=given, shard_size=10)
    assert texts_of(items) == texts
    plain = "utf-16-le" if encoding == "utf-16" else "utf-32-le" if encoding == "utf-32" else encoding
    for item in items:
        rest = content[item.byte_start :].decode("utf-8" if plain == "utf-8-sig" else plain)
        assert rest.startswith(item.text if name == "a.txt" else f"{item.record},")


def test_paragraphs_of_wide_encodings_are_not_cut_inside_characters(tmp_path):
    text = "\u0a0a\u0d0a one\n\u2020\n\n\u0a0d two"
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("utf-16"))
    _, _, items = read_all([path], record="paragraph")
    assert texts_of(items) == ["\u0a0a\u0d0a one\n\u2020\n"[:-1], "\u0a0d two"]


def test_bytes_that_are_no_text_can_be_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nb\xffd\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "b\xffd"}\n')
    (tmp_path / "c.csv").write_bytes(b"text\nb\xffd\n")
    write_parquet(pa.table({"text": pa.array([b"b\xffd"], pa.binary())}), tmp_path / "d.parquet")
    assert texts_of(read_all([tmp_path], errors="replace")[2]) == ["good", *["b\ufffdd"] * 4]
    rejects = [item for item in read_all([tmp_path])[2] if isinstance(item, Reject)]
    assert [reject.reason for reject in rejects] == [
        "not UTF-8 at byte 6",
        "not UTF-8 at byte 11",
        "not UTF-8 at byte 6",
        "not UTF-8 at byte 1 of the text",
    ]


# --- an encoding that fits ------------------------------------------------------------------------

FRENCH = "Le réveil sonne à sept heures. Où êtes-vous allés l'été dernier ? Ça m'a plu, dit-elle.\n" * 20
RUSSIAN = "Тогда можно было умереть голодной смертью тому, кто не довольствовался.\n" * 20


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        (FRENCH, "latin-1", "cp1252"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。\n" * 20, "shift_jis", "cp932"),
    ],
)
def test_a_text_in_another_encoding_is_named_with_the_one_that_fits(tmp_path, caplog, text, encoding, guess):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    read_all([path])
    assert caplog.messages[0] == (
        f"{path} is not UTF-8 and looks like {guess}: "
        f"its lines will be rejected; --encoding {guess} reads them"
    )
    assert texts_of(read_all([path], encoding=guess)[2]) == text.splitlines()


def test_a_text_with_a_damaged_line_is_not_called_another_encoding(tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_bytes(FRENCH.encode() + b"broken \xff\n")
    read_all([path])
    assert not caplog.messages
