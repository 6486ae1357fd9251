"""Examines sources before they are planned: encoding, layout of the text, header, and the fields asked for.

Owns what makes a whole run useless, such as a missing field, and is refused.
"""

import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ctxbatch.corpus.encoding import check_encoding, guess_encoding, marked_encoding, reads_byte_by_byte
from ctxbatch.corpus.fields import further_fields
from ctxbatch.corpus.formats.json_records import has_json_field, json_field_names, json_object
from ctxbatch.corpus.formats.xml_text import elements
from ctxbatch.corpus.layout import choose_columns, choose_newline, choose_quoting, choose_record
from ctxbatch.corpus.raw_records import units
from ctxbatch.corpus.read_errors import DamagedError, telling_of_memory
from ctxbatch.corpus.sniff import looks_like_markup
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.table_columns import column_type, find_column, is_text
from ctxbatch.corpus.tables import Table
from ctxbatch.corpus.text_sample import TextSample, read_sample
from ctxbatch.corpus.units import OpenSource
from ctxbatch.errors import InputError, beginning, quoted, shortened

log = logging.getLogger("ctxbatch")
_SAMPLE_RECORDS = 1_000
_SAMPLE_BYTES = 4 << 20
_SHOWN_FIELDS = 12
_SHOWN_SOURCES = 20
_DECLARED = re.compile(rb"""\s*<\?xml\s[^<>]*?encoding\s*=\s*["']([\w.:-]+)["']""")


def examine(sources: Iterable[Source], reading: Reading, id_field: str | None = None) -> tuple[Source, ...]:
    """Complete sources with what a sample of their bytes tells: encoding, layout and header.

    Args:
        sources: What `ctxbatch.corpus.inputs.find_sources` has found.
        reading: How they are read.
        id_field: The field of the documents' ids, if one is asked for: then it has to be there.

    Raises:
        InputError: A source has no field of the name that is asked for, or cannot be opened.
    """
    wanted = [("--text-field", reading.text_field)]
    if reading.tokens_field is not None:
        wanted = [("--tokens-field", reading.tokens_field)]
    if id_field is not None:
        wanted.append(("--id-field", id_field))
    wanted += [("--span-field", name) for name in reading.span_field]
    examined = []
    refused: dict[str, InputError] = {}
    for source in sources:
        try:
            with telling_of_memory(source.path):
                examined.append(_examine(source, reading, wanted))
        except InputError as error:
            refused[source.path] = error
            if len(refused) > _SHOWN_SOURCES:
                break
    if refused:
        raise _refusal(refused)
    return tuple(examined)


def _refusal(refused: Mapping[str, InputError]) -> InputError:
    """Return the error of the first source that cannot be used, which names the others too."""
    first, *others = refused
    if not others:
        return refused[first]
    return InputError(
        f"{refused[first]}; also refused: {shortened(others, _SHOWN_SOURCES - 1)} (--exclude PATTERN leaves "
        "files out)"
    )


def _examine(source: Source, reading: Reading, wanted: Sequence[tuple[str, str]]) -> Source:
    """Complete a source. ``wanted`` are the fields that it must have, by the options that name them."""
    if source.is_table:
        with contextlib.suppress(DamagedError):  # it is rejected by name when it is read
            _check_table(source, wanted)
        return source
    if not source.size:
        return source
    sample = read_sample(source)
    if source.format == "txt" and looks_like_markup(sample.head):
        log.warning("%s looks like markup, whose tags are read as words: --format xml reads XML", source.path)
    source = replace(source, encoding=marked_encoding(sample.head) or reading.encoding)
    if source.format == "xml":
        source = replace(source, encoding=_encoding_of_xml(source, reading, sample))
    if source.encoding == "utf-8" and (name := _utf_16_of(sample.head)):
        raise InputError(f"{source.path} looks like UTF-16 without a byte order mark: say --encoding {name}")
    if source.encoding == "utf-8" and source.format != "xml":
        _warn_of_encoding(source, sample)
    source = _with_layout(source, reading, sample)
    if source.format in ("csv", "tsv"):
        return _with_header(source, reading, wanted)
    if source.format in ("jsonl", "json"):
        _check_json(source, reading, wanted)
    if source.format == "xml":
        _check_xml(source, reading)
    return source


def _encoding_of_xml(source: Source, reading: Reading, sample: TextSample) -> str:
    """Return the encoding of an XML file: of its mark, as the user says, or as its first line says."""
    unmarked = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(sample.head[:2])
    encoding = marked_encoding(sample.head) or unmarked or reading.encoding
    declared = _DECLARED.match(sample.head)
    if declared and encoding == "utf-8" and not marked_encoding(sample.head):
        encoding = check_encoding(declared[1].decode())
    if encoding.startswith("utf-32") or not (encoding.startswith("utf-16") or reads_byte_by_byte(encoding)):
        raise InputError(
            f"{source.path} is {encoding.upper()}, which the XML parser does not know: convert it to UTF-8"
        )
    return encoding


def _warn_of_encoding(source: Source, sample: TextSample) -> None:
    """Warn of a text that is in another encoding than UTF-8, and name it."""
    if guess := guess_encoding(sample.pieces):
        log.warning(
            "%s is not UTF-8 and looks like %s: its lines will be rejected; --encoding %s reads them",
            source.path,
            guess,
            guess,
        )


def layout_notes(sources: Sequence[Source], reading: Reading) -> Iterator[str]:
    """Yield a line for each decision on layout that a reader may want to know, or to change."""
    decisions: tuple[tuple[str, Callable[[Source], bool]], ...] = (
        (
            "looks like output of WikiExtractor: reading its articles; --format txt reads all lines",
            lambda source: source.format == "wikiextractor" and reading.format is None,
        ),
        (
            "looks like a Leipzig corpus: reading a number and a sentence per line; --format txt reads lines",
            lambda source: source.format == "leipzig" and reading.format is None,
        ),
        ("has CR as line ends: reading lines up to CR", lambda source: source.newline == "cr"),
        (
            "looks hard-wrapped: reading paragraphs; --record line reads lines",
            lambda source: source.record == "paragraph" and reading.record == "auto",
        ),
        (
            "is read with quotes as text; --quoting csv lets them enclose fields",
            lambda source: source.quoting == "none" and reading.quoting == "auto",
        ),
    )
    n_sources = sum(source.size > 0 for source in sources)
    if reading.limit is not None and n_sources > 1:
        yield f"--limit {reading.limit:,} takes a share of each of the {n_sources:,} sources, by their sizes"
    for what, applies in decisions:
        if found := [source.path for source in sources if applies(source)]:
            others = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
            yield f"{found[0]}{others} {what}"


def _with_layout(source: Source, reading: Reading, sample: TextSample) -> Source:
    """Complete a source with how its text is laid out."""
    encoding = source.encoding or reading.encoding
    if source.format == "json" and not reads_byte_by_byte(encoding):
        raise InputError(
            f"{source.path} is {encoding.upper()}, in which only JSON lines can be read: convert it to UTF-8"
        )
    newline = choose_newline(sample, encoding)
    source = replace(source, newline=newline)
    if source.format == "txt" and reading.record == "auto":
        return replace(source, record=choose_record(sample.lines(encoding, newline)))
    if source.format == "vertical":
        return replace(source, columns=choose_columns(sample.lines(encoding, newline)))
    if source.format in ("csv", "tsv"):
        quoting = None if reading.quoting == "auto" else reading.quoting
        delimiter = reading.delimiter or ("\t" if source.format == "tsv" else ",")
        return replace(source, quoting=quoting or choose_quoting(sample, encoding, newline, delimiter))
    return source


def _utf_16_of(head: bytes) -> str | None:
    """Return the name of UTF-16 if every second byte is NUL and most of the others are of ASCII."""
    for name, nul, other in (("utf-16-be", head[::2], head[1::2]), ("utf-16-le", head[1::2], head[::2])):
        is_ascii = sum(map(_is_printable, other)) > 0.5 * len(other)
        if len(nul) >= 8 and nul.count(0) > 0.9 * len(nul) and is_ascii:
            return name
    return None


def _is_printable(byte: int) -> bool:
    return 32 <= byte < 127


def _check_table(source: Source, wanted: Sequence[tuple[str, str]]) -> None:
    table = Table(source.path, source.format)
    schema = table.schema
    for option, name in wanted:
        _check_once(source, name, schema.names)
        if (path := find_column(schema, name)) is None:
            raise _no_field(source, option, name, table.columns)
        if option == "--text-field" and not is_text(kind := column_type(schema, path)):
            raise InputError(f"{source.path}: field {name!r} is {kind}, not text: name another with {option}")


def _with_header(source: Source, reading: Reading, wanted: Sequence[tuple[str, str]]) -> Source:
    opened = OpenSource(source, reading)
    try:
        header = next((unit for unit in units(opened) if unit.is_record or unit.value), None)
    finally:
        opened.close()
    if header is None or header.is_lost:
        return replace(source, columns=())
    if header.problem is not None:
        raise InputError(f"{source.path} has no header that can be read: {header.problem}")
    columns: tuple[str, ...] = tuple(header.value)
    if not reading.header:
        columns = tuple(str(number) for number in range(1, len(columns) + 1))
    for option, name in wanted:
        _check_once(source, name, columns)
        if name not in columns:
            if not reading.header:
                raise InputError(
                    f"{source.path} has columns 1 to {len(columns)} and no header: name one by its number "
                    f"with {option}, not {name!r}"
                )
            raise _no_field(source, option, name, columns, _header_hint(reading, columns))
    for name in further_fields(reading):
        _check_once(source, name, columns)
    return replace(source, columns=columns)


def _check_once(source: Source, name: str, columns: Sequence[str]) -> None:
    if columns.count(name) > 1:
        raise InputError(
            f"{source.path} has {columns.count(name)} fields {name!r}: give them different names"
        )


def _header_hint(reading: Reading, columns: Sequence[str]) -> str:
    """Return what else may be wrong where the first row lacks a field: it was split wrongly, or is data."""
    if len(columns) == 1 and reading.delimiter is None:
        found = next((sign for sign in ";\t|," if sign in columns[0]), None)
        if found is not None:
            return f", or set --delimiter {found!r}"
    return ", or add --no-header if the first row holds no names"


def _check_json(source: Source, reading: Reading, wanted: Sequence[tuple[str, str]]) -> None:
    """Refuse a file whose first thousand records all lack a field that is asked for."""
    opened = OpenSource(source, reading)
    missing = list(wanted)
    names: dict[str, None] = {}
    first_line = ""
    try:
        records = (unit for unit in units(opened) if unit.is_record)
        for unit in itertools.islice(records, _SAMPLE_RECORDS):
            if unit.problem is not None:
                return
            text = opened.text_of(unit)[0]
            try:
                fields = json_object(text)
            except ValueError:
                first_line = first_line or text.strip()
                continue
            names |= dict.fromkeys(json_field_names(fields))
            missing = [(o, name) for o, name in missing if not has_json_field(fields, name)]
            if not missing:
                return
    finally:
        opened.close()
    if names:
        option, name = missing[0]
        raise _no_field(source, option, name, list(names))
    if source.format == "json" and first_line:
        raise InputError(f"{source.path} holds no JSON object: {first_line[:40]!r} is none")
    if first_line in ("[", "{") or first_line.startswith("[{"):
        raise InputError(f"{source.path} is not one JSON object per line: use --format json")


def _check_xml(source: Source, reading: Reading) -> None:
    """Refuse a file without records among its first elements."""
    opened = OpenSource(source, reading)
    try:
        for unit in units(opened):
            if unit.is_record or unit.start > _SAMPLE_BYTES:
                return
        names = elements(opened)
    finally:
        opened.close()
    if names:
        what = f"no {reading.text_path}" if reading.text_path else "no paragraphs (p) or verse lines (l)"
        shown = shortened(map(_shown, names), _SHOWN_FIELDS)
        raise InputError(
            f"{source.path} has {what}; its elements with text are {shown}: name some with --text-path"
        )


def _no_field(source: Source, option: str, name: str, there: Sequence[str], hint: str = "") -> InputError:
    shown = shortened(map(_shown, there), _SHOWN_FIELDS)
    return InputError(
        f"{source.path} has no field {name!r}; its fields are {shown}: name one with {option}{hint}"
    )


def _shown(name: str) -> str:
    # In quotes where its end would not show in a list. Without a header, a name is a cell of any length.
    is_clear = name and name.isprintable() and not re.search(r"[\s,]", name)
    return beginning(name) if is_clear else quoted(name)
