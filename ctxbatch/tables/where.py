"""Marks the rows of a store for which a condition in SQL holds."""

import json
from typing import Any

import numpy as np

from ctxbatch.arrays import Ints, Mask
from ctxbatch.errors import InputError
from ctxbatch.store.reader import Store


def matching_rows(store: Store, where: str) -> Mask:
    """Mark the rows (N,) of a store for which a condition holds, over the columns of `occurrences`.

    A condition that is neither true nor false, as of a field that a record does not have, does not hold.

    Raises:
        InputError: It is not one condition, or DuckDB finds a mistake in it.
    """
    from ctxbatch.tables.database import open_database  # pyarrow's data sets are slow to import

    if not where.strip():
        raise InputError("--where is empty: give a condition, such as \"word = 'bank'\"")
    marked_N = np.zeros(store.n_rows, np.bool_)
    with open_database([store]) as database:
        try:
            # On lines of its own, so that a comment in it ends nothing else.
            query = f"SELECT row_id FROM occurrences WHERE (\n{where}\n)"  # noqa: S608 (locked, and checked below)
            reader = database.query(f"SELECT json_serialize_sql({_text(query)})")
            (batch,) = database.batches(reader)
            rows = database.query(query)
            _check_condition(json.loads(batch.column(0)[0].as_py()))
            for batch in database.batches(rows):
                ids_N: Ints = batch.column(0).to_numpy()
                marked_N[store.positions(ids_N)] = True
        except InputError as error:
            raise InputError(f"--where {where!r}: {error}") from None
    return marked_N


def _check_condition(tree: dict[str, Any]) -> None:
    """Refuse the tree of a query that is more than a plain SELECT with a condition."""
    (statement,) = tree["statements"]
    node = statement["node"]
    others = ("modifiers", "group_expressions", "group_sets", "having", "qualify", "sample")
    if node["type"] != "SELECT_NODE" or any(node.get(name) for name in others):
        raise InputError("it is not one condition")


def _text(text: str) -> str:
    quoted = text.replace("'", "''")
    return f"'{quoted}'"
