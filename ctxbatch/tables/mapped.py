"""Gives DuckDB the files of a store as tables, memory-mapped: only what a query names is read.

DuckDB has no half floats. Vectors of them are columns of bytes, which a function turns into floats; DuckDB
calls it only for the columns that a query names and the rows that its other conditions leave. So it does with
int8 vectors, which it multiplies by their scales itself.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctxbatch.arrays import Vectors
from ctxbatch.store.arrow_files import check_all
from ctxbatch.store.commits import SENTENCES, WORDS, FileName
from ctxbatch.store.int8_vectors import Int8Vectors, scale_of
from ctxbatch.store.reader import Store
from ctxbatch.store.schema import sentences_schema

if TYPE_CHECKING:
    import duckdb

# The name of the function in DuckDB.
FLOATS = "floats_of_halves"


def words_table(store: Store) -> pa.Table:
    """Return the words of a store in its order; a vector of half floats is a column of their bytes.

    Raises:
        StoreError: A file is damaged.
    """
    _check(store, WORDS)
    batches = []
    for shard in store.commits:
        file = store.file(shard, WORDS)
        vectors = {name: file.vectors(name) for name in store.config.columns}
        for number in range(len(file)):
            plain = file.batch(number)
            columns: dict[str, pa.Array] = {}
            for name, views in vectors.items():
                columns |= _as_arrow(name, views[number])
            names = [*plain.schema.names, *columns]
            batches.append(pa.RecordBatch.from_arrays([*plain.columns, *columns.values()], names))
    return pa.Table.from_batches(batches)


def sentences_table(store: Store) -> pa.Table:
    """Return the sentences of a store in its order.

    Raises:
        StoreError: A file is damaged.
    """
    _check(store, SENTENCES)
    files = [store.file(shard, SENTENCES) for shard in store.commits]
    schema = sentences_schema(store.config, store.manifest.reading).remove_metadata()
    batches = [file.batch(number) for file in files for number in range(len(file))]
    return pa.Table.from_batches([batch.replace_schema_metadata() for batch in batches], schema)


def _check(store: Store, name: FileName) -> None:
    store.check_is_here()
    check_all([store.file(shard, name) for shard in store.commits])


def _as_arrow(name: str, vectors: Vectors | Int8Vectors) -> dict[str, pa.Array]:
    """Return the columns of vectors (N, D): of int8 vectors, their scales too."""
    if isinstance(vectors, Int8Vectors):
        return {name: _lists(vectors.values_ND), scale_of(name): pa.array(vectors.scale_N)}
    if vectors.dtype == np.float16:
        n, dimension = vectors.shape
        buffers = [None, pa.py_buffer(vectors.view(np.uint8))]
        return {name: pa.Array.from_buffers(pa.binary(2 * dimension), n, buffers)}
    return {name: _lists(vectors)}


def _lists(values_ND: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_ND.reshape(-1)), values_ND.shape[1])


def as_floats(store: Store, table: str) -> str:
    """Return what selects all columns of a table of words, with its vectors as FLOAT[dimension]."""
    names, dtype = store.config.columns, store.config.dtype
    if dtype == "float32" or not names:
        return f"{table}.*"
    if dtype == "float16":
        floats = [f"{FLOATS}({table}.{name}) AS {name}" for name in names]
        return f"{table}.* REPLACE ({', '.join(floats)})"
    scaled = "list_transform(CAST({0}.{1} AS FLOAT[]), lambda x: x * {0}.{2})"
    kind = f"FLOAT[{store.config.hidden_size}]"
    floats = [f"CAST({scaled.format(table, name, scale_of(name))} AS {kind}) AS {name}" for name in names]
    return f"{table}.* EXCLUDE ({', '.join(map(scale_of, names))}) REPLACE ({', '.join(floats)})"


def add_floats(connected: "duckdb.DuckDBPyConnection", dimension: int) -> None:
    """Add the function that turns the bytes of half floats into FLOAT[dimension]."""
    from duckdb.func import PythonUDFType

    def floats(column: pa.ChunkedArray) -> pa.Array:
        halves_ND = np.frombuffer(b"".join(column.to_pylist()), np.float16).reshape(len(column), dimension)
        return pa.FixedSizeListArray.from_arrays(pa.array(halves_ND.astype(np.float32).ravel()), dimension)

    connected.create_function(FLOATS, floats, ["BLOB"], f"FLOAT[{dimension}]", type=PythonUDFType.ARROW)
