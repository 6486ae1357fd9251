"""How a text is laid out is decided by a sample of it, and the decision is told in one line."""

import gzip
import json

import pytest

from ctxbatch import RunConfig
from ctxbatch.corpus.inputs import find_sources
from ctxbatch.corpus.layout import choose_record
from ctxbatch.corpus.records import Record, Reject
from ctxbatch.errors import InputError
from ctxbatch.execution.run_plan import examined, find_corpus
from ctxbatch.store.location import location_of
from tests.helpers.corpora import read_all, texts_of
from tests.helpers.stores import make_store

WRAPPED = """\
A lock is a thing that protects data from being changed by two
processes at the same time, and the process that holds it must
disable interrupts while the lock is held.

If it does not, an interrupt handler that takes the same lock on
the same processor waits for ever, because the process that could
release it is the one that the handler has interrupted.
"""
VERSES = """\
In the beginning God created the heaven and the earth.
And the earth was without form, and void; and darkness was upon the face of the deep.
And the Spirit of God moved upon the face of the waters.
And God said, Let there be light: and there was light.
"""
POEM = """\
Tyger Tyger, burning bright,
In the forests of the night;
What immortal hand or eye,
Could frame thy fearful symmetry?

In what distant deeps or skies
Burnt the fire of thine eyes?
On what wings dare he aspire?
What the hand, dare seize the fire?
"""
LOG = "".join(
    f"2026-11-26 12:00:{n:02} INFO worker {n} has finished a task of {n * 7} rows\n" for n in range(40)
)
PLAIN = "plain words\n" * 3


def notes_of(files, caplog, **options):
    config = RunConfig(**options)
    with caplog.at_level("INFO", "ctxbatch"):
        examined(find_corpus(files, location_of("/nowhere"), config), config)
    return caplog.messages


# --- lines or paragraphs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [(WRAPPED, "paragraph"), (VERSES, "line"), (POEM, "line"), (LOG, "line"), (PLAIN, "line")],
)
def test_hard_wrapped_text_is_read_by_paragraphs_and_other_text_by_lines(tmp_path, text, expected):
    path = tmp_path / "a.txt"
    path.write_text(text)
    sources, _, items = read_all([path])
    assert sources[0].record == expected
    assert items == read_all([path], record=expected)[2]


def test_a_sentence_of_a_hard_wrapped_text_is_stored_whole_without_any_option(tmp_path, tiny, caplog):
    path = tmp_path / "kern.txt"
    path.write_text(WRAPPED)
    store = make_store(tmp_path / "out", [path], RunConfig(model=str(tiny())))
    assert [s["text"] for s in store.sentences.to_table().to_pylist()] == [
        part.strip() for part in WRAPPED.split("\n\n")
    ]
    assert notes_of([path], caplog) == [
        f"{path} looks hard-wrapped: reading paragraphs; --record line reads lines"
    ]


def test_the_decision_rests_on_a_sample_of_the_whole_file_and_is_the_same_every_time(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("A title of one line.\n" * 2_000 + WRAPPED * 9_000)
    sources = [read_all([path])[0][0] for _ in range(2)]
    assert [source.record for source in sources] == ["paragraph"] * 2


def test_what_a_record_is_can_be_said_beside_files_of_other_formats(tmp_path):
    (tmp_path / "a.txt").write_text(WRAPPED)
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n')
    assert texts_of(read_all([tmp_path], record="line")[2]) == [*WRAPPED.splitlines(), "one"]


def test_a_long_text_without_blank_lines_is_read_by_lines():
    lines = [line for line in WRAPPED.splitlines() if line]
    assert choose_record([lines]) == "paragraph"
    assert choose_record([lines * 200]) == "line"


def test_files_of_text_are_known_by_more_suffixes_and_without_one(tmp_path):
    for name in ("a.txt", "b.text", "c.md", "d.rst", "e.log", "notes"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "program").write_bytes(b"\x7fELF\0\0\1\2")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "part-00000").write_text('{"text": "row"}\n')
    sources, left_out = find_sources([tmp_path], tmp_path / "out")
    texts = texts_of(read_all([tmp_path])[2])
    assert texts == ["a.txt", "b.text", "c.md", "d.rst", "e.log", "notes", "row"]
    assert {source.format for source in sources} == {"txt", "jsonl"}
    assert [each.why for each in left_out] == ["unknown format: no suffix, and not text"] * 2


def test_what_a_folder_holds_besides_is_summed_up_by_suffix(tmp_path, tiny, cli):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(VERSES)
    for number in range(12):
        (tmp_path / "in" / f"{number}.pdf").write_bytes(b"%PDF")
    (tmp_path / "in" / "x.png").write_bytes(b"\x89PNG")
    result = cli("plan", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny())
    assert "skipped 13 files or folders: unknown formats: 12 .pdf, 1 .png" in result.stderr
    excluding = ("--exclude", "*.pdf", "--exclude", "x.*")
    result = cli("plan", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny(), *excluding)
    assert "skipped 13 files or folders: 13 by --exclude\n" in result.stderr


def test_texts_that_describe_the_data_beside_them_are_left_out(tmp_path):
    for name in ("README.md", "LICENSE", "more.md"):
        (tmp_path / name).write_text("about\n")
    assert texts_of(read_all([tmp_path])[2]) == ["about"] * 3
    (tmp_path / "a.jsonl").write_text('{"text": "data"}\n')
    (tmp_path / "dataset_info.json").write_text('{\n "features": []\n}')
    assert texts_of(read_all([tmp_path])[2]) == ["data", "about"]
    left_out = find_sources([tmp_path], tmp_path / "out")[1]
    assert [each.why for each in left_out] == [
        "one JSON object without the field 'text'",
        "describes the data beside it",
        "describes the data beside it",
    ]
    assert texts_of(read_all([tmp_path / "README.md"])[2]) == ["about"]


# --- line ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("compress", [None, gzip.compress])
def test_a_text_whose_lines_end_with_cr_is_read_by_line(tmp_path, caplog, encoding, compress):
    path = tmp_path / ("a.txt.gz" if compress else "a.txt")
    content = "one\rzwei ü ഊ\r\rlast".encode(encoding)
    path.write_bytes(compress(content) if compress else content)
    for size in (1, 10**6):
        _, _, items = read_all([path], encoding=encoding, shard_size=size)
        assert texts_of(items) == ["one", "zwei ü ഊ", "", "last"]
        for item in items:
            assert (
                content[item.byte_start :]
                .decode(encoding.replace("utf-16", "utf-16-le"))
                .startswith(item.text)
            )
    assert notes_of([path], caplog, encoding=encoding) == [
        f"{path} has CR as line ends: reading lines up to CR"
    ]


def test_cr_ends_rows_and_objects_too(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'id,text\r1,one\r2,"two,\rand more"\r')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "three"}\r{"text": "four"}\r')
    (tmp_path / "c.tsv").write_bytes(b"id\ttext\r1\tfive\r")
    assert texts_of(read_all([tmp_path])[2]) == ["one", "two,\rand more", "three", "four", "five"]


def test_a_cr_in_a_text_with_lf_ends_no_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\rtwo\nthree\r\n")
    assert texts_of(read_all([path])[2]) == ["one\rtwo", "three"]


# --- quotes ---------------------------------------------------------------------------------------

STRAY = 'id\ttext\n1\t" You know I was chairman of it .\n2\tHe nodded . "\n3\tplain words\n'


def test_stray_quotes_in_tsv_join_no_rows(tmp_path, caplog):
    path = tmp_path / "q.tsv"
    path.write_text(STRAY)
    _, _, items = read_all([path])
    assert [(item.doc_id, item.text) for item in items] == [
        ("1", '" You know I was chairman of it .'),
        ("2", 'He nodded . "'),
        ("3", "plain words"),
    ]
    assert notes_of([path], caplog) == [
        f"{path} is read with quotes as text; --quoting csv lets them enclose fields"
    ]
    assert len(read_all([path], quoting="csv")[2]) == 2


def test_a_use_that_is_wholly_in_quotes_keeps_them_where_quotes_are_text(tmp_path):
    path = tmp_path / "uses.csv"
    rows = ['1\t"Yes, indeed."', '2\tHe said "no" to it.', '3\t"Never', "4\tplain"]
    path.write_text("id\ttext\n" + "\n".join(rows) + "\n")
    _, _, items = read_all([path], delimiter="\t")
    assert texts_of(items) == [row.split("\t")[1] for row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_quotes_that_enclose_fields_do_so_whatever_the_delimiter(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    path.write_text(
        delimiter.join(["id", "text"])
        + "\n"
        + "".join(f'{n}{delimiter}"a ""word""{delimiter} and\nmore"\n' for n in range(3))
    )
    _, _, items = read_all([path], delimiter=delimiter)
    assert texts_of(items) == [f'a "word"{delimiter} and\nmore'] * 3


def test_columns_that_are_quoted_throughout_are_quoted(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('"id"\t"text"\n' + "".join(f'"{n}"\t"words {n}"\n' for n in range(4)))
    assert texts_of(read_all([path])[2]) == [f"words {n}" for n in range(4)]


def test_a_row_of_csv_with_a_stray_quote_is_kept_as_it_is(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"a, b"\n2,"x" y\n3,"c, ""d"""\n4,e\rf\n')
    assert texts_of(read_all([path])[2]) == ["a, b", '"x" y', 'c, "d"', "e\rf"]


def test_an_escape_character_takes_the_meaning_of_the_next_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,one\\, two\n2,"say \\"x\\" now"\n3,back\\\\slash\n')
    expected = ["one, two", 'say "x" now', "back\\slash"]
    assert texts_of(read_all([path], escape="\\", quoting="csv")[2]) == expected
    path.write_text("id\ttext\n1\tone\\\ttwo\n2\tthree\n")
    assert texts_of(read_all([path], escape="\\", quoting="none", delimiter="\t")[2]) == ["one\ttwo", "three"]


def test_a_table_without_a_header_has_columns_by_number(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("7\tone\n8\ttwo\n")
    for size in (1, 10**6):
        _, _, items = read_all([path], header=False, text_field="2", id_field="1", shard_size=size)
        assert [(item.record, item.doc_id, item.text) for item in items] == [(0, "7", "one"), (1, "8", "two")]
    with pytest.raises(
        InputError, match=r"a.tsv has columns 1 to 2 and no header: name one by its number with"
    ):
        read_all([path], header=False)


def test_options_of_csv_are_refused_where_there_is_none(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    for option, message in (
        ({"quoting": "none"}, "--quoting none cannot be used"),
        ({"escape": "\\"}, "--escape"),
        ({"header": False}, "--no-header cannot be used"),
    ):
        with pytest.raises(InputError, match=message):
            read_all([tmp_path / "a.txt"], **option)


# --- joined files ---------------------------------------------------------------------------------


def test_joined_files_lose_neither_marks_nor_headers_into_the_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.jsonl").write_bytes(2 * (mark + b'{"text": "one"}\n'))
    (tmp_path / "b.csv").write_bytes(2 * (mark + b"id,text\n1,two\n"))
    (tmp_path / "c.txt").write_bytes(2 * (mark + b"three\n"))
    _, _, items = read_all([tmp_path], shard_size=1)
    assert texts_of(items) == ["one", "one", "two", "two", "three", "three"]
    assert [item.record for item in items] == [0, 1, 0, 1, 0, 1]
    assert items[-1].byte_start == 12


def test_a_column_of_one_word_is_no_repeated_header(tmp_path):
    (tmp_path / "a.csv").write_text("text\none\ntext\n")
    assert texts_of(read_all([tmp_path])[2]) == ["one", "text"]


# --- json -----------------------------------------------------------------------------------------

OBJECTS = [{"id": n, "text": f'text {n} "quoted" \\ [{{,', "more": {"a": [1, {"b": "]}"}]}} for n in range(5)]


@pytest.mark.parametrize("size", [1, 100, 10**6])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(OBJECTS),
        "\ufeff" + json.dumps(OBJECTS, indent=2),
        "\n".join(json.dumps(each, indent=1) for each in OBJECTS),
        "".join(map(json.dumps, OBJECTS)),
        "\n".join(map(json.dumps, OBJECTS)),
    ],
)
def test_json_is_read_as_an_array_as_lines_or_as_objects_one_after_another(tmp_path, content, size):
    for name, data in (("a.json", content.encode()), ("b.json.gz", gzip.compress(content.encode()))):
        path = tmp_path / name
        path.write_bytes(data)
        _, _, items = read_all([path], shard_size=size)
        assert [(item.record, item.doc_id, item.text) for item in items] == [
            (n, str(n), each["text"]) for n, each in enumerate(OBJECTS)
        ]
        for item in items:
            assert content.encode()[item.byte_start :].startswith(b"{")


def test_values_of_an_array_that_are_no_objects_are_rejected_by_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        '[{"text": "one"}, 2, "three", {"text": 4}, [5], null, {"text": "six" "x"}, {"text": "sev'
    )
    _, _, items = read_all([path])
    assert [item.text for item in items if isinstance(item, Record)] == ["one"]
    reasons = [item.reason.partition(":")[0] for item in items if isinstance(item, Reject)]
    assert reasons == [
        "not a JSON object but a number",
        "not a JSON object but a string",
        "field 'text' is a number, not a string",
        "not a JSON object but a number",
        "not a JSON object but null",
        "not JSON",
        "not JSON",
    ]


def test_an_array_larger_than_a_buffer_is_read_value_by_value(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.json_records._STEP", 7)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(OBJECTS, indent=2))
    assert texts_of(read_all([path])[2]) == [each["text"] for each in OBJECTS]


def test_a_value_that_is_too_long_is_rejected_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.json_records.MAX_RECORD_BYTES", 200)
    monkeypatch.setattr("ctxbatch.corpus.formats.json_records._STEP", 50)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x" * 1000}, {"text": "next"}]))
    _, _, items = read_all([path])
    assert [getattr(item, "text", None) or item.reason for item in items] == ["longer than 64 MiB", "next"]


def test_replacing_errors_reaches_halves_of_surrogate_pairs(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "half \\ud800 of", "id": "\\udc00"}\n{"text": "whole \\ud83d\\ude00"}\n')
    _, _, items = read_all([path], errors="replace")
    assert [(item.text, item.doc_id) for item in items] == [("half \ufffd of", "\ufffd"), ("whole 😀", None)]


# --- limits ---------------------------------------------------------------------------------------


def test_a_limit_over_several_sources_is_told(tmp_path, caplog):
    for name in ("a.txt", "b.txt", "empty.txt"):
        (tmp_path / name).write_text("" if name == "empty.txt" else "one\ntwo\n")
    assert notes_of([tmp_path], caplog, limit=2) == [
        "--limit 2 takes a share of each of the 2 sources, by their sizes"
    ]
    caplog.clear()
    assert notes_of([tmp_path / "a.txt"], caplog, limit=1) == []
