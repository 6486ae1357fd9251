"""Opens stores as one locked DuckDB database with the views words, sentences and occurrences.

Row and sentence ids repeat from store to store, so every view has the column ``store``.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctxbatch.errors import InputError, StoreError
from ctxbatch.store.reader import Store
from ctxbatch.store.schema import kept_columns
from ctxbatch.tables.engine import MEMORY, connection, interruptible, lock
from ctxbatch.tables.mapped import add_floats, as_floats, sentences_table, words_table

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger("ctxbatch")
# The schema of the views that read files, one of each kind for each store; SHOW TABLES leaves it out.
_SCANS = "stores"
_OF_SENTENCE = ("source", "record", "byte_start", "doc_id", "n_words", "text")
_CONTEXTS = {
    "left_context": "substring(s.text, 1, w.char_start)",  # counts code points, as offsets do
    "right_context": "substring(s.text, w.char_end + 1)",
}


@contextmanager
def opened(stores: Sequence[Store], memory: int = MEMORY) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Yield the stores as one database, which is gone with its temporary files when the block ends.

    `ctxbatch.tables.engine.batches` queries it. The views hold the rows of committed shards.

    Args:
        stores: Stores of one configuration.
        memory: How many bytes DuckDB may take.

    Raises:
        InputError: A store is given twice, or DuckDB is not installed.
        StoreError: A store is of another configuration than the first, or it is damaged.
        ResourceError: The memory is not enough.
    """
    _check(stores)
    with connection(memory) as connected:
        interruptible(connected, lambda: _create_views(connected, stores))
        interruptible(connected, lambda: lock(connected))
        yield connected


def _check(stores: Sequence[Store]) -> None:
    first = stores[0].config.meaning()
    for number, store in enumerate(stores):
        if store.path.resolve() in (other.path.resolve() for other in stores[:number]):
            raise InputError(f"{store.path} is given twice: give every store once")
        meaning = store.config.meaning()
        if meaning != first:
            name = next(name for name in first if meaning[name] != first[name])
            how = f"{name.replace('_', ' ')}: {first[name]} and {meaning[name]}"
            raise StoreError(f"{stores[0].path} and {store.path} cannot be read as one: {how}")


def store_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each of several folders: its last part, and those before it that tell it apart."""
    parts = [str(path.resolve()).encode(errors="backslashreplace").decode().split("/") for path in paths]
    lengths = [1] * len(parts)
    while True:
        names = ["/".join(each[-length:]) for each, length in zip(parts, lengths, strict=True)]
        alike = [number for number, name in enumerate(names) if names.count(name) > 1]
        if not alike:
            return names
        for number in alike:
            lengths[number] += 1


# --- the views ------------------------------------------------------------------------------------


def _create_views(connected: "duckdb.DuckDBPyConnection", stores: Sequence[Store]) -> None:
    names = store_names([store.path for store in stores])
    connected.execute(f"CREATE SCHEMA {_SCANS}; USE {_SCANS}")
    for number, store in enumerate(stores):
        connected.from_arrow(words_table(store)).create_view(f"words_{number}")
        connected.from_arrow(sentences_table(store)).create_view(f"sentences_{number}")
    connected.execute("USE main")
    add_floats(connected, stores[0].config.hidden_size)
    kept = [_kept(connected, store, number) for number, store in enumerate(stores)]
    types = _common_types(kept, names)
    selects = [
        _selects(connected, store, number, names[number], kept[number], types)
        for number, store in enumerate(stores)
    ]
    for view, parts in zip(("words", "sentences", "occurrences"), zip(*selects, strict=True), strict=True):
        connected.execute(f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(parts)}")


def _selects(
    connected: "duckdb.DuckDBPyConnection",
    store: Store,
    number: int,
    name: str,
    kept: dict[str, tuple[str, str]],
    types: dict[str, str],
) -> tuple[str, str, str]:
    """Return what selects the words, the sentences and the occurrences of one store."""
    own = f"'{_escaped(name, chr(39))}' AS store"
    words = as_floats(store, "w")
    columns = [*_columns(connected, f"sentences_{number}")]
    plain = [f"s.{column}" for column in columns[: len(columns) - len(kept)]]
    fields = [
        f"CAST(s.{_quoted(column)} AS {types[field]}) AS {_quoted(field)}"
        for field, (column, _) in kept.items()
    ]
    of_sentence = [f"s.{column}" for column in _OF_SENTENCE]
    contexts = [f"{how} AS {context}" for context, how in _CONTEXTS.items()]
    joined = ", ".join([own, words, *of_sentence, *fields, *contexts])
    from_words, from_sentences = f"{_SCANS}.words_{number} w", f"{_SCANS}.sentences_{number} s"
    return (
        f"SELECT {own}, {words} FROM {from_words}",
        f"SELECT {', '.join([own, *plain, *fields])} FROM {from_sentences}",
        f"SELECT {joined} FROM {from_words} JOIN {from_sentences} USING (sentence_id)",
    )


def _columns(connected: "duckdb.DuckDBPyConnection", view: str) -> dict[str, str]:
    """Return the columns of a scan by their names in DuckDB, with their types."""
    return {row[0]: row[1] for row in connected.execute(f"DESCRIBE {_SCANS}.{view}").fetchall()}


def _kept(connected: "duckdb.DuckDBPyConnection", store: Store, number: int) -> dict[str, tuple[str, str]]:
    """Return the fields that a store keeps by their names in the views, each with its column and type.

    A field that has the name of another column of the views gets an underscore.
    """
    sentences = [*_columns(connected, f"sentences_{number}").items()]
    n_plain = len(sentences) - len(kept_columns(store.manifest.reading))
    others = ["store", *_CONTEXTS, *_columns(connected, f"words_{number}"), *dict(sentences[:n_plain])]
    taken = {name.casefold() for name in others}  # DuckDB's names have no case
    fields: dict[str, tuple[str, str]] = {}
    for column, kind in sentences[n_plain:]:
        name = column
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        fields[name] = column, kind
    return fields


def _common_types(kept: Sequence[dict[str, tuple[str, str]]], names: Sequence[str]) -> dict[str, str]:
    """Return one type for each field; where stores differ, numbers become DOUBLE, all else VARCHAR."""
    types: dict[str, str] = {}
    for field in dict.fromkeys(field for fields in kept for field in fields):
        of_store = {
            name: fields[field][1] for name, fields in zip(names, kept, strict=True) if field in fields
        }
        kinds = set(of_store.values())
        if len(kinds) == 1:
            types[field] = kinds.pop()
            continue
        types[field] = "DOUBLE" if kinds == {"BIGINT", "DOUBLE"} else "VARCHAR"
        told = ", ".join(f"{kind} in {name}" for name, kind in of_store.items())
        log.warning("field %s is %s: it is read as %s", field, told, types[field])
    return types


def _quoted(name: str) -> str:
    return f'"{_escaped(name, chr(34))}"'


def _escaped(text: str, quote: str) -> str:
    return text.replace(quote, quote * 2)
