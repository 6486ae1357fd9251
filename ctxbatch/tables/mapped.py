"""Gives DuckDB the files of a store as tables, memory-mapped: only what a query names is read.

DuckDB has no half floats. Vectors of them are columns of bytes, which a function turns into floats; DuckDB
calls it only for the columns that a query names and the rows that its other conditions leave.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ctxbatch.arrays import Vectors
from ctxbatch.store.arrow_files import check_all
from ctxbatch.store.commits import SENTENCES, WORDS, FileName
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
            columns = {name: _as_arrow(views[number]) for name, views in vectors.items()}
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


def _as_arrow(vectors_ND: Vectors) -> pa.Array:
    n, dimension = vectors_ND.shape
    if vectors_ND.dtype == np.float16:
        buffers = [None, pa.py_buffer(vectors_ND.view(np.uint8))]
        return pa.Array.from_buffers(pa.binary(2 * dimension), n, buffers)
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), dimension)


def half_floats(store: Store) -> tuple[str, ...]:
    """Return the names of the columns of half floats."""
    return store.config.columns if store.config.dtype == "float16" else ()


def add_floats(connected: "duckdb.DuckDBPyConnection", dimension: int) -> None:
    """Add the function that turns the bytes of half floats into FLOAT[dimension]."""
    from duckdb.func import PythonUDFType

    def floats(column: pa.ChunkedArray) -> pa.Array:
        halves_ND = np.frombuffer(b"".join(column.to_pylist()), np.float16).reshape(len(column), dimension)
        return pa.FixedSizeListArray.from_arrays(pa.array(halves_ND.astype(np.float32).ravel()), dimension)

    connected.create_function(FLOATS, floats, ["BLOB"], f"FLOAT[{dimension}]", type=PythonUDFType.ARROW)
