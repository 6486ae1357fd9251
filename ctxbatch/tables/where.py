"""Selects the rows of a store that meet a condition in SQL."""

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxbatch.arrays import Mask
from ctxbatch.errors import InputError
from ctxbatch.store.commits import damaged
from ctxbatch.store.reader import Store
from ctxbatch.tables.database import opened
from ctxbatch.tables.engine import QueryError, batches, interruptible

if TYPE_CHECKING:
    import duckdb

_WANTED = "give one condition, such as \"word = 'bank'\""
# What a SELECT of nothing but an expression has, as DuckDB describes it.
_ALONE: dict[str, Any] = {
    "type": "SELECT_NODE",
    "modifiers": [],
    "cte_map": {"map": []},
    "where_clause": None,
    "group_expressions": [],
    "group_sets": [],
    "having": None,
    "sample": None,
    "qualify": None,
}


def matching_rows(store: Store, where: str) -> Mask:
    """Mark the rows of a store that meet a condition, (N,), in the order of the store's rows.

    The condition may name the columns of the view ``occurrences``: those of words and of their sentences, and
    the fields that are kept. A row for which it is NULL does not meet it.

    Args:
        store: The store.
        where: An expression in DuckDB's SQL, such as ``year >= 1900 AND upos = 'NOUN'``.

    Raises:
        InputError: It is not a single expression, DuckDB refuses it, or DuckDB is not installed.
        StoreError: The store is damaged.
        ResourceError: DuckDB needs more memory or disk than there is.
    """
    with opened([store]) as connected:
        try:
            _check_expression(connected, where)
            # On lines of its own: a comment ends there.
            with closing(batches(connected, f"SELECT row_id FROM occurrences WHERE (\n{where}\n)")) as found:
                row_ids = np.concatenate([batch["row_id"].to_numpy() for batch in found])
        except QueryError as error:
            raise InputError(f"--where {where!r}: {error}") from error
    positions = store.positions(row_ids)
    if len(positions) and positions.min() < 0:
        raise damaged(store.path, "its rows are not numbered as its shards are")
    mask_N = np.zeros(store.n_rows, np.bool_)
    mask_N[positions] = True
    return mask_N


def _check_expression(connected: "duckdb.DuckDBPyConnection", where: str) -> None:
    """Check with DuckDB's own parser that a text is one expression, and nothing follows it."""
    if not where.strip():
        raise QueryError(_WANTED)
    parse, given = "SELECT json_serialize_sql(?)", [f"SELECT\n{where}\n"]
    ((text,),) = interruptible(connected, lambda: connected.execute(parse, given).fetchall())
    parsed: dict[str, Any] = json.loads(text)
    if parsed["error"]:
        raise QueryError(" ".join(str(parsed["error_message"]).split()))
    nodes = [statement["node"] for statement in parsed["statements"]]
    if len(nodes) != 1 or not _is_expression(nodes[0]):
        raise QueryError(_WANTED)


def _is_expression(node: dict[str, Any]) -> bool:
    selected = node.get("select_list", [])
    return (
        all(node.get(name) == value for name, value in _ALONE.items())
        and node["from_table"]["type"] == "EMPTY"
        and len(selected) == 1
        and not selected[0]["alias"]
    )
