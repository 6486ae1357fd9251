"""Scans the words of a store for other libraries: vectors are widened to float32, shifts are computed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctxbatch.arrays import Floats, Vectors
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.formulas import ComputedShift, plain
from ctxbatch.model.shift import shift_function
from ctxbatch.store.int8_vectors import Int8Vectors, scale_of


def scan(words: Any, config: ResolvedConfig, columns: Sequence[str] | None) -> Any:  # noqa: ANN401 (pyarrow.dataset, slow to import)
    """Return a scanner over some columns of a store's words; with computed ones, it can be read once.

    Args:
        words: The dataset of the words.
        config: The store's configuration.
        columns: The names of the columns, stored or computed; by default, all that are stored. int8 vectors
            are computed, and their scales are left out by default.

    Raises:
        InputError: There is no such column.
    """
    stored, quantised = words.schema.names, {*(config.columns if config.dtype == "int8" else ())}
    scales = {*map(scale_of, quantised)}
    names = [*(columns or (name for name in stored if name not in scales))]
    sources = {name: name if name in stored else _full_name(name, config) for name in names}
    computed = {name: of for name, of in sources.items() if of not in stored or of in quantised}
    needed = {name: of for name, of in sources.items() if name not in computed}
    for of in computed.values():
        vectors = {*_sources_of(of, config)}
        needed |= {name: name for name in sorted(vectors | {*map(scale_of, vectors & quantised)})}
    scanner = words.scanner(columns=_as_floats(words.schema, needed))
    if not computed:
        return scanner
    import pyarrow.dataset as ds

    vector_type = pa.list_(pa.float32(), config.hidden_size)
    fields = [
        pa.field(name, vector_type) if name in computed else scanner.projected_schema.field(name)
        for name in names
    ]

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in scanner.to_batches():
            arrays = [
                _array(_computed(batch, computed[name], config)) if name in computed else batch[name]
                for name in names
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    # Else threads of Arrow read on after a LIMIT, and crash or hang a program that ends meanwhile.
    return ds.Scanner.from_batches(batches(), schema=pa.schema(fields), use_threads=False)


def _full_name(name: str, config: ResolvedConfig) -> str:
    full = config.column(name)
    if plain(full) != full:
        raise InputError(f"a scanner does not read {full}: `Store.vectors(..., standardise=True)` does")
    return full


def _as_floats(schema: pa.Schema, sources: Mapping[str, str]) -> "dict[str, pc.Expression]":
    """Return columns for a scanner by their names, each with that of its source; half floats are widened."""
    projection: dict[str, pc.Expression] = {}
    for name, source in sources.items():
        kind = schema.field(source).type
        is_half = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float16()
        field = pc.field(source)
        projection[name] = field.cast(pa.list_(pa.float32(), kind.list_size)) if is_half else field
    return projection


def _sources_of(name: str, config: ResolvedConfig) -> tuple[str, ...]:
    """Return the stored columns from which one is computed, itself if it is stored."""
    if name in config.columns:
        return (name,)
    return f"contextual_{ComputedShift.parse(name).layer}", "static"


def _computed(batch: pa.RecordBatch, name: str, config: ResolvedConfig) -> Floats:
    """Return the vectors of a column that is stored as int8, or computed from others, (N, D)."""
    sources = [_vectors(batch, source) for source in _sources_of(name, config)]
    if name in config.columns:
        return sources[0]
    shift_ND: Floats = shift_function(ComputedShift.parse(name).formula, np)(*sources)
    return shift_ND


def _vectors(batch: pa.RecordBatch, name: str) -> Floats:
    """Return the vectors of a column, widened to float32 before, or stored as int8."""
    values_ND: Vectors = batch[name].flatten().to_numpy().reshape(len(batch), batch[name].type.list_size)
    if values_ND.dtype != np.int8:
        return values_ND
    return Int8Vectors(values_ND, batch[scale_of(name)].to_numpy())[:]


def _array(vectors_ND: Floats) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), vectors_ND.shape[1])
