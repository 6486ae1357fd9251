"""Odd and hostile files lose nothing in silence, and read the same whatever the shard size."""

import json

import pytest

from ctxbatch.corpus.records import Record, Reject
from ctxbatch.errors import InputError
from ctxbatch.run_config import RunConfig
from tests.helpers.corpora import as_lines, read_all, texts_of
from tests.helpers.stores import make_store, rows_of

SIZES = [1, 10, 37, 10**6]


def told(items):
    return [item.text if isinstance(item, Record) else item.reason for item in items]


def read_at_every_size(path, **options):
    """Return the records of a file, which are the same at every shard size."""
    found = [read_all([path], shard_size=size, **options)[2] for size in SIZES]
    assert all(items == found[0] for items in found[1:])
    return found[0]


# --- words ----------------------------------------------------------------------------------------


def test_given_words_with_white_space_around_them_are_stored(tmp_path, tiny):
    (tmp_path / "a.jsonl").write_text(json.dumps({"t": [" a ", "old bank", "b\n"]}))
    config = RunConfig(model=str(tiny()), tokens_field="t")
    assert [row["word"] for row in rows_of(make_store(tmp_path / "out", [tmp_path / "a.jsonl"], config))] == [
        "a",
        "old bank",
        "b",
    ]
    line = "1\told\u00a0" + "\t_" * 8 + "\n2\t\u00a0" + "\t_" * 8 + "\n"
    (tmp_path / "b.conllu").write_text(line)
    rows = rows_of(make_store(tmp_path / "b", [tmp_path / "b.conllu"], RunConfig(model=str(tiny()))))
    assert [row["word"] for row in rows] == ["old"]


# --- JSON -----------------------------------------------------------------------------------------


def test_values_that_are_too_long_are_cut_at_the_same_byte_whatever_the_shard_size(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.json_records.MAX_RECORD_BYTES", 200)
    monkeypatch.setattr("ctxbatch.corpus.formats.json_records._STEP", 64)
    path = tmp_path / "a.json"
    content = json.dumps([{"text": str(n)} for n in range(20)] + [{"text": "x" * 1000}, {"text": "b"}])
    path.write_text(content)
    assert told(read_at_every_size(path))[-3:] == ["19", "longer than 64 MiB", "b"]
    path.write_text(content[:-300])
    assert told(read_at_every_size(path))[-2:] == ["19", "longer than 64 MiB"]


def test_json_in_an_encoding_whose_characters_hold_ascii_bytes_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps([{"text": "表"}], ensure_ascii=False).encode("shift_jis"))
    with pytest.raises(
        InputError, match="is SHIFT_JIS, in which only JSON lines can be read: convert it to UTF"
    ):
        read_all([path], encoding="shift_jis")


def test_json_without_objects_says_so_and_late_fields_are_found(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('["a", "b"]')
    with pytest.raises(InputError, match=r"a.json holds no JSON object: '\"a\"' is none"):
        read_all([path])
    path.write_text(json.dumps([{"x": 1}] * 600 + [{"text": "late"}]))
    assert told(read_all([path])[2])[-1] == "late"


# --- subtitles and lines --------------------------------------------------------------------------


def test_a_cue_behind_a_finished_sentence_is_read_the_same_wherever_reading_begins(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(
        "1\n00:00:08,000 --> 00:00:09,000\nhi.\n\nmore of it\n\n2\n00:00:10,000 --> 00:00:11,000\nend\n\n"
    )
    assert told(read_at_every_size(path)) == ["hi.", "more of it end"]


def test_a_limit_is_reached_whatever_the_sizes_of_the_sources(tmp_path):
    shapes = [(55, 5), (4, 2), (202, 2), (22, 2), (10001, 1), (101, 1), (200, 50), (10, 5), (1001, 1), (4, 1)]
    for number, (n_bytes, n_lines) in enumerate(shapes):
        (tmp_path / f"{number}.txt").write_bytes(as_lines(["x" * (n_bytes // n_lines - 1)] * n_lines))
        (tmp_path / f"{number}empty.txt").write_text("")
    everything = read_all([tmp_path])[2]
    for limit in range(1, len(everything) + 3):
        items = read_all([tmp_path], limit=limit)[2]
        assert len(items) == min(limit, len(everything))
        assert set(items) <= set(everything)


# --- XML ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(65_440, 65_540, 7))
def test_an_empty_element_at_the_border_of_a_buffer_ends_where_it_ends(tmp_path, n):
    path = tmp_path / "a.xml"
    path.write_text("<r><!--" + "x" * n + "--><p/></r>")
    assert read_all([path])[2] == []
    path.write_text("<r><!--" + "x" * n + "--><p><lb/></p><p>one</p></r>")
    assert texts_of(read_all([path])[2]) == ["one"]


def test_characters_of_private_use_are_text(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<r><p>wo\ue000rd, a \ue000 b</p></r>")
    assert texts_of(read_at_every_size(path)) == ["wo\ue000rd, a \ue000 b"]


def test_an_entity_that_may_hold_records_is_rejected_by_name(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        '<!DOCTYPE TEI [<!ENTITY c1 SYSTEM "c1.xml"><!ENTITY c2 "<p>two</p>">]>'
        "<TEI><text><body>&c1;<p>one</p>&nbsp;&c2;</body></text></TEI>"
    )
    assert told(read_at_every_size(path)) == [
        "holds an entity of another file, which is not opened",
        "one",
        "holds the entity &c2;, which is not expanded",
    ]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-32-le", "shift_jis"])
def test_xml_in_an_encoding_that_the_parser_does_not_know_is_refused(tmp_path, encoding):
    path = tmp_path / "a.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><r><p>one</p></r>'.encode())
    if encoding == "utf-32-le":
        path.write_bytes("\ufeff<r><p>one</p></r>".encode(encoding))
    with pytest.raises(InputError, match="which the XML parser does not know: convert it to UTF-8"):
        read_all([path])


def test_xml_in_utf_16_is_read_with_and_without_a_mark(tmp_path):
    path = tmp_path / "a.xml"
    for mark in ("\ufeff", ""):
        path.write_bytes(f"{mark}<r><p>one</p><p>zwei ü</p></r>".encode("utf-16-le"))
        assert texts_of(read_at_every_size(path, encoding="utf-16")) == ["one", "zwei ü"]
        assert texts_of(read_at_every_size(path)) == ["one", "zwei ü"]


def test_a_tag_or_comment_without_end_loses_the_rest_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.xml_text.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr("ctxbatch.corpus.formats.xml_text._STEP", 100)
    monkeypatch.setattr("ctxbatch.corpus.formats.xml_text._GAP", 50)
    path = tmp_path / "a.xml"
    path.write_text("<r><p>one</p><!--" + "x" * 10_000 + "--><p>two</p></r>")
    assert told(read_at_every_size(path)) == [
        "one",
        "not XML: a tag or comment longer than 64 MiB: the rest is lost",
    ]


def test_paths_are_read_without_prefixes_and_spaces(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text('<t:r xmlns:t="u"><t:body><t:seg>one</t:seg><quote>two</quote></t:body></t:r>')
    assert texts_of(read_at_every_size(path, text_path="t:body/seg, quote")) == ["one", "two"]


# --- treebanks ------------------------------------------------------------------------------------


def test_a_conll_file_with_an_empty_node_is_conllu(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(
        "".join(f"{n}\t{form}" + "\t_" * 8 + "\n" for n, form in ((1, "a"), (1.1, "x"), (2, "b")))
    )
    sources, _, items = read_all([path])
    assert (sources[0].format, texts_of(items)) == ("conllu", ["a b"])
    path.write_text("9" * 5000 + "\ta" + "\t_" * 8 + "\n")
    assert isinstance(read_all([path], format="conllu")[2][0], Reject)


def test_markup_of_vertical_files_is_never_a_word(tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text(
        '<!-- a comment\nof two lines -->\n<text title="x > y" id="R&amp;D">\n'
        '<S>\nR&amp;D\tNN\n<hi rend="it">\n'
        'a\tNN\n</hi>\n</S>\n</text>\n<text id="2"><s>\nb\tNN\n</s></text>\n<3\tEMO\n'
    )
    items = read_at_every_size(path)
    assert [(item.doc_id, item.text) for item in items] == [("R&D", "R&D a"), ("2", "b"), (None, "<3")]


# --- fields ---------------------------------------------------------------------------------------


def test_times_beyond_the_calendar_are_kept_as_text(tmp_path, tiny):
    path = tmp_path / "a.csv"
    path.write_text("text,when\none,9999-12-31T23:59:59-14:00\ntwo,0001-01-01T00:00+05:00\n")
    store = make_store(tmp_path / "out", [path], RunConfig(model=str(tiny()), keep_field=("when",)))
    assert store.manifest.reading.keep_field == ("when:string",)


def test_a_field_that_two_columns_have_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,x,x\none,1,2\n")
    with pytest.raises(InputError, match=r"a.csv has 2 fields 'x': give them different names"):
        read_all([path], keep_field=("x",))


@pytest.mark.parametrize("value", ["ab", "", '"', "\n"])
def test_an_escape_is_one_character(value):
    with pytest.raises(InputError, match=r"--escape .* must be one character"):
        RunConfig(escape=value)
    with pytest.raises(InputError, match="is also the --delimiter"):
        RunConfig(escape="|", delimiter="|")


def test_numbers_of_spans_are_plain_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    values = [[4.0, 5.0], [[4.0, 5.0]], ["4_0", 41], [True, 5]]
    path.write_text("".join(json.dumps({"text": "an ox there", "at": value}) + "\n" for value in values))
    assert [isinstance(item, Record) for item in read_all([path], span_field=("at",))[2]] == [
        True,
        True,
        False,
        False,
    ]
