"""Scans the words of a store for other libraries: half floats are widened, shifts are computed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.formulas import ComputedShift, plain
from ctxbatch.model.shift import shift_function


def scan(words: Any, config: ResolvedConfig, columns: Sequence[str] | None) -> Any:  # noqa: ANN401 (pyarrow.dataset, slow to import)
    """Return a scanner over some columns of a store's words; with computed ones, it can be read once.

    Args:
        words: The dataset of the words.
        config: The store's configuration.
        columns: The names of the columns, stored or computed; by default, all that are stored.

    Raises:
        InputError: There is no such column.
    """
    names = [*(columns or words.schema.names)]
    sources = {name: name if name in words.schema.names else _full_name(name, config) for name in names}
    shifts = {name: ComputedShift.parse(of) for name, of in sources.items() if of not in words.schema.names}
    needed = {name: of for name, of in sources.items() if name not in shifts}
    for shift in shifts.values():
        needed |= {name: name for name in (f"contextual_{shift.layer}", "static")}
    scanner = words.scanner(columns=as_floats(words.schema, needed))
    if not shifts:
        return scanner
    import pyarrow.dataset as ds

    schema = scanner.projected_schema
    fields = [_shift_field(name, schema) if name in shifts else schema.field(name) for name in names]

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in scanner.to_batches():
            arrays = [_shift_of(batch, shifts[name]) if name in shifts else batch[name] for name in names]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    return ds.Scanner.from_batches(batches(), schema=pa.schema(fields))


def _full_name(name: str, config: ResolvedConfig) -> str:
    full = config.column(name)
    if plain(full) != full:
        raise InputError(f"a scanner does not read {full}: `Store.vectors(..., standardise=True)` does")
    return full


def as_floats(schema: pa.Schema, sources: Mapping[str, str]) -> "dict[str, pc.Expression]":
    """Return columns for a scanner by their names, each with that of its source; half floats are widened."""
    projection: dict[str, pc.Expression] = {}
    for name, source in sources.items():
        kind = schema.field(source).type
        is_half = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float16()
        field = pc.field(source)
        projection[name] = field.cast(pa.list_(pa.float32(), kind.list_size)) if is_half else field
    return projection


def _shift_field(name: str, schema: pa.Schema) -> pa.Field:
    return pa.field(name, pa.list_(pa.float32(), schema.field("static").type.list_size))


def _shift_of(batch: pa.RecordBatch, shift: ComputedShift) -> pa.Array:
    contextual_ND, static_ND = (
        batch[name].flatten().to_numpy().reshape(len(batch), -1)
        for name in (f"contextual_{shift.layer}", "static")
    )
    shift_ND = shift_function(shift.formula, np)(contextual_ND, static_ND)
    return pa.FixedSizeListArray.from_arrays(pa.array(shift_ND.reshape(-1)), contextual_ND.shape[1])
