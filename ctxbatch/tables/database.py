"""Opens stores as a DuckDB database that can be read and nothing else: no files, no settings, no extensions.

Vectors are widened to float32 as they are read, and read only where a query names them.
"""

import contextlib
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds

from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError, one_line
from ctxbatch.store.int8_vectors import scale_of
from ctxbatch.store.reader import Store
from ctxbatch.store.scanner import as_floats

if TYPE_CHECKING:
    import duckdb

DEFAULT_MEMORY = 1 << 30
_BATCH_ROWS = 10_000
_Found = TypeVar("_Found")
# Of a sentence, what a row of `occurrences` has besides its word.
_OF_SENTENCE = ("source", "record", "byte_start", "doc_id", "text")
# What else it has that no kept field is.
_NOT_JOINED = ("sentence_id", "char_start", "n_words", "n_pieces")


class _Widened(ds.Dataset):  # type: ignore[misc]  # pyarrow has no types
    """A dataset whose half floats are read as float32, since DuckDB cannot read them from Arrow.

    DuckDB asks any dataset for a scanner over the columns and the rows that a query needs.
    """

    def __init__(self, dataset: ds.Dataset) -> None:
        self._dataset = dataset
        names = {name: name for name in dataset.schema.names}
        self._schema = dataset.scanner(columns=as_floats(dataset.schema, names)).projected_schema

    @property
    def schema(self) -> pa.Schema:
        """The columns as they are read."""
        return self._schema

    def scanner(self, columns: Sequence[str] | None = None, **options: Any) -> Any:  # noqa: ANN401 (as pyarrow has it)
        """Return a scanner over some columns."""
        names = {name: name for name in (self._schema.names if columns is None else columns)}
        return self._dataset.scanner(columns=as_floats(self._dataset.schema, names), **options)


class Database:
    """Stores as tables, for queries of DuckDB's SQL.

    The views are ``words``, ``sentences`` and ``occurrences``, which joins both. All have the column
    ``store``, since the ids of rows and sentences repeat from store to store.

    Args:
        stores: The stores, of which none has been closed.
        memory: What DuckDB may take, in bytes; beyond it, it writes to ``spill``.
        spill: A folder for what does not fit into memory.

    Raises:
        InputError: DuckDB is not installed.
    """

    def __init__(self, stores: Sequence[Store], memory: int, spill: Path) -> None:
        places = [store.path.resolve() for store in stores]
        if twice := next(
            (store.path for store, at in zip(stores, places, strict=True) if places.count(at) > 1), None
        ):
            raise InputError(f"{twice} is given twice: give every store once")
        self._connection = _connect(memory, spill)
        run = self._connection.execute
        taken = {"store", "left_context", "right_context", *_OF_SENTENCE, *_NOT_JOINED}
        taken |= {name for store in stores for name in store.words.schema.names}
        selects: dict[str, list[str]] = {"words": [], "sentences": []}
        for number, (name, store) in enumerate(zip(names_of(stores), stores, strict=True)):
            for table, dataset in (("words", store.words), ("sentences", store.sentences)):
                self._connection.register(f"_{table}_{number}", _Widened(dataset))
                read = _columns_of_words(store) if table == "words" else _columns_of_sentences(store, taken)
                select = f"SELECT {_text(name)} AS store, {read} FROM _{table}_{number}"  # noqa: S608 (names are quoted)
                selects[table].append(select)
        for table, each in selects.items():
            run(f"CREATE TEMP VIEW {table} AS {' UNION ALL BY NAME '.join(each)}")
        kept = {_renamed(name, taken) for store in stores for name in _fields_kept(store)}
        columns = [f"sentences.{_name(each)}" for each in (*_OF_SENTENCE, *sorted(kept))]
        columns += ["substring(text, 1, words.char_start) AS left_context"]
        columns += ["substring(text, words.char_end + 1) AS right_context"]
        both = "words JOIN sentences USING (store, sentence_id)"
        run(f"CREATE TEMP VIEW occurrences AS SELECT words.*, {', '.join(columns)} FROM {both}")  # noqa: S608 (names are quoted)
        run("SET enable_external_access = false")
        run("SET lock_configuration = true")

    def query(self, sql: str) -> "pa.RecordBatchReader":
        """Run one query, and return a reader of its result.

        Raises:
            InputError: It is not one query that only reads, or DuckDB finds a mistake.
        """
        import duckdb

        try:
            statements = self._connection.extract_statements(sql)
            reads = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
            if len(statements) != 1 or statements[0].type not in reads:
                raise InputError(_not_one_select(statements))
            return self.waiting(lambda: self._connection.sql(sql).to_arrow_reader(_BATCH_ROWS))
        except duckdb.Error as error:
            raise InputError(self._explained(sql, error)) from None

    def _explained(self, sql: str, error: "duckdb.Error") -> str:
        """Return what DuckDB says, with the place in the query, which it tells only when asked so."""
        import duckdb

        try:
            self._connection.execute(f"EXPLAIN {sql}")
        except duckdb.Error as again:
            place = next((line for line in str(again).splitlines() if line.startswith("LINE ")), "")
            if place:
                return _first(f"{str(error).splitlines()[0]}\n{place.replace('EXPLAIN ', '', 1)}")
        return _first(str(error))

    def batches(self, reader: "pa.RecordBatchReader") -> Iterator[pa.RecordBatch]:
        """Yield the batches of a result.

        Raises:
            InputError: DuckDB finds a mistake, such as a text that is no number.
        """
        while True:
            try:
                batch = self.waiting(reader.read_next_batch)
            except StopIteration:
                return
            except (OSError, pa.ArrowInvalid) as error:  # what DuckDB says in the middle of a result
                raise InputError(_first(str(error))) from None
            yield batch

    def waiting(self, run: Callable[[], _Found]) -> _Found:
        """Return what a function of DuckDB returns, run in a thread: a signal would wait for its end."""
        found: list[_Found] = []
        failed: list[BaseException] = []

        done = threading.Event()  # Python takes a thread for ended if a signal comes while it is joined

        def work() -> None:
            try:
                found.append(run())
            except BaseException as error:  # raised below
                failed.append(error)
            finally:
                done.set()

        threading.Thread(target=work, name="query", daemon=True).start()
        try:
            while not done.wait(0.1):
                pass
        except BaseException:
            self._connection.interrupt()
            done.wait()
            raise
        if failed:
            raise failed[0]
        return found[0]

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


@contextlib.contextmanager
def open_database(stores: Sequence[Store], memory: int = DEFAULT_MEMORY) -> Iterator[Database]:
    """Yield stores as a database, which spills into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ctxbatch-sql-") as spill:
        database = Database(stores, memory, Path(spill))
        try:
            yield database
        finally:
            database.close()


def _fields_kept(store: Store) -> list[str]:
    return [name for name in store.sentences.schema.names if name not in (*_OF_SENTENCE, *_NOT_JOINED)]


def _renamed(name: str, taken: Collection[str]) -> str:
    """Return the name of a field that was kept; one that a column has too gets an underscore."""
    while name in taken:
        name += "_"
    return name


def _columns_of_sentences(store: Store, taken: Collection[str]) -> str:
    clashing = [name for name in _fields_kept(store) if name in taken]
    renamed = ", ".join(f"{_name(name)} AS {_name(_renamed(name, taken))}" for name in clashing)
    return f"* RENAME ({renamed})" if renamed else "*"


def _columns_of_words(store: Store) -> str:
    """Return the columns of a store's words; int8 vectors that are read are multiplied by their scales."""
    if store.config.dtype != "int8":
        return "*"
    kind = f"FLOAT[{store.config.hidden_size}]"
    both = [(_name(name), _name(scale_of(name))) for name in store.config.columns]
    floats = [
        f"CAST(list_transform(CAST({name} AS FLOAT[]), lambda x: x * {scale}) AS {kind}) AS {name}"
        for name, scale in both
    ]
    return f"* EXCLUDE ({', '.join(scale for _, scale in both)}) REPLACE ({', '.join(floats)})"


def _not_one_select(statements: "Sequence[duckdb.Statement]") -> str:
    if len(statements) != 1:
        return f"the query has {len(statements)} statements: give one"
    kind = str(statements[0].type).rpartition(".")[2]
    return f"the query is {kind}, but stores are only read: give a SELECT"


def names_of(stores: Sequence[Store]) -> list[str]:
    """Return a name for each store: that of its folder, with as many parents as make it distinct."""
    parts = [store.path.resolve().parts for store in stores]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*each[-depth:])) for each in parts]
        if max(Counter(names).values()) == 1:
            break
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]


def _first(text: str) -> str:
    """Return DuckDB's first line, and the place in the query, on one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    place = next((line for line in lines if line.startswith("LINE ")), None)
    said = lines[0] if lines else "DuckDB gives no reason"
    return one_line(said if place is None else f"{said} ({place.strip()})")


def _connect(memory: int, spill: Path) -> "duckdb.DuckDBPyConnection":
    try:
        import duckdb
    except ModuleNotFoundError:
        raise InputError(
            "SQL needs duckdb, which is not installed: pip install 'ctxbatch[analytics]'"
        ) from None
    config: dict[str, Any] = {
        "memory_limit": f"{memory}B",
        "temp_directory": str(spill),
        "threads": count_cores(),
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    return duckdb.connect(":memory:", config=config)


def _name(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'"{quoted}"'


def _text(text: str) -> str:
    quoted = text.replace("'", "''")
    return f"'{quoted}'"
