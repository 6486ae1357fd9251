"""Keyword in context fits the terminal and is aligned on the word, whatever the text."""

import re
from dataclasses import replace

import pytest
from wcwidth import wcswidth

from ctxbatch.search.concordance import heading, keyword_in_context
from ctxbatch.search.hits import Answer, Hit


def hit(before, word, after, source="/a/b/one.txt", record=6):
    text = before + word + after
    return Hit(0.5, 0, word, len(before), len(before) + len(word), text, source, record, None, 0, "out")


def test_keyword_in_context_is_aligned_on_the_word_whatever_its_width():
    hits = [
        hit("A short ", "word", " here."),
        hit("漢字を含むとても長い文章がここにあります", "単語", "そのあともまだまだ続きますので切られます"),
        hit("line\nbroken\t\x07 in ", "the", "\r\nmiddle " * 9, record=12345),
        hit("emoji 😀 and e\u0301 ", "é", ""),
    ]
    lines = list(keyword_in_context(hits, 80))
    columns = {wcswidth(line[: line.index(h.word)]) for line, h in zip(lines, hits, strict=True)}
    assert len(columns) == 1
    assert len({wcswidth(line) - len(line.rpartition(":")[2]) for line in lines}) == 1
    assert all(wcswidth(line) <= 80 for line in lines)
    assert lines[0].endswith("one.txt:7")


@pytest.mark.parametrize("width", [40, 60, 200])
def test_lines_fit_narrow_and_wide_terminals(width):
    hits = [
        hit("A rather long beginning of a ", "word", " and as long an end of it", "a-file-of-some-name.txt")
    ]
    (line,) = keyword_in_context(hits, width)
    assert wcswidth(line) <= width
    assert "word" in line
    assert line.endswith("txt:7")


def test_lines_are_cut_between_words_with_an_ellipsis():
    (line,) = keyword_in_context(
        [hit("It was a rather long beginning of a ", "word", " as was its end, too")], 60
    )
    assert line.split() == [
        "0.500",
        "…beginning",
        "of",
        "a",
        "word",
        "as",
        "was",
        "its",
        "end,…",
        "one.txt:7",
    ]
    (line,) = keyword_in_context([hit("", "単語", "そのあともまだまだ続きますので切られます。" * 3)], 60)
    assert "られ" not in line
    assert "…" in line
    (line,) = keyword_in_context([hit("a" * 99 + " ", "word", " " + "b" * 99)], 60)
    assert line.count("…") == 2
    assert "aaaa" in line
    (line,) = keyword_in_context([hit("All of ", "it", " fits.")], 60)
    assert "…" not in line


def test_places_of_hits_drop_only_the_folders_that_all_share():
    lines = list(keyword_in_context([hit("", "a", "", "x/y/1.txt"), hit("", "b", "", "x/z/1.txt")], 60))
    assert lines[0].endswith("y/1.txt:7")
    assert lines[1].endswith("z/1.txt:7")
    assert list(keyword_in_context([], 60)) == []


def test_marks_that_turn_the_direction_of_text_are_not_printed():
    (line,) = keyword_in_context([hit("before \u202e", "word", " \u2067after")], 80)
    assert "\u202e" not in line
    assert "\u2067" not in line


def test_colour_changes_nothing_but_the_word():
    hits = [hit("A short ", "word", " here."), hit("漢字", "単語", "続")]
    plain = list(keyword_in_context(hits, 80))
    for line, colored, each in zip(plain, keyword_in_context(hits, 80, color=True), hits, strict=True):
        assert f"\x1b[1;32m{each.word}\x1b[0m" in colored
        assert colored.replace("\x1b[1;32m", "").replace("\x1b[0m", "") == line


def test_sentences_around_are_wrapped_under_the_line():
    around = Hit(
        **{name: getattr(hit("a ", "word", " b"), name) for name in Hit.__slots__}
        | {"before": ("漢字を含むとても長い文章がここにあります。" * 3,), "after": ("Then more.",)}
    )
    lines = list(keyword_in_context([around], 60))
    assert len(lines) > 2
    assert all(wcswidth(line) <= 60 for line in lines)
    assert "Then more." in lines[-1]


def test_a_heading_is_the_query_with_its_word_marked():
    answer = Answer(0, "A long\nquery with a word in it", "word", 20, 24, "shift_3", False, [])
    assert heading(answer, 80) == "A long query with a [word] in it"
    assert heading(answer, 20) == "…ith a [word] in it"


@pytest.mark.parametrize("length", [0, 10, 100, 100_000])
@pytest.mark.parametrize("salient", [False, True])
def test_a_heading_shows_the_word_of_a_query_of_any_length(length, salient):
    text = "a " * length + "word" + " b" * length
    answer = Answer(0, text, "word", 2 * length, 2 * length + 4, "shift_3", salient, [])
    line = heading(answer, 60)
    assert " [word]" in f" {line}"
    assert line.endswith(" (its most salient word)") == salient
    assert wcswidth(line) <= 60
    assert line.startswith("…") == (length >= (10 if salient else 100))


def test_row_ids_stand_at_the_right_edge_where_text_keeps_room():
    long = hit("A rather long beginning of a ", "word", " and as long an end of it")
    hits = [
        replace(long, row_id=7),
        replace(long, row_id=42 << 32, record=12345, copies=3),
        replace(long, row_id=9, store="other", copies=0),
        replace(long, row_id=0, copies=17),
    ]
    for width in (90, 100, 200):
        lines = list(keyword_in_context(hits, width, numbered="out"))
        assert max(map(wcswidth, lines)) <= width
        assert [line.split("one.txt:")[1].split() for line in lines] == [
            ["7", "7"],
            ["12346", "+3", str(42 << 32)],
            ["7"],
            ["7", "+17", "0"],
        ]
        assert len({len(lines[number]) for number in (0, 1, 3)}) == 1
        colored = list(keyword_in_context(hits, width, numbered="out", color=True))
        assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in colored] == lines
        assert "\x1b[2m" in colored[0]
    for width, last in ((40, "one.txt:12346"), (60, "+3")):
        narrow = list(keyword_in_context(hits, width, numbered="out"))
        assert max(map(wcswidth, narrow)) <= width
        assert narrow[1].split()[-1] == last
    short = list(keyword_in_context(hits, 80, numbered="out"))
    assert short[1].split()[-3:] == ["…e.txt:12346", "+3", str(42 << 32)]
    without = list(keyword_in_context(hits, 100))
    assert [line.split()[-1] for line in without] == ["one.txt:7", "+3", "one.txt:7", "+17"]
