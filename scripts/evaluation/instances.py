"""Read instances of words with their senses: SENSEVAL's XML as published, or JSON lines.

Knows both formats; nothing of vectors. The published files are not well-formed XML (bare ampersands, tags
such as <@>), so they are read by their tags, not by a parser.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbatch.errors import InputError
from scripts.evaluation.pairs import numbered_lines

_FIELDS = {"word": str, "text": str, "start": int, "end": int, "sense": str}
_ITEM_OR_INSTANCE = re.compile(
    r"""<lexelt\b[^>]*\bitem\s*=\s*["'](?P<item>[^"']+)|<instance\b[^>]*>(?P<inside>.*?)</instance\s*>""",
    re.S,
)
_SENSE = re.compile(r"""<answer\b[^>]*\bsenseid\s*=\s*["']([^"']+)""")
_CONTEXT = re.compile(r"<context\b[^>]*>(.*?)</context\s*>", re.S)
_HEAD = re.compile(r"<head\b[^>]*>(.*?)</head\s*>", re.S)
_TAG = re.compile(r"<[^<>]*>")
_PART_OF_SPEECH = re.compile(r"[-.][anrvp]$")


@dataclass(frozen=True, slots=True)
class Instance:
    """A text, the code points of a word in it, and its sense; ``place`` is file and line."""

    word: str
    text: str
    span: tuple[int, int]
    sense: str
    place: str


def read_instances(path: Path) -> list[Instance]:
    """Read a file of JSON lines, whose name ends in .jsonl or .ndjson, or a file of SENSEVAL's.

    Raises:
        InputError: The file cannot be read, holds no instances, or one is not as it must be.
    """
    is_json = path.suffix in (".jsonl", ".ndjson")
    found = list(_read_json(path) if is_json else _read_xml(path))
    if not found:
        form = ", ".join(_FIELDS) if is_json else "<instance> with <answer>, <context> and <head>"
        raise InputError(f"{path} holds no instances: give {form}; JSON lines end in .jsonl")
    return found


def _read_json(path: Path) -> Iterator[Instance]:
    for line, place in numbered_lines(path):
        try:
            given: Any = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: the line is not JSON ({error})") from None
        missing = [name for name in _FIELDS if not isinstance(given, dict) or name not in given]
        if missing:
            raise InputError(f"{place}: the line must be an object with {', '.join(_FIELDS)}")
        for name, kind in _FIELDS.items():
            if type(given[name]) is not kind:
                needed = "a string" if kind is str else "a whole number"
                raise InputError(f"{place}: {name} is {given[name]!r}, it must be {needed}")
        text, start, end = given["text"], given["start"], given["end"]
        if not (0 <= start < end <= len(text) and text[start:end].strip()):
            raise InputError(f"{place}: {start} to {end} is no word of a text of {len(text)} characters")
        yield Instance(given["word"], text, (start, end), given["sense"], place)


def _read_xml(path: Path) -> Iterator[Instance]:
    """Yield the instances of a file; the word is that of the <lexelt>, or else the file's name."""
    content = "\n".join(line for line, _ in numbered_lines(path))
    word = path.stem
    for match in _ITEM_OR_INSTANCE.finditer(content):
        if match["item"]:
            word = _PART_OF_SPEECH.sub("", match["item"])
            continue
        place = f"{path}:{content.count(chr(10), 0, match.start()) + 1}"
        sense, context = _SENSE.search(match["inside"]), _CONTEXT.search(match["inside"])
        head = _HEAD.search(context[1]) if context else None
        if not (sense and context and head):
            raise InputError(f"{place}: an instance must have an <answer senseid=…>, a <context>, a <head>")
        yield _marked(word, sense[1], context[1], head, place)


def _marked(word: str, sense: str, context: str, head: "re.Match[str]", place: str) -> Instance:
    """Return the instance of a context whose word is at its first head, without tags and line ends."""
    before, after = _plain(context[: head.start()]).lstrip(), _plain(context[head.end() :]).rstrip()
    marked = _plain(head[1]).strip()
    if not marked:
        raise InputError(f"{place}: the <head> marks nothing but white space")
    span = (len(before), len(before) + len(marked))
    return Instance(word, before + marked + after, span, sense, place)


def _plain(markup: str) -> str:
    """Return markup as text; an ampersand that begins no entity stays."""
    return re.sub(r"\s+", " ", html.unescape(_TAG.sub(" ", markup)))
