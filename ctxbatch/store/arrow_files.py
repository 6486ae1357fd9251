"""Opens the Arrow files of a store, and checks their bytes before Arrow uses them.

Arrow trusts what a file says about itself: one wrong offset crashes the program or changes an answer. So
`ArrowFile` compares the frame of a file, everything outside the buffers of its record batches, with a
checksum when it opens the file. It compares the buffers of a record batch on first use, except those of
vectors: any bits are valid vectors, and `ctxbatch verify` compares them. Files of older stores lack these
checksums. Arrow validates the structure of every file, and its schema must be the expected one.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ctxbatch.arrays import Floats, Ints, Vectors
from ctxbatch.errors import one_line, out_of_memory
from ctxbatch.sealed import not_readable, size_of
from ctxbatch.store.commits import FileFacts, damaged
from ctxbatch.store.int8_vectors import Int8Vectors, is_scale, scale_of

# Where a batch's buffers begin, its vectors begin and both end; the sha256 of the buffers before the vectors.
_Batch = tuple[int, int, int, str]
_BROKEN = (
    pa.ArrowException,
    OSError,
    SystemError,
    ValueError,
    OverflowError,
    KeyError,
    IndexError,
    TypeError,
)


@contextmanager
def checked(path: Path) -> Iterator[None]:
    """Turn any error that Arrow raises on a file into one of the project's, in one line."""
    try:
        yield
    except MemoryError as error:  # also pa.ArrowMemoryError
        raise out_of_memory(path, one_line(error)) from error
    except OSError as error:
        if error.errno is None:
            raise damaged(path, error) from error
        raise not_readable(path, error) from error
    except _BROKEN as error:
        raise damaged(path, error) from error


def mapped(path: Path) -> pa.Buffer:
    """Map a file's bytes, and close its descriptor.

    Raises:
        ResourceError: The file cannot be opened or mapped, which says nothing about its bytes.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return source.read_buffer()
    except OSError as error:  # those of Arrow often have no errno
        raise not_readable(path, error) from error


def is_vector(field: pa.Field) -> bool:
    """Return True if a column holds vectors, or the scales of int8 vectors; fields kept are no float32."""
    return bool(
        pa.types.is_fixed_size_list(field.type) or (is_scale(field.name) and pa.types.is_float32(field.type))
    )


class ArrowFile:
    """An Arrow IPC file of a store, memory-mapped.

    Args:
        path: The file.
        schema: The expected schema; metadata are not compared.
        n_rows: The expected number of rows.
        facts: The facts of the file in its shard's commit record.

    Raises:
        StoreError: The file is missing or damaged.
        ResourceError: The disk, a permission or a lack of memory prevents reading.
    """

    def __init__(self, path: Path, schema: pa.Schema, n_rows: int, facts: FileFacts) -> None:
        self.path = path
        self._schema = schema
        self._plain = [field.name for field in schema if not is_vector(field)]
        self._expected = facts.batches
        self._checked: dict[int, pa.RecordBatch] = {}
        if size_of(path) != facts.bytes:
            raise damaged(path, "it is missing, or its size is wrong")
        with checked(path):
            self._data = mapped(path)
            if facts.batches is not None:
                _check_frame(memoryview(self._data), facts.frame, facts.batches)
            reader = pa.ipc.open_file(pa.BufferReader(self._data))
            if not reader.schema.equals(schema):
                raise ValueError("its schema differs from that of the manifest")
            self.metadata = reader.schema.metadata
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            if self._expected is not None and len(self._expected) != len(self._batches):
                raise ValueError("its record batches differ from those of its commit record")
            for batch in self._batches:
                batch.validate()
        self.firsts: Ints = np.cumsum([0, *map(len, self._batches)], dtype=np.int64)
        if self.firsts[-1] != n_rows:
            raise damaged(path, f"it has {self.firsts[-1]:,} rows, but its commit record says {n_rows:,}")

    def __len__(self) -> int:
        """Return the number of record batches."""
        return len(self._batches)

    def batch(self, number: int) -> pa.RecordBatch:
        """Return a record batch without its vectors.

        Raises:
            StoreError: The batch is damaged.
        """
        if number not in self._checked:
            with checked(self.path):
                if self._expected is not None:
                    begin, vectors, _, digest = self._expected[number]
                    if hashlib.sha256(memoryview(self._data)[begin:vectors]).hexdigest() != digest:
                        raise ValueError(f"record batch {number} does not match its checksum")
                plain = self._batches[number].select(self._plain)
                plain.validate(full=True)
                self._check_nulls(plain)
                self._checked[number] = plain
        return self._checked[number]

    def _check_nulls(self, batch: pa.RecordBatch) -> None:
        for field in batch.schema:
            if not self._schema.field(field.name).nullable and batch[field.name].null_count:
                raise ValueError(f"column {field.name} has nulls")

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column that holds no vectors.

        Raises:
            StoreError: A record batch is damaged.
        """
        batches = [self.batch(number) for number in range(len(self))]
        return pa.chunked_array([batch[name] for batch in batches], self._schema.field(name).type)

    def vectors(self, name: str) -> list[Vectors | Int8Vectors]:
        """Return a column of vectors (rows, D) as a view of each record batch.

        Raises:
            StoreError: The column is not an array of vectors without nulls.
        """
        kind = self._schema.field(name).type
        views: list[Vectors | Int8Vectors] = []
        with checked(self.path):
            for batch in self._batches:
                lists = batch[name]
                if lists.null_count or lists.values.null_count:
                    raise ValueError(f"column {name} has nulls")
                flat = lists.flatten().to_numpy(zero_copy_only=True)
                vectors = flat.reshape(len(lists), kind.list_size)
                views.append(Int8Vectors(vectors, _scales(batch, name)) if _is_int8(kind) else vectors)
        return views

    def check(self) -> "ArrowFile":
        """Check every record batch now, for those who read the file by other means, such as Arrow's datasets.

        Raises:
            StoreError: A record batch is damaged.
        """
        for number in range(len(self)):
            self.batch(number)
        return self


def _is_int8(kind: pa.DataType) -> bool:
    return bool(pa.types.is_int8(kind.value_type))


def _scales(batch: pa.RecordBatch, name: str) -> Floats:
    scales = batch[scale_of(name)]
    if scales.null_count:
        raise ValueError(f"column {scale_of(name)} has nulls")
    found: Floats = scales.to_numpy(zero_copy_only=True)
    return found


def check_all(files: list[ArrowFile]) -> None:
    """Check every record batch of the files, on all cores.

    Raises:
        StoreError: A record batch is damaged.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(ArrowFile.check, files))


# --- the frame ------------------------------------------------------------------------------------


def frame_facts(path: Path) -> dict[str, Any]:
    """Return the ``frame`` and ``batches`` of an Arrow file, as its commit record holds them.

    Raises:
        ResourceError: The file cannot be read.
    """
    data = mapped(path)
    reader = pa.ipc.open_file(pa.BufferReader(data))
    view = memoryview(data)
    batches = [
        _batch_facts(reader.get_batch(number), data.address, view)
        for number in range(reader.num_record_batches)
    ]
    return {"frame": _frame_digest(view, batches), "batches": batches}


def _batch_facts(batch: pa.RecordBatch, base: int, data: memoryview) -> _Batch:
    """Return where a batch's buffers are; in every schema of a store, vectors are the last columns."""
    spans: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        spans[is_vector(field)] += [
            (buffer.address - base, buffer.address - base + buffer.size)
            for buffer in column.buffers()
            if buffer is not None and buffer.size
        ]
    every = spans[True] + spans[False]
    begin, end = min(span[0] for span in every), max(span[1] for span in every)
    vectors = min((span[0] for span in spans[True]), default=end)
    return begin, vectors, end, hashlib.sha256(data[begin:vectors]).hexdigest()


def _frame_digest(data: memoryview, batches: "list[_Batch] | tuple[_Batch, ...]") -> str:
    digest, at = hashlib.sha256(), 0
    for begin, _, end, _ in batches:
        digest.update(data[at:begin])
        at = end
    digest.update(data[at:])
    return digest.hexdigest()


def _check_frame(data: memoryview, frame: str | None, batches: tuple[_Batch, ...]) -> None:
    at = 0
    for begin, vectors, end, _ in batches:
        if not at <= begin <= vectors <= end <= len(data):
            raise ValueError("the record batches of its commit record do not fit into it")
        at = end
    if _frame_digest(data, batches) != frame:
        raise ValueError("it does not match its checksum")
