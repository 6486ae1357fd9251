"""Files of the field with markup give their texts, at exact places, and no markup as words."""

import xml.etree.ElementTree as ET

import pytest

from ctxbatch.corpus.records import Record, Reject
from ctxbatch.errors import InputError
from tests.helpers.corpora import COMPRESS, read_all, texts_of

SIZES = [1, 40, 10**6]

# --- XML ------------------------------------------------------------------------------------------

TEI = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- <p>a comment</p> -->
<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:id="doc">
  <teiHeader><p>About the file.</p></teiHeader>
  <text>
    <front><p>A preface.</p></front>
    <body>
      <div year="1900" xml:id="d1">
        <head>A title</head>
        <p xml:id="p1">One &amp; <hi rend="it">two</hi>
           three<note>a note <p>of the editor</p></note>, caf&#233; and caf&eacute;.</p>
        <p/>
        <p> </p>
        <p><choice><sic>teh</sic><corr>the</corr></choice> wo<lb break="no"/>rd, a<pb n="2"/>page
           <fw>RUNNING HEAD</fw>and Jahr-<lb/>hundert <![CDATA[<raw> & text]]></p>
      </div>
      <lg><l>A verse line,</l><l n="2>1">another.</l></lg>
      <u who="#x"><seg>I said</seg> <vocal/> so.</u>
      <note><p>A note that stands alone.</p></note>
    </body>
    <back><p>An appendix.</p></back>
  </text>
</TEI>
"""
TEI_TEXTS = [
    "One & two three, café and café.",
    "the word, a page and Jahr- hundert <raw> & text",
    "A verse line,",
    "another.",
    "I said so.",
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_tei_gives_the_paragraphs_verse_lines_and_utterances_of_its_body(tmp_path, size, suffix):
    path = tmp_path / f"a.xml{suffix}"
    path.write_bytes(COMPRESS[suffix](TEI.encode()))
    _, _, items = read_all([path], shard_size=size)
    assert texts_of(items) == TEI_TEXTS
    assert [item.record for item in items] == list(range(5))
    assert [item.doc_id for item in items] == ["p1", "d1", "doc", "doc", "doc"]
    for item, tag in zip(items, ("<p xml", "<p><ch", "<l>A", "<l n=", "<u who"), strict=True):
        assert TEI.encode()[item.byte_start :].startswith(tag.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "windows-1252"])
def test_xml_says_its_encoding_itself(tmp_path, encoding):
    path = tmp_path / "a.tei"
    path.write_bytes(TEI.replace("UTF-8", encoding).encode(encoding))
    for size in SIZES:
        assert texts_of(read_all([path], shard_size=size)[2]) == TEI_TEXTS


def test_pieces_of_any_size_give_the_same_records(tmp_path, monkeypatch):
    path = tmp_path / "a.xml"
    path.write_text(TEI)
    expected = read_all([path], shard_size=30)[2]
    for step in (1, 7, 100):
        monkeypatch.setattr("ctxbatch.corpus.formats.xml_text._STEP", step)
        monkeypatch.setattr("ctxbatch.corpus.formats.xml_text._GAP", 3 * step)
        assert read_all([path], shard_size=30)[2] == expected


def test_elements_of_plain_xml_are_named_by_paths(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        '<corpus><doc id="7"><title>A <b>title</b></title><body><t>one</t><t>two</t></body></doc>'
        '<doc id="8"><body><x><t>three</t></x></body><t>no body</t></doc></corpus>'
    )
    with pytest.raises(
        InputError,
        match=r"a.xml has no paragraphs \(p\) or verse lines \(l\); its elements with text are t, title, b: "
        "name some with --text-path",
    ):
        read_all([path])
    assert texts_of(read_all([path], text_path="body/t")[2]) == ["one", "two", "three"]
    _, _, items = read_all([path], text_path="title,doc/t", keep_field=("doc@id:integer",))
    assert [(item.text, item.doc_id, item.kept) for item in items] == [
        ("A title", "7", (7,)),
        ("one", "7", (7,)),
        ("two", "7", (7,)),
        ("three", "8", (8,)),
        ("no body", "8", (8,)),
    ]
    with pytest.raises(InputError, match=r"a.xml has no verse; its elements with text are t, title, b"):
        read_all([path], text_path="verse")
    (tmp_path / "b.txt").write_text("one")
    with pytest.raises(InputError, match=r"--text-path p cannot be used: none of the inputs is XML"):
        read_all([tmp_path / "b.txt"], text_path="p")


def test_no_entity_is_expanded_and_no_file_is_opened(tmp_path):
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "a.xml"
    path.write_text(
        '<!DOCTYPE d [<!ENTITY a "boom"><!ENTITY b SYSTEM "secret">]>'
        "<d><p>one</p><p>two &a;</p><p>three &b;</p><p>four &nosuch;</p><p>five &nbsp;</p></d>"
    )
    _, _, items = read_all([path])
    assert [getattr(item, "text", None) or item.reason for item in items] == [
        "one",
        "holds the entity &a;, which is not expanded",
        "holds an entity of another file, which is not opened",
        "holds the entity &nosuch;, which is not expanded",
        "five \u00a0",
    ]
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    path.write_text(f'<!DOCTYPE d [<!ENTITY l0 "ha">{laughs}]><d><p>one</p><p n="&l9;">x</p></d>')
    _, _, items = read_all([path])
    assert isinstance(items[-1], Reject)


def test_xml_that_breaks_off_loses_what_follows_by_name(tmp_path):
    path = tmp_path / "a.xml"
    for end in ("<p>two", "</q><p>two</p></d>", "<p>\x01</p></d>"):
        path.write_text(f"<d><p>one</p>{end}")
        for size in SIZES:
            _, _, items = read_all([path], shard_size=size)
            assert items[0] == Record(0, 0, 3, None, "one")
            (reject,) = items[1:]
            assert reject.reason.startswith("not XML: ")
            assert reject.reason.endswith("the rest is lost")


def test_elements_that_are_nested_too_deeply_end_the_file(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<d><p>one</p>" + "<a>" * 100_000)
    _, _, (record, reject) = read_all([path])
    assert (record.text, reject.reason) == ("one", "not XML: nested too deeply: the rest is lost")


def test_an_element_that_is_too_long_is_rejected_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.xml_text.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr("ctxbatch.corpus.formats.xml_text._STEP", 100)
    monkeypatch.setattr("ctxbatch.corpus.formats.xml_text._GAP", 50)
    path = tmp_path / "a.xml"
    path.write_text(f"<d><p>one</p><p>{'x' * 5000}</p><p>three</p></d>")
    for size in SIZES:
        _, _, items = read_all([path], shard_size=size)
        assert [getattr(item, "text", None) or item.reason for item in items] == [
            "one",
            "longer than 64 MiB",
            "three",
        ]


def test_a_large_file_equals_an_independent_reading(tmp_path):
    path = tmp_path / "a.xml"
    body = "".join(
        f"<div><p>Paragraph {n} <hi>of\n many</hi> &lt;{n}&gt;.</p>{'<pb/>' * (n % 5)}</div>\n"
        for n in range(5000)
    )
    path.write_text(f"<TEI><text><body>{body}</body></text></TEI>")
    expected = [" ".join("".join(p.itertext()).split()) for p in ET.parse(path).getroot().iter("p")]
    _, shards, items = read_all([path])
    assert texts_of(items) == expected
    assert len(shards) > 3


@pytest.mark.parametrize(
    "text", ["<?xml version='1.0'?>\n<a/>", "<!DOCTYPE html>\n<p>x", "<doc>\n<p>x</p></doc>"]
)
def test_markup_that_is_read_as_text_is_named(tmp_path, text, caplog):
    path = tmp_path / "a.txt"
    path.write_text(text)
    read_all([path])
    assert f"{path} looks like markup, whose tags are read as words" in caplog.text


# --- subtitles ------------------------------------------------------------------------------------

SRT = """\
1
00:00:01,000 --> 00:00:02,500
I was going to say

2
00:00:02,600 --> 00:00:04,000
<i>that he left</i>
{\\an8}us. "Really?"

3
00:00:04,100 --> 00:00:05,000
No mark

4
00:01:05,000 --> 00:01:06,000
A pause before &amp; no end
"""
SRT_TEXTS = ['I was going to say that he left us. "Really?"', "No mark", "A pause before & no end"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cues_are_joined_up_to_the_end_of_a_sentence_or_a_pause(tmp_path, size, end):
    path = tmp_path / "a.srt"
    content = SRT.replace("\n", end).encode("utf-8-sig")
    path.write_bytes(content)
    _, _, items = read_all([path], shard_size=size)
    assert texts_of(items) == SRT_TEXTS
    assert [item.record for item in items] == [0, 1, 2]
    for item, number in zip(items, "134", strict=True):
        assert content[item.byte_start :].startswith(number.encode())


def test_webvtt_has_headers_notes_and_styles_that_are_no_text(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(
        "WEBVTT - a title\nKind: captions\n\nNOTE a note\nof two lines\n\nSTYLE\n::cue { color: red }\n\n"
        "intro\n00:01.000 --> 00:02.000 align:start\n<v Ann>Hello <c.loud>there</c>.\n\n"
        "00:02.000 --> 00:03.000\nNext &lt;3 cue\n\nstill the same cue.\n"
    )
    for size in SIZES:
        assert texts_of(read_all([path], shard_size=size)[2]) == [
            "Hello there.",
            "Next <3 cue still the same cue.",
        ]


def test_cues_without_punctuation_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.subtitles._MOST_CUES", 2)
    path = tmp_path / "a.srt"
    path.write_text("".join(f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\nword {n}\n\n" for n in range(5)))
    for size in SIZES:
        assert texts_of(read_all([path], shard_size=size)[2]) == ["word 0 word 1", "word 2 word 3", "word 4"]


def test_cues_without_a_blank_line_between_them_are_told_apart(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(SRT.replace("\n\n", "\n"))
    assert texts_of(read_all([path])[2]) == SRT_TEXTS


# --- WikiExtractor and Leipzig --------------------------------------------------------------------

WIKI = """\
<doc id="12" url="https://en.wikipedia.org/wiki?curid=12" title="A "quoted" &amp; title">
A title

First &lt;paragraph&gt;. It goes on.
</doc>
<doc id="39" url="u" title="B">
Second article.
</doc>
"""


def test_articles_of_wikiextractor_give_their_lines_with_id_and_attributes(tmp_path):
    folder = tmp_path / "AA"
    folder.mkdir()
    (folder / "wiki_00").write_text(WIKI)
    for size in SIZES:
        _, shards, items = read_all([tmp_path], shard_size=size, keep_field=("title",))
        assert [(item.record, item.doc_id, item.text, item.kept) for item in items] == [
            (1, "12", "A title", ('A "quoted" & title',)),
            (3, "12", "First <paragraph>. It goes on.", ('A "quoted" & title',)),
            (6, "39", "Second article.", ("B",)),
        ]
        assert len(shards) == (1 if size > 1000 else 2)  # none begins within an article


def test_lines_outside_articles_belong_to_none_and_can_begin_a_shard(tmp_path, caplog):
    path = tmp_path / "wiki.txt"
    path.write_text(WIKI + "line outside\n" * 50)
    for size in SIZES:
        _, _, items = read_all([path], shard_size=size)
        assert [item.doc_id for item in items] == ["12", "12", "39", *[None] * 50]
    assert len(read_all([path], shard_size=100)[1]) > 5
    with caplog.at_level("INFO", "ctxbatch"):
        read_all([path])
    assert f"{path} looks like output of WikiExtractor: reading its articles" in caplog.text


def test_leipzig_files_give_sentences_with_their_numbers(tmp_path):
    lines = [f"{n}\tSentence {n}." for n in range(1, 30)]
    path = tmp_path / "eng_news_2020_10K-sentences.txt"
    path.write_text("\n".join([*lines, "no number", ""]))
    sources, _, items = read_all([path], shard_size=50)
    assert sources[0].format == "leipzig"
    assert [(item.doc_id, item.text) for item in items[:-1]] == [tuple(line.split("\t")) for line in lines]
    assert items[-1].reason == "not a number, a tab and a sentence"
    (tmp_path / "b.txt").write_text("1\tone\ntwo\n3\tthree\n")
    assert read_all([tmp_path / "b.txt"])[0][0].format == "txt"
