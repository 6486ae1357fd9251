"""Reads exports as colleagues do, and says what they hold."""

import hashlib

import numpy as np
import pyarrow.parquet as pq


def files_of(dest):
    """Return the checksum of every file of an export, by its path in it."""
    paths = sorted(path for path in dest.rglob("*") if path.is_file())
    return {str(path.relative_to(dest)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def table_of(dest, name="words"):
    """Return a table of an export, its files in the order of their names."""
    return pq.read_table([*sorted((dest / name).glob("*.parquet"))])


def vectors_of(table, name):
    """Return a column of vectors (N, D)."""
    column = table[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def bits(vectors):
    """Return the bits of vectors, in their own type."""
    return vectors.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[vectors.dtype.itemsize])
