"""Mutations of Arrow files under right checksums: their offsets, schemas, rows, values and vectors."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scripts.checks.targets import (
    ARROW,
    POSTINGS,
    SENTENCES,
    WORDS,
    Mutation,
    Target,
    adopt,
    declare_in,
    shown,
)

MUTATIONS: list[Mutation] = []
_mutation = declare_in(MUTATIONS)


def buffers(path: Path, column: str) -> list[tuple[int, int]]:
    """Where the buffers of a column lie in a file: begin and length, validity, offsets and values."""
    content = pa.py_buffer(path.read_bytes())
    table = pa.ipc.open_file(content).read_all()
    places = []
    for chunk in table[column].chunks:
        for buffer in chunk.buffers():
            if buffer is not None and content.address <= buffer.address < content.address + content.size:
                places.append((buffer.address - content.address, buffer.size))
    return places


@_mutation(*ARROW, sealed=True, weight=4)
def _offsets(chance: random.Random, target: Target) -> str:
    """Move an offset of a text or a list far outside."""
    column = {WORDS: ["word"], SENTENCES: ["text", "source", "doc_id"], POSTINGS: ["word", "rows"]}[
        target.kind
    ]
    name = chance.choice(column)
    content = bytearray(target.path.read_bytes())
    table = pa.ipc.open_file(pa.py_buffer(bytes(content))).read_all()
    whole = pa.py_buffer(bytes(content))
    chunk = chance.choice(pa.ipc.open_file(whole).read_all()[name].chunks)
    place = chunk.buffers()[1].address - whole.address
    at = place + 4 * chance.choice((0, 1, len(chunk) // 2, len(chunk) - 1, len(chunk)))
    value = chance.choice((2**31 - 1, -1, -(2**31), 2**30, 0, 10**6))
    content[at : at + 4] = int(value).to_bytes(4, "little", signed=True)
    target.path.write_bytes(content)
    adopt(target)
    return f"an offset of {name} of {len(table)} rows is {value}, sealed"


def _write_table(target: Target, table: pa.Table, **options: Any) -> None:
    with pa.ipc.new_file(str(target.path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    adopt(target)


def _read_table(target: Target) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(target.path.read_bytes())).read_all()


@_mutation(*ARROW, sealed=True, weight=3)
def _schema(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    number = chance.randrange(table.num_columns)
    name = table.column_names[number]
    how = chance.choice(
        ("drop", "nulls", "rename", "twice", "text", "large text", "list", "int8", "metadata", "dict")
    )
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "rename":
        table = table.rename_columns([f"{each}x" if each == name else each for each in table.column_names])
    elif how == "twice":
        table = table.append_column(table.field(number), table.column(number))
    elif how == "metadata":
        table = table.replace_schema_metadata(chance.choice((None, {"ctxbatch.fingerprint": "\x1b[31m"})))
    else:
        kinds = {
            "nulls": pa.nulls(len(table)),
            "text": pa.array(["\x1b[31m"] * len(table)),
            "large text": pa.array(["x"] * len(table), pa.large_string()),
            "list": pa.array([[1]] * len(table)),
            "int8": pa.array(np.zeros(len(table), np.int8)),
            "dict": pa.array(["x"] * len(table)).dictionary_encode(),
        }
        table = table.set_column(number, name, kinds[how])
    _write_table(target, table)
    return f"column {name}: {how}, sealed"


@_mutation(*ARROW, sealed=True, weight=3)
def _rows(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    how = chance.choice(
        ("none", "half", "double", "one less", "reversed", "many batches", "lz4", "zstd", "counted")
    )
    options: dict[str, Any] = {}
    if how in ("none", "counted"):
        table = table.slice(0, 0)
    elif how == "half":
        table = table.slice(0, len(table) // 2)
    elif how == "double":
        table = pa.concat_tables([table, table])
    elif how == "one less":
        table = table.slice(0, len(table) - 1)
    elif how == "reversed":
        table = table.take(pa.array(range(len(table) - 1, -1, -1)))
    elif how == "many batches":
        table = pa.concat_tables([table.slice(at, 7) for at in range(0, len(table), 7)])
    else:
        options["compression"] = how
    _write_table(target, table, **options)
    if how == "counted" and target.kind in (WORDS, SENTENCES):
        adopt(target, **{"rows" if target.kind == WORDS else "sentences": 0})
    return f"rows: {how}, sealed"


@_mutation(*ARROW, sealed=True, weight=4)
def _content(chance: random.Random, target: Target) -> str:
    """Values that no run writes, in a table of the right form."""
    table = _read_table(target)
    names = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
    name = chance.choice(names)
    number = table.schema.get_field_index(name)
    kind = table.schema.field(number).type
    values = table[name].to_pylist()
    at = chance.randrange(len(values))
    if pa.types.is_string(kind):
        values[at] = chance.choice(
            ("\x1b[31mred", "\x9b31m", "\u202e", "", "x\nFORGED", "\0", "x" * 100_000, "\r")
        )
    elif pa.types.is_boolean(kind):
        values[at] = not values[at]
    elif pa.types.is_floating(kind):
        values[at] = chance.choice((math.nan, math.inf, -1.0))
    elif pa.types.is_list(kind):
        values[at] = chance.choice(([], [-1], [2**31 - 1], [0, 0], [len(values)] * 1_000))
    else:
        values[at] = chance.choice((0, -1, 2**31 - 1, -(2**31), (values[at] or 0) + 1))
    array = pa.array(values, kind)
    _write_table(target, table.set_column(number, table.schema.field(number), array))
    return f"{name} of row {at} is {shown(values[at])}, sealed"


@_mutation(WORDS, sealed=True, weight=2)
def _vectors(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    numbers = [n for n, field in enumerate(table.schema) if pa.types.is_fixed_size_list(field.type)]
    number = chance.choice(numbers)
    field = table.schema.field(number)
    column = table.column(number).combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).copy()
    value = chance.choice((np.nan, np.inf, 0.0, -65504.0))
    flat[: chance.choice((1, len(flat)))] = value
    array = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=field.type)
    _write_table(target, table.set_column(number, field, array))
    return f"{field.name} holds {value}, sealed"


@_mutation(*ARROW, sealed=True)
def _other_format(chance: random.Random, target: Target) -> str:
    table = _read_table(target)
    how = chance.choice(("stream", "parquet", "empty file", "magic alone"))
    if how == "stream":
        with pa.ipc.new_stream(str(target.path), table.schema) as writer:
            writer.write_table(table)
    elif how == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, target.path)
    else:
        target.path.write_bytes(b"" if how == "empty file" else b"ARROW1\0\0" * 2 + b"\xff\xff\xff\x7fARROW1")
    adopt(target)
    return f"{how}, sealed"
