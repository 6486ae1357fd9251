"""The splitters that `sentences` compares, each as a function from a text to where its sentences begin."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from ctxbatch.errors import InputError

# From a text and its language to offsets in code points.
Splitter = Callable[[str, str], Iterable[int]]


def load(name: str) -> Splitter:
    """Return a splitter of `SPLITTERS`.

    Raises:
        InputError: Its library is not installed.
    """
    try:
        return SPLITTERS[name]()
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed: pip install {error.name}, or leave {name} out of --splitters"
        ) from None


def _ctxbatch() -> Splitter:
    from ctxbatch.corpus.records import Record
    from ctxbatch.text.sentence_rules import RULES
    from ctxbatch.text.sentences import split_sentences

    def split(text: str, lang: str) -> Iterable[int]:
        return [sentence.char_start for sentence in split_sentences(Record(0, 0, 0, None, text), lang, RULES)]

    return split


def _sentencex() -> Splitter:
    from sentencex import get_sentence_boundaries

    return lambda text, lang: [found["start_index"] for found in get_sentence_boundaries(lang, text)]


def _icu(keyword: str) -> Splitter:
    from icu4py.breakers import SentenceBreaker

    def split(text: str, lang: str) -> Iterable[int]:
        starts = [start for start, _ in SentenceBreaker(text, lang + keyword).segments()]
        if max(text, default="") < "\U00010000":
            return starts
        # They count UTF-16 code units.
        units = [place for place, char in enumerate(text) for _ in range(1 + (char > "\uffff"))]
        return [units[start] for start in starts]

    return split


def _pysbd() -> Splitter:
    import pysbd
    from pysbd.languages import LANGUAGE_CODES

    @cache
    def segmenter(lang: str) -> Any:  # noqa: ANN401
        return pysbd.Segmenter(lang if lang in LANGUAGE_CODES else "en", clean=False, char_span=True)

    return lambda text, lang: [span.start for span in segmenter(lang).segment(text)]


def _syntok() -> Splitter:
    from syntok import segmenter

    def split(text: str, _: str) -> Iterable[int]:
        return [tokens[0].offset for paragraph in segmenter.process(text) for tokens in paragraph]

    return split


def _blingfire() -> Splitter:
    import blingfire

    return lambda text, _: [start for start, _ in blingfire.text_to_sentences_and_offsets(text)[1]]


def _segtok() -> Splitter:
    from segtok.segmenter import split_multi

    def split(text: str, _: str) -> Iterable[int]:
        starts, reached = [], 0
        for sentence in filter(None, map(str.strip, split_multi(text))):
            starts.append(text.index(sentence, reached))
            reached = starts[-1] + len(sentence)
        return starts

    return split


def _razdel() -> Splitter:
    from razdel import sentenize

    return lambda text, _: [sentence.start for sentence in sentenize(text)]


def _spacy() -> Splitter:
    import spacy

    @cache
    def pipeline(lang: str) -> Any:  # noqa: ANN401
        # The tokenizers of the others need libraries of their own.
        made = spacy.blank(lang if lang in ("ar", "de", "en", "hi") else "xx")
        made.max_length = 1 << 30
        made.add_pipe("sentencizer")
        return made

    return lambda text, lang: [sentence.start_char for sentence in pipeline(lang)(text).sents]


# Each loads its library when it is called.
SPLITTERS: dict[str, Callable[[], Splitter]] = {
    "ctxbatch": _ctxbatch,
    "sentencex": _sentencex,
    "icu": lambda: _icu(""),
    "icu-filtered": lambda: _icu("@ss=standard"),
    "pysbd": _pysbd,
    "syntok": _syntok,
    "blingfire": _blingfire,
    "segtok": _segtok,
    "razdel": _razdel,
    "spacy": _spacy,
}
