"""Plans cover every byte once, at record borders; readers give back the text and its place."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxbatch.corpus.inputs import find_sources
from ctxbatch.corpus.plan import plan
from ctxbatch.corpus.records import Reader, Record, Reject
from ctxbatch.errors import InputError
from ctxbatch.execution.run_plan import resolve_reading
from ctxbatch.run_config import RunConfig
from ctxbatch.text.sentence_rules import RULES
from ctxbatch.text.sentences import split_sentences
from tests.helpers.corpora import read_all

relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


lines = st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=12), max_size=30)


@relaxed
@given(parts=lines, end=st.sampled_from(["\n", "\r\n"]), size=st.integers(1, 80), closed=st.booleans())
def test_lines_are_conserved_whatever_the_shard_size(tmp_path, parts, end, size, closed):
    parts = [part.replace("\n", " ").rstrip("\r") for part in parts]
    content = end.join(parts).encode() + (end.encode() if closed else b"")
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    if not content or (b"\r" in content and b"\n" not in content):  # whose lines end with "\r"
        return
    _, shards, records = read_all([path], shard_size=size)
    expected = content.decode().removesuffix(end).split(end) if closed else content.decode().split(end)
    if not closed and parts and not parts[-1]:
        expected = expected[:-1]
    assert [record.record for record in records] == list(range(len(records)))
    if not content.startswith(b"\xef\xbb\xbf"):
        assert [record.text for record in records] == [
            part.replace("\r\n", "\n") if end == "\n" else part for part in expected
        ]
        for record in records:
            assert content[record.byte_start :].decode().startswith(record.text)
    segments = [segment for spec in shards for segment in spec.segments]
    assert [s.start for s in segments] == [0, *(s.end for s in segments[:-1])]
    assert segments[-1].end == len(content)


@relaxed
@given(parts=lines, size=st.integers(1, 80))
def test_paragraphs_do_not_depend_on_the_shard_size(tmp_path, parts, size):
    path = tmp_path / "a.txt"
    path.write_text(
        "x\n" + "\n".join(part.replace("\r", " ") for part in parts), encoding="utf-8", newline=""
    )
    _, _, whole = read_all([path], record="paragraph")
    _, _, cut = read_all([path], record="paragraph", shard_size=size)
    assert cut == whole
    text = path.read_bytes().decode()
    for record in whole:
        assert record.text.encode().strip()  # a blank line has only ASCII white space
        assert text.encode()[record.byte_start :].decode().startswith(record.text)
        assert text.encode()[: record.byte_start].count(b"\n") == record.record


def test_a_paragraph_is_named_by_its_first_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\nfirst\nof two\n \nsecond\n\n")
    _, _, records = read_all([path], record="paragraph")
    assert [(r.record, r.text) for r in records] == [(2, "first\nof two"), (5, "second")]


@pytest.mark.parametrize("record", ["line", "paragraph", "file"])
def test_a_limit_takes_a_share_of_every_file_until_it_is_reached(tmp_path, record):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("one\n\ntwo\n\nthree\n")
    (tmp_path / "short.txt").write_text("x\n")
    (tmp_path / "empty.txt").write_text("")
    _, _, everything = read_all([tmp_path], record=record)
    for limit in range(1, len(everything) + 2):
        _, _, records = read_all([tmp_path], record=record, limit=limit)
        assert len(records) == min(limit, len(everything))
        assert set(records) <= set(everything)
        per_file = Counter(each.source for each in records)
        assert len(per_file) == min(limit, 4)
        for source, count in per_file.items():  # the first ones of each
            assert [r for r in records if r.source == source] == [
                r for r in everything if r.source == source
            ][:count]


def test_a_limit_gives_large_files_a_larger_share(tmp_path):
    for name, n_lines in (("a.txt", 1000), ("b.txt", 3000)):
        (tmp_path / name).write_text("".join(f"line {n:04}\n" for n in range(n_lines)))
    _, _, records = read_all([tmp_path], limit=400)
    assert Counter(each.source for each in records) == {0: 100, 1: 300}


def test_a_file_can_be_one_record_and_small_files_share_a_shard(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"all of\n{name}\n")
    _, shards, records = read_all([tmp_path], record="file")
    assert len(shards) == 1
    assert [r.text for r in records] == ["all of\na.txt", "all of\nb.txt"]


def test_byte_order_mark_is_no_text_and_line_ends_are_lf_or_crlf_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\rstill\u2028two\x0c\nthree".encode())
    _, _, records = read_all([path])
    assert [(r.byte_start, r.text) for r in records] == [
        (3, "one"),
        (8, "two\rstill\u2028two\x0c"),
        (25, "three"),
    ]


def test_json_lines_give_text_and_id_and_reject_the_rest_by_name(tmp_path):
    rows = [
        b'{"text": "good", "id": "x"}',
        b'{"text": "numbered", "id": 7}',
        b"",
        b'{"text": null}',
        b'{"other": "no text"}',
        b'{"text": ["list"]}',
        b"[1, 2]",
        b'{"text": "cut',
        b'{"text": "\xff"}',
        b'{"text": "half \\ud800"}',
        b"[" * 100_000,
        b'{"text": "last"}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(rows))
    _, _, items = read_all([path], shard_size=30)
    records = {r.record: (r.text, r.doc_id) for r in items if isinstance(r, Record)}
    assert records == {0: ("good", "x"), 1: ("numbered", "7"), 2: ("", None), 11: ("last", None)}
    rejects = {r.record: r for r in items if isinstance(r, Reject)}
    reasons = {number: reject.reason for number, reject in rejects.items()}
    assert reasons.pop(7).startswith("not JSON: Unterminated string")
    assert reasons == {
        3: "field 'text' is null, not a string",
        4: "no field 'text'",
        5: "field 'text' is an array, not a string",
        6: "not a JSON object but an array",
        8: "not UTF-8 at byte 145",
        9: "holds half of a surrogate pair, which is not text",
        10: "not JSON: nested too deeply",
    }
    for number, reject in rejects.items():
        assert reject.byte_start == sum(len(row) + 1 for row in rows[:number])


def test_other_fields_can_be_named(tmp_path):
    path = tmp_path / "a.ndjson"
    path.write_text(json.dumps({"body": "hello", "key": "k"}) + "\n")
    _, _, records = read_all([path], text_field="body", id_field="key")
    assert [(r.text, r.doc_id) for r in records] == [("hello", "k")]


def test_invalid_bytes_reject_their_line_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nbad \xff\xfe\ngood again\n")
    _, _, items = read_all([path])
    assert items[1] == Reject(0, 1, 5, "not UTF-8 at byte 9")
    assert [r.text for r in items if isinstance(r, Record)] == ["good", "good again"]


def test_a_source_that_changed_after_planning_is_noticed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    sources, _ = find_sources([path], tmp_path / "out")
    reading = resolve_reading(RunConfig(), sources)
    shards = plan(sources, reading)
    path.write_text("one\ntwa\n")
    with pytest.raises(InputError, match=r"a.txt changed after the run was planned \(bytes 0 to 8\)"):
        list(Reader(sources, reading).read(shards[0].segments))
    path.write_text("")
    with pytest.raises(InputError, match="changed after the run was planned"):
        list(Reader(sources, reading).read(shards[0].segments))


def test_folders_are_walked_in_order_and_unknown_files_named(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.jsonl", "notes.pdf", ".hidden/d.txt", ".e.txt"):
        (tmp_path / name).write_text("x")
    sources, left_out = find_sources([tmp_path], tmp_path / "out")
    assert [Path(s.path).name for s in sources] == ["a.txt", "b.txt", "c.jsonl"]
    assert left_out == [(f"{tmp_path / 'notes.pdf'}", "unknown format '.pdf'")]


def test_stores_inside_the_input_folder_are_not_read(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for name in ("out", "older"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rejects.jsonl").write_text("{}")
    (tmp_path / "older" / "manifest.json").write_text('{"format": "ctxbatch store"}')
    sources, left_out = find_sources([tmp_path], tmp_path / "out")
    assert [Path(s.path).name for s in sources] == ["a.txt"]
    assert left_out == [(f"{tmp_path / 'older'}", "a ctxbatch store")]


def test_linked_folders_are_entered_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "b.txt").write_text("x")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "real")
    (folder / "loop").symlink_to(folder)
    assert [Path(s.path).name for s in find_sources([folder], tmp_path / "out")[0]] == ["b.txt"]


def test_a_first_line_of_only_a_byte_order_mark_is_blank(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf\n\nfirst\n\nsecond\n")
    _, _, records = read_all([path], record="paragraph", limit=1)
    assert [r.text for r in records] == ["first"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt: no such file or folder"),
        ("a.pdf", b"x", r"a.pdf: unknown format '.pdf'; known suffixes: .txt, .text, .md"),
        ("empty.txt", b"", "the inputs are empty: .*empty.txt"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        find_sources([path], tmp_path / "out")


def test_a_source_named_twice_and_a_folder_without_text_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="given twice"):
        find_sources([tmp_path, tmp_path / "a.txt"], tmp_path / "out")
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="holds no file that can be read"):
        find_sources([tmp_path / "void"], tmp_path / "out")


def test_options_without_a_meaning_for_the_inputs_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.jsonl").write_text("{}")
    with pytest.raises(InputError, match="--text-field body cannot be used"):
        read_all([tmp_path / "a.txt"], text_field="body")
    with pytest.raises(InputError, match="--record paragraph is for text files"):
        read_all([tmp_path / "b.jsonl"], record="paragraph")


text = st.text(st.sampled_from("ab. !?\n\r\t'\"()é😀汉。A1Z\u2028\u00a0\u0301"), max_size=60)


@given(
    text=text,
    lang=st.sampled_from(["en", "de", "fr", "hi", "ja", "ru", "zh", None]),
    rules=st.sampled_from([RULES, None]),
)
def test_sentences_account_for_every_character_that_is_not_blank(text, lang, rules):
    sentences = list(split_sentences(Record(0, 0, 0, None, text), lang, rules))
    reached = 0
    for sentence in sentences:
        assert text[sentence.char_start : sentence.char_start + len(sentence.text)] == sentence.text
        assert sentence.text == sentence.text.strip() != ""
        assert not text[reached : sentence.char_start].strip()
        reached = sentence.char_start + len(sentence.text)
    assert not text[reached:].strip()


def test_a_text_on_which_the_splitter_panics_is_still_split():
    record = Record(0, 0, 0, None, "He met A\u2028. Then left. Good.")
    found = [s.text for s in split_sentences(record, "fr", RULES)]
    assert "".join(found).replace(" ", "") == "HemetA\u2028.Thenleft.Good."
    assert len(found) > 1


def test_shards_without_a_size_shrink_at_the_end_so_that_all_cores_finish_together(tmp_path):
    line = "In the beginning God created the heaven and the earth, number {}.\n"
    path = tmp_path / "a.txt"
    path.write_text("".join(line.format(n) for n in range(24_000)), encoding="utf-8")
    sources, shards, records = read_all([path])
    sizes = [spec.size for spec in shards]
    assert len(records) == 24_000
    assert sum(sizes) == sources[0].size
    assert all(later < size + 100 for size, later in itertools.pairwise(sizes))  # up to a record
    assert min(sizes[:4]) >= 64 << 10
    assert max(sizes[-3:]) < 0.55 * sizes[0]
    _, equal, _ = read_all([path], shard_size=sizes[0])
    assert all(abs(spec.size - sizes[0]) < 100 for spec in equal[:-1])


def test_a_limit_is_cut_for_all_cores_too(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{'word ' * 180}{n}\n" for n in range(12_000)), encoding="utf-8")
    assert len(read_all([path])[1]) > 64
    assert len(read_all([path], limit=300)[1]) >= 4
