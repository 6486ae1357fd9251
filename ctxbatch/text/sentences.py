"""Splits a record's text into sentences, each with its exact place.

Owns the list of languages for ``--lang``. sentencex decides where sentences end, and `sentence_rules`
corrects it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from sentencex import get_sentence_boundaries

from ctxbatch.choices import DEFAULT_LANGUAGE, SplitKind
from ctxbatch.corpus.records import Record
from ctxbatch.corpus.units import Tokens
from ctxbatch.errors import InputError
from ctxbatch.text.sentence_rules import correct, rules_for

# sentencex accepts any code and falls back to English, so a typo would go unnoticed. This list has the
# ISO 639-1 codes, and others for which sentencex has rules or a fallback of its own.
LANGUAGES = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz
    ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik
    io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml
    mn mo mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc
    sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz
    ve vi vo wa wo xh yi yo za zh zu

    aae abs ace acm ady aeb aeb-arab aln als alt ami anp apc arn arq ary arz ast atj avk awa azb ban ban-bali
    bar bat-smg bbc bbc-latn bcc bci bdr be-tarask be-x-old bew bgn bho bjn blk bpy bqi btm bug bug-bugi bxr
    cbk-zam cdo cdo-hant cdo-latn ckb cpx cpx-hans cpx-hant crh crh-cyrl crh-latn csb de-at de-ch de-formal
    dsb dtp dty dua egl eml es-formal ext fit fiu-vro fon frc frp frr fur gag gan gan-hans gan-hant gcf gcr
    gld glk gom gom-deva gom-latn gor gsw guc hak hif hif-latn hke hrx hsb hsn hu-formal hyw iba ike-cans
    ike-latn inh jut kaa kab kbd kbd-cyrl kbp kea kge khw kiu kjh kjp kk-arab kk-cn kk-cyrl kk-kz kk-latn
    kk-tr ko-kp koi krc krl ks-arab ksh ksw ku-arab ku-latn kum lad lbe lez lij liv ljp lki lld lmo lrc ltg
    lua luz lzh lzz mad mag mai map-bms mdf mhr min mnc-latn mnc-mong mnw mrj ms-arab mui mwl myv mzn nah nan
    nan-hant nan-latn nan-latn-pehoeji nan-latn-tailo nap nds nds-nl nia nl-informal nrf nrm nyo olo pcd pdc
    pdt pfl pms pnt pt-br pwn qug rgn rmy roa-rup roa-tara rsk rue rup ruq ruq-cyrl ruq-latn rut sah scn sdc
    sdh se-fi se-no se-se ses sgs sh-cyrl sh-latn shi shi-latn shy shy-latn sjd skr skr-arab sli sma smn
    sr-cyrl sr-ec sr-el sr-latn srn sro stq sty szl szy tay tcy tet tg-cyrl tg-latn trv tt-cyrl ttj tyv udm
    ug-arab vec vep vls vmf vmw vot vro wls wuu wuu-hans wuu-hant xal xmf yue yue-hans yue-hant zea
    zh-classical zh-cn zh-hans zh-hant zh-hk zh-min-nan zh-mo zh-my zh-sg zh-tw zh-yue
    """.split()  # noqa: SIM905 (three hundred quoted codes are no easier to read)
)
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a record; ``char_start`` counts code points of the record's text.

    ``tokens`` are its words, placed in its text, where the source says what they are.
    """

    record: Record
    char_start: int
    text: str
    tokens: Tokens | None = None


def resolve_language(split: SplitKind, lang: str | None) -> str | None:
    """Return the language for splitting sentences, or ``None`` if records are not split.

    Raises:
        InputError: The language is unknown.
    """
    if split == "none":
        return None
    lang = lang or DEFAULT_LANGUAGE
    if lang not in LANGUAGES:
        raise InputError(f"--lang {lang!r} is unknown: give a code such as en, de, fr, ru, zh or pt-br")
    return lang


def split_sentences(record: Record, lang: str | None, rules: int | None) -> Iterator[Sentence]:
    """Yield a record's sentences in order, stripped of white space; blank ones are dropped.

    Args:
        record: The record.
        lang: A language of `LANGUAGES`, or ``None`` to take the whole record as one sentence.
        rules: The version of the rules that correct sentencex, or ``None`` to take its sentences as they are.
    """
    text, tokens = record.text, record.tokens
    if lang is None or (tokens is not None and tokens.is_sentence):
        starts = [0]
    elif rules is None:
        starts = _starts(text, lang)
    else:
        starts = correct(text, partial(_starts, lang=lang), rules_for(lang))
    if tokens is not None:
        starts = [start for start in starts if not tokens.cross(start)]
    for start, end in pairwise([*starts, len(text)]):
        sentence = text[start:end]
        stripped = sentence.strip()
        if stripped:
            begin = start + len(sentence) - len(sentence.lstrip())
            its = None if tokens is None else tokens.within(begin, begin + len(stripped))
            yield Sentence(record, begin, stripped, its)


def _starts(text: str, lang: str) -> list[int]:
    """Return where sentences begin, by sentencex: each ends where the next begins."""
    try:
        found = get_sentence_boundaries(lang, text)
    except BaseException as error:
        # sentencex 1.0.32 panics on some texts with a white space of several bytes ("A\u00a0."). A plain
        # space in its place keeps every offset; if that fails too, nothing is lost by not splitting.
        if type(error).__name__ != "PanicException":
            raise
        plain = _WIDE_SPACE.sub(" ", text)
        return [0] if plain == text else _starts(plain, lang)
    return [boundary["start_index"] for boundary in found]
