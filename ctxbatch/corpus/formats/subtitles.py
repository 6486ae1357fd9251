"""Reads subtitles (SubRip, WebVTT): a record is the text of consecutive cues up to the end of a sentence."""

import html
import re
from collections.abc import Iterator

from ctxbatch.corpus.units import Content, OpenSource, Unit, joined, without_line_end

_TIMES = re.compile(r"((?:\d+:)?\d+:\d+[.,]\d+)\s+-->\s+((?:\d+:)?\d+:\d+[.,]\d+)")
_SPACE = re.compile(r"[ \t]+")
_NO_CUE = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)\b")
_TAGS = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[^<>]*>|\{\\[^{}]*\}")
# What may follow the mark that ends a sentence.
_CLOSING = "\"'”’»›)]}♪ "  # noqa: RUF001 (quotes of other languages)
_ENDS = tuple(".!?…。！？।؟")  # noqa: RUF001 (marks of other scripts)
# A pause of this many seconds also ends a record.
_PAUSE = 3.0
# Without punctuation, a record would be all of a file.
_MOST_CUES = 1_000


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per run of cues, with its text in ``value``; notes and headers are not records."""
    run: list[Unit] = []
    texts: list[str] = []
    ended = 0.0
    for block in _blocks(source, start):
        if block.problem is not None or not block.is_record:
            yield from _finished(run, texts, number)
            number += bool(run)
            run, texts = [], []
            yield block._replace(number=number)
            number += block.is_record
            continue
        begins, ends, text = block.value  # no times: a blank line stood inside a cue
        if run and begins is not None and begins - ended > _PAUSE:
            yield from _finished(run, texts, number)
            number += 1
            run, texts = [], []
        run.append(block)
        texts.append(text)
        ended = ended if ends is None else ends
        if text.rstrip(_CLOSING).endswith(_ENDS) or len(run) >= _MOST_CUES:
            yield from _finished(run, texts, number)
            number += 1
            run, texts = [], []
    yield from _finished(run, texts, number)


def content(unit: Unit, _source: OpenSource) -> Content:
    """Return the text of a run of cues."""
    return Content(unit.value)


def _finished(run: list[Unit], texts: list[str], number: int) -> Iterator[Unit]:
    if run:
        text = " ".join(text for text in texts if text)
        yield joined(run, None, text)._replace(number=number, is_record=bool(text))


def _blocks(source: OpenSource, start: int) -> Iterator[Unit]:
    """Yield a unit per cue, with its times in seconds and its text in ``value``, and what is none."""
    lines: list[Unit] = []
    texts: list[str] = []
    problem: str | None = None
    for line in source.lines(start, 0):
        if line.problem is not None or not line.is_record:
            yield from _block(lines, texts, problem)
            yield line
            lines, texts, problem = [], [], None
            continue
        text, why = source.text_of(line)
        text = without_line_end(text).strip()
        has_times = any(map(_TIMES.match, texts))
        if lines and text and not texts[-1]:
            yield from _block(lines, texts, problem)
            lines, texts, problem = [], [], None
        elif has_times and _TIMES.match(text):  # no blank line before it
            n_before = -1 if texts[-1].isdigit() else len(texts)
            yield from _block(lines[:n_before], texts[:n_before], problem)
            lines, texts, problem = lines[n_before:], texts[n_before:], None
        lines.append(line)
        texts.append(text)
        problem = problem or why
    yield from _block(lines, texts, problem)


def _block(lines: list[Unit], texts: list[str], problem: str | None) -> Iterator[Unit]:
    if not lines:
        return
    times = next((number for number, text in enumerate(texts) if _TIMES.match(text)), None)
    if times is None and (not any(texts) or _NO_CUE.match(texts[0])):
        yield joined(lines)._replace(is_record=False)
        return
    begins = ends = None
    if times is not None and (match := _TIMES.match(texts[times])):
        begins, ends = map(_seconds, match.groups())
    cue = " ".join(filter(None, texts if times is None else texts[times + 1 :]))
    yield joined(lines, problem, (begins, ends, _SPACE.sub(" ", html.unescape(_TAGS.sub("", cue)))))


def _seconds(time: str) -> float:
    total = 0.0
    for part in time.replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total
