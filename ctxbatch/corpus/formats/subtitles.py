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
_MOST_CUES, _MOST_LINES = 1_000, 10_000


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per run of cues, with its text in ``value``; notes and headers are not records."""
    run = _Run()
    for block in _blocks(source, start):
        if block.problem is not None or not block.is_record:
            yield from run.finish(number)
            number += run.n_finished
            yield block._replace(number=number)
            number += block.is_record
            continue
        if run.pauses_before(block):
            yield from run.finish(number)
            number += run.n_finished
        run.add(block)
        if run.is_complete:
            yield from run.finish(number)
            number += run.n_finished
    yield from run.finish(number)


class _Run:
    """Consecutive cues of one record. ``n_finished`` is 1 if the last `finish` gave a record, else 0."""

    def __init__(self) -> None:
        self.n_finished = 0
        self._cues: list[Unit] = []
        self._ended: float | None = None

    def pauses_before(self, cue: Unit) -> bool:
        """Return True if a cue comes too late to go on with the run; one without times never does."""
        begins = cue.value[0]
        return self._ended is not None and begins is not None and begins - self._ended > _PAUSE

    def add(self, cue: Unit) -> None:
        """Add a cue."""
        self._cues.append(cue)
        ended = cue.value[1]
        self._ended = self._ended if ended is None else ended

    @property
    def is_complete(self) -> bool:
        """True if the last cue ends a sentence, or the run is long enough."""
        ends = self._cues[-1].value[2].rstrip(_CLOSING).endswith(_ENDS)
        return ends or len(self._cues) >= _MOST_CUES

    def finish(self, number: int) -> Iterator[Unit]:
        """Yield the run as a unit, if there is one, and begin a new one."""
        cues, self._cues, self._ended, self.n_finished = self._cues, [], None, 0
        if cues:
            text = " ".join(text for *_, text in (cue.value for cue in cues) if text)
            self.n_finished = int(bool(text))
            yield joined(cues, None, text)._replace(number=number, is_record=bool(text))


def content(unit: Unit, _source: OpenSource) -> Content:
    """Return the text of a run of cues."""
    return Content(unit.value)


def _blocks(source: OpenSource, start: int) -> Iterator[Unit]:
    """Yield a unit per cue, with its times in seconds and its text in ``value``, and what is none."""
    lines: list[Unit] = []
    texts: list[str] = []
    problem: str | None = None
    has_times = False
    for line in source.lines(start, 0):
        if line.problem is not None or not line.is_record:
            yield from _block(lines, texts, problem)
            yield line
            lines, texts, problem, has_times = [], [], None, False
            continue
        text, why = source.text_of(line)
        text = without_line_end(text).strip()
        is_times = _TIMES.match(text) is not None
        if lines and ((text and not texts[-1]) or len(lines) >= _MOST_LINES):
            yield from _block(lines, texts, problem)
            lines, texts, problem, has_times = [], [], None, False
        elif has_times and is_times:  # no blank line before it
            n_before = -1 if texts[-1].isdigit() else len(texts)
            yield from _block(lines[:n_before], texts[:n_before], problem)
            lines, texts, problem = lines[n_before:], texts[n_before:], None
        lines.append(line)
        texts.append(text)
        has_times = has_times or is_times
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
