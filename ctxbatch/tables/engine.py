"""Runs SQL in a DuckDB that reads nothing but the views it is given, writes nothing, and stops at once.

DuckDB's own settings lock it: no files, no network, no extensions, no variables of Python, and no change of
these settings. A query may be anybody's text.
"""

import re
import tempfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from ctxbatch.cores import count_cores
from ctxbatch.errors import SHOWN_REASON, CtxbatchError, InputError, ResourceError

if TYPE_CHECKING:
    import duckdb

_Result = TypeVar("_Result")
# How much memory DuckDB may take, in bytes, unless told otherwise.
MEMORY = 1 << 30
_LOCKS = ("enable_external_access=false", "lock_configuration=true")
# At the start of a message, what DuckDB could not get from this machine.
_RESOURCES = ("Out of Memory Error", "IO Error")
_ROWS_AT_ONCE = 8_192
_INTERRUPT_EVERY = 0.02  # seconds: an interrupt that comes before the query starts is lost


class QueryError(InputError):
    """DuckDB refuses a query; ``place`` are the lines that show where, as DuckDB draws them."""

    def __init__(self, message: str, place: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.place = place


@contextmanager
def connection(memory: int = MEMORY) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Yield a DuckDB of at most ``memory`` bytes, which spills to a temporary folder until the block ends.

    Raises:
        InputError: DuckDB is not installed.
        ResourceError: There is no room for the temporary folder.
    """
    try:
        with ThreadPoolExecutor(1) as thread:  # a signal during this import would crash the program
            thread.submit(import_module, "duckdb").result()
        import duckdb
    except ImportError:
        raise InputError("SQL needs DuckDB: pip install 'ctxbatch[analytics]'") from None
    with tempfile.TemporaryDirectory(prefix="ctxbatch-", ignore_cleanup_errors=True) as folder:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory}B",
            "threads": count_cores(),
            "temp_directory": folder,
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
        }
        connected = duckdb.connect(":memory:", config=config)
        try:
            yield connected
        finally:
            connected.close()


def interruptible(connected: "duckdb.DuckDBPyConnection", work: Callable[[], _Result]) -> _Result:
    """Return what DuckDB does in ``work``; a signal interrupts it.

    DuckDB runs in a thread of its own: in that of the signals' handler it would hide what that raises.

    Raises:
        QueryError: DuckDB refuses it.
        ResourceError: DuckDB needs more memory or disk than there is.
    """
    with ThreadPoolExecutor(1) as thread:
        return _interruptible(connected, thread, work)


def lock(connected: "duckdb.DuckDBPyConnection") -> None:
    """Refuse files, networks, extensions and changes of settings from now on."""
    for setting in _LOCKS:
        connected.execute(f"SET {setting}")


def batches(connected: "duckdb.DuckDBPyConnection", query: str) -> Generator[pa.RecordBatch, None, None]:
    """Yield the rows that a query selects, as they are found; at least one batch, which tells the columns.

    Whoever does not read to the end closes the generator before the connection.

    Raises:
        QueryError: The query is not a single SELECT, or DuckDB refuses it.
        ResourceError: The query needs more memory or disk than there is.
    """
    with ThreadPoolExecutor(1) as thread:

        def run(work: Callable[[], _Result]) -> _Result:
            return _interruptible(connected, thread, work)

        _check_single(run(lambda: connected.extract_statements(query)))
        reader = run(lambda: _started(connected, query))
        try:
            nothing = [pa.nulls(0, kind) for kind in reader.schema.types]
            yield pa.RecordBatch.from_arrays(nothing, schema=reader.schema)
            while (batch := run(lambda: next(reader, None))) is not None:
                yield batch
        finally:
            reader.close()  # a reader that outlives its connection crashes the program


def _started(connected: "duckdb.DuckDBPyConnection", query: str) -> pa.RecordBatchReader:
    import duckdb

    try:
        return connected.sql(query).to_arrow_reader(_ROWS_AT_ONCE)
    except duckdb.ProgrammingError:
        connected.execute(query)  # which fails alike, and says where; but its rows would be copied once more
        raise


def _check_single(statements: "list[duckdb.Statement]") -> None:
    kinds = [statement.type.name for statement in statements]
    if len(kinds) != 1:
        said = "there is none" if not kinds else f"these are {len(kinds)}"
        raise QueryError(f"give one SELECT: {said}")
    if kinds[0] not in ("SELECT", "EXPLAIN"):
        raise QueryError(f"give a SELECT, DESCRIBE, SHOW or EXPLAIN: tables are only read, not {kinds[0]}")


def _interruptible(
    connected: "duckdb.DuckDBPyConnection", thread: ThreadPoolExecutor, work: Callable[[], _Result]
) -> _Result:
    future = thread.submit(work)
    try:
        return future.result()
    except Exception as error:
        known = _as_error(error)
        if known is None:
            raise
        raise known from error
    finally:
        while not future.done():
            connected.interrupt()
            wait([future], _INTERRUPT_EVERY)


def _as_error(error: Exception) -> CtxbatchError | None:
    """Return an error of DuckDB, or of Arrow for DuckDB, as one of the project's; ``None`` for any other."""
    import duckdb

    from_arrow = isinstance(error, pa.ArrowException | OSError) and getattr(error, "errno", None) is None
    if not isinstance(error, duckdb.Error) and not from_arrow:
        return None
    message = str(error).strip()
    said, _, place = message.partition("\nLINE ")
    said = " ".join(said.split())[: 2 * SHOWN_REASON]
    if said.startswith(_RESOURCES[0]):
        why = said.partition(" Possible solutions")[0]
        return ResourceError(f"the query needs more memory: give --memory more, or select less ({why})")
    if said.startswith(_RESOURCES[1]):
        return ResourceError(f"{said}: make room and run again")
    lines = f"LINE {place}".split("\n")[:2] if place else []
    return QueryError(re.sub(r"^(TransactionContext )?Error: ", "", said), tuple(lines))
