"""Reads what WikiExtractor writes: a record is a line of an article, between ``<doc ...>`` and ``</doc>``."""

import html
import re
from collections.abc import Iterator

from ctxbatch.corpus.units import Content, OpenSource, Unit

_BEGIN = re.compile(r"<doc\b(.*)>\s*$")
_END = "</doc>"
_ATTRIBUTE = re.compile(r'(?<!\w)(\w++)="(.*?)"(?=\s+\w++="|\s*$)')
_LONGEST_TAG = 4_096


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per line, with the attributes of its article in ``value``; tags are not records."""
    attributes: dict[str, str] | None = None  # outside an article
    for line in source.lines(start, number):
        if line.problem is not None or not line.is_record:
            yield line._replace(may_begin=attributes is None, value={})
            continue
        text = source.text_of(line)[0].strip()
        if match := _BEGIN.match(text):
            attributes = dict(_ATTRIBUTE.findall(html.unescape(match[1][:_LONGEST_TAG])))
            yield line._replace(is_record=False, opens=True)
        elif not text or text == _END:
            attributes = None if text else attributes
            yield line._replace(is_record=False)
        else:
            yield line._replace(value=attributes or {}, may_begin=attributes is None)


def content(unit: Unit, source: OpenSource) -> Content:
    """Return a line's text and the id of its article."""
    text = html.unescape(source.decoded(unit))
    return Content(text, unit.value.get(source.reading.id_field), fields=unit.value)
