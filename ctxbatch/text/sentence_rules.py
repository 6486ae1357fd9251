"""Corrects the sentences that sentencex finds: abbreviations, ordinals, quotations.

Owns the version of these rules, which a store records: to change a rule is to raise `RULES`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

# The version of the rules in this module.
RULES = 1

# Where sentences begin in a text, by sentencex alone; the first is 0.
Starts = Callable[[str], list[int]]

# sentencex reads so many characters at a time: where quotation marks have no pair, its time grows with the
# square of what it reads.
_PIECE = 4096
# It looks no further ahead than this to decide that a sentence ends.
_LOOK_AHEAD = 64
# How many characters before a full stop are looked at.
_LOOK_BACK = 24
# No abbreviation of ours is longer.
_LONGEST_WORD = 8
# After these a full stop ends no sentence. sentencex has long lists; these are what they lack.
_ABBREVIATIONS = {
    "en": "amb approx apt atty cdr mses ms mx ofc ste",
    "de": """
        abb abs abt abzgl anm aufl bd bde ca dipl dr dt einschl engl evtl exkl fa fr franz frl geb gest griech
        hl hr hrn hrsg ing inkl insg ital kap lat mind röm tel verh ziff zzgl
    """,
    "fr": "dr m me mgr mlle mlles mm mme mmes pr st ste vve",
    "hi": "कु डा डॉ नं पं प्रो मि रु सं स्व",
}
# Nor after these before a number.
_BEFORE_NUMBERS = {
    "en": """
        ap app art arts bk ch chap chaps chs col cols ed eq eqs ex exs fig figs ll par pt pts rm secs tab ver
        vol vols
    """,
    "de": "art bl jg jan feb febr apr jun jul aug sep sept okt nov dez nr rn rz s sp st str tab vers",
    "fr": "art avr chap déc éd fig févr janv juill n nov oct p pp sept t vol",
    "nl": "apr aug dec febr jan juli nov okt sept",
}
# "der 4. Klasse": a number with a full stop after one of these is an ordinal.
_BEFORE_ORDINALS = {
    "de": """
        ab am beim bis das dem den der des die dieser diesem diesen dieses ein eine einem einen einer eines
        ihr ihre ihrem ihren ihrer im jedem jeden jeder jedes sein seine seinem seinen seiner seit vom zum zur
    """,
}
_MONTHS = {
    "de": "januar februar märz april mai juni juli august september oktober november dezember",
}
# Languages that write ordinals with a full stop: "21. října".
_DOTTED_ORDINALS = frozenset(
    "bs cs da de et eu fi fo hr hsb hu is lb lv nb nn no pl sh sk sl sr tr".split()  # noqa: SIM905 (a list is longer than a line)
)
# Languages in which sentencex ends no sentence before a number. A long word that is not one of these does.
_UNSPLIT_BEFORE_NUMBERS = frozenset(["cs", "de", "fi", "sk"])
_BEFORE_NUMBER = re.compile(r"\.\s+(?=\d)")
_SHORTENED = frozenset("abschn durchschn jahrg ungef zuzgl".split())  # noqa: SIM905 (a list is longer than a line)

_CLOSERS = frozenset("\"'”’“»«›‹」』")
_ENDS = frozenset(".!?…。！？।؟")
# What closes a quotation, by what opens it. An apostrophe inside a word closes none.
_CLOSING = {
    '"': re.compile('"'),
    "“": re.compile("”"),
    "„": re.compile("[“”]"),
    "«": re.compile("»"),
    "»": re.compile("«"),
    "‘": re.compile(r"’(?!\w)"),
    "'": re.compile(r"'(?!\w)"),
    "「": re.compile("」"),
    "『": re.compile("』"),
}
_OPENING = re.compile(r"[\"“„«»‘「『]|(?<!\w)'(?=\w)")
_OPENERS = "\"'‘“„«»‹([{"
_DASHES = frozenset("—–-")
_DASH = re.compile(r"[—–-]+\s*")
_WORD = re.compile(r"[^\W\d_]+")
_INITIAL = re.compile(r"(?<![A-Za-z])[A-Za-z]\.$")  # "B.C.", with nothing between it and what follows
# "「行け！」と言った": と and its kin take a quotation up. "“走吧！”她说": so does a verb of saying.
_QUOTED_BEFORE = re.compile(r"と|って|[^\s。！？，、“”\"「」]{0,8}?(?:[说說问問喊]|[答写寫]?道)")


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for a language: the words that they look for, casefolded."""

    abbreviations: frozenset[str]
    before_numbers: frozenset[str]
    before_ordinals: frozenset[str]
    months: frozenset[str]
    dotted_ordinals: bool
    unsplit_before_numbers: bool


@cache
def rules_for(lang: str) -> Rules:
    """Return the rules for a language; those of a variety such as ``de-at`` are the language's."""
    base = lang.partition("-")[0]
    abbreviations, numbers, ordinals, months = (
        frozenset(words.get(base, "").split())
        for words in (_ABBREVIATIONS, _BEFORE_NUMBERS, _BEFORE_ORDINALS, _MONTHS)
    )
    return Rules(
        abbreviations, numbers, ordinals, months, base in _DOTTED_ORDINALS, base in _UNSPLIT_BEFORE_NUMBERS
    )


def correct(text: str, find: Starts, rules: Rules) -> list[int]:
    """Return where sentences begin, by sentencex and the rules.

    Args:
        text: The text.
        find: Finds where sentences of a text begin, by sentencex.
        rules: The rules for the language.
    """
    found = _split_quotations(text, partial(_in_pieces, find=find))
    if rules.unsplit_before_numbers:
        more = [m.end() for m in _BEFORE_NUMBER.finditer(text) if _ends_word(text, m.start(), rules)]
        found = sorted({*found, *more})
    starts = found[:1]
    for start in found[1:]:
        if not _joins(text, starts[-1], start, rules):
            starts.append(start)
    return starts


# --- to split ---------------------------------------------------------------------------------------


def _in_pieces(text: str, find: Starts) -> list[int]:
    """Return what ``find`` does, with a time that grows with the text alone.

    A piece begins with the last sentence of the piece before; in a longer sentence it begins at a space.
    """
    starts, begin = [], 0
    while len(text) - begin > _PIECE:
        end = begin + _PIECE
        found = [begin + s for s in find(text[begin:end]) if s < _PIECE - _LOOK_AHEAD]
        starts += found[begin > 0 :]
        begin = found[-1] if len(found) > 1 else text.rfind(" ", begin + _PIECE // 2, end) + 1 or end
    return starts + [begin + s for s in find(text[begin:])][begin > 0 :]


def _split_quotations(text: str, find: Starts) -> list[int]:
    """Return where sentences begin, those within quotations too, which sentencex takes whole."""
    starts = find(text)
    if not any(mark in text for mark in _CLOSING):
        return starts
    ends = [mark for mark in _ENDS if mark in text]
    inner: list[int] = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        for mark in ends:
            if text.find(mark, start, end - 4) >= 0:
                break
        else:
            continue  # its only full stop is its last
        for opened, closed in _quotations(text, start, end):
            inner += [opened + s for s in _split_quotations(text[opened:closed], find)[1:]]
    return sorted({*starts, *inner}) if inner else starts


def _quotations(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of what stands between quotation marks."""
    unclosed = set()
    while opening := _OPENING.search(text, start, end):
        mark, start = opening[0], opening.end()
        if mark in unclosed:
            continue
        closing = _CLOSING[mark].search(text, start, end)
        if closing is None:
            unclosed.add(mark)
            continue
        yield start, closing.start()
        start = closing.end()


def _ends_word(text: str, stop: int, rules: Rules) -> bool:
    """Return whether the full stop at ``stop`` comes after a word that is not shortened."""
    word = _last_words(text[max(0, stop - _LOOK_BACK) : stop])[0].casefold()
    whole = len(word) > 4 and word.isalpha() and not word.endswith("nr")
    return whole and word not in rules.abbreviations and word not in _SHORTENED


# --- to join ----------------------------------------------------------------------------------------


def _joins(text: str, previous: int, start: int, rules: Rules) -> bool:
    """Return whether no sentence begins at ``start``, though sentencex says so."""
    begin = start - _LOOK_BACK
    before = text[begin if begin > previous else previous : start]
    head, first = before.rstrip(), text[start : start + 1]
    last = head[-1:]
    if last == ".":
        joins = _is_no_end(text, start, head, rules)
    elif last in _CLOSERS:
        joins = first.islower() or (head[-2:-1] in _ENDS and bool(_QUOTED_BEFORE.match(text, start)))
    else:
        joins = last == "…" and _is_caseless(first)
    if not joins and first in _DASHES:  # "«Уйди!» — сказал он."
        dash = _DASH.match(text, start)
        joins = dash is not None and text[dash.end() : dash.end() + 1].islower()
    return joins and before.count("\n", len(head)) < 2


def _is_no_end(text: str, start: int, head: str, rules: Rules) -> bool:
    """Return whether the full stop at the end of ``head``, the text before ``start``, ends no sentence."""
    written, earlier = _last_words(head[:-1])
    if len(written) > _LONGEST_WORD and written.isalpha() and written[-1].islower():
        return False
    word, first = written.casefold(), text[start]
    return (
        (word in rules.abbreviations and not (earlier.isdecimal() and written.islower()))  # "It took 5 ms."
        or (first.isdecimal() and word in rules.before_numbers)
        or (len(word) == 1 and _is_caseless(word))
        or (head.endswith("...") and _is_caseless(first))  # a pause more often, and no capital tells
        or (text[start - 1] == "." and first.isalpha() and bool(_INITIAL.search(head)))
        or (_is_short_number(word) and _is_ordinal(text, start, earlier, rules))
    )


def _is_ordinal(text: str, start: int, earlier: str, rules: Rules) -> bool:
    """Return whether the number before ``start`` counts what follows: an ordinal or an item of a list."""
    following = _WORD.match(text, start)
    next_word = following[0] if following else ""
    return (
        not earlier
        or earlier.casefold() in rules.before_ordinals
        or (rules.dotted_ordinals and next_word[:1].islower())
        or next_word.casefold() in rules.months
    )


def _last_words(head: str) -> tuple[str, str]:
    """Return the last word of a text and the word before, without what opens them."""
    words = head.rsplit(None, 2)
    last = words[-1].lstrip(_OPENERS) if words else ""
    return last, words[-2].lstrip(_OPENERS) if len(words) > 1 else ""


def _is_short_number(word: str) -> bool:
    return len(word) <= 3 and word.isdecimal()


def _is_caseless(letter: str) -> bool:
    """Return whether a character is a letter of a script without capitals."""
    return letter.isalpha() and letter.lower() == letter.upper()
