"""The command line: one function per command that parses, calls and prints.

Results go to standard output, progress and messages to standard error. Errors of the project become one
line and an exit status; anything else keeps its traceback.
"""

import functools
import inspect
import io
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer import Argument, Option

import ctxbatch
from ctxbatch import config
from ctxbatch.config import RunConfig
from ctxbatch.errors import CtxbatchError, InputError, Stopped

if TYPE_CHECKING:
    from ctxbatch.estimate import Estimate
    from ctxbatch.runner import RunReport

log = logging.getLogger("ctxbatch")
app = typer.Typer(
    name="ctxbatch",
    help="Turn text into a searchable store of word-in-context vectors.",
    epilog="Exit status: 0 done, 2 wrong command or input, 3 something rejected, damaged or missing, "
    "4 stopped by disk, permissions or lock and resumable, 130 or 143 after a signal.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

OutFolder = Annotated[Path, Argument(metavar="OUT", help="Folder of the store.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON for machines.")]
VectorKind = Annotated[
    str | None,
    Option(
        "--on",
        metavar="KIND",
        help="Vectors: shift, contextual or static. [default: the first of these that is stored]",
    ),
]


def _choices(alias: Any) -> str:  # noqa: ANN401 (a Literal)
    return "|".join(get_args(alias))


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print(ctxbatch.__version__)
        raise typer.Exit


Inputs = Annotated[
    list[str],
    Argument(
        metavar="INPUT...",
        help="Files, folders and globs: text, JSON lines, CSV, TSV (also compressed), Parquet, Arrow.",
        show_default=False,
    ),
]
NewOutFolder = Annotated[
    Path,
    Option("-o", "--out", metavar="OUT", help="Folder of the store; made, or resumed.", show_default=False),
]
Quiet = Annotated[bool, Option("-q", "--quiet", help="Show no progress and no summary.")]


def _run_options(
    model: Annotated[
        str,
        Option(
            metavar="NAME",
            help="A local folder, a model that an installed package carries, or a name on the hub.",
        ),
    ] = config.DEFAULT_MODEL,
    revision: Annotated[
        str | None, Option(metavar="R", help="Branch, tag or commit of the model on the hub.")
    ] = None,
    layers: Annotated[
        str | None,
        Option(
            metavar="N[,N...]",
            help="Layers from 1 up, or from -1 (the last) down; the first named is the default for search. "
            "[default: -1]",
        ),
    ] = None,
    vectors: Annotated[str, Option(metavar="KIND[,KIND...]", help="What to store.")] = ",".join(
        config.VECTOR_KINDS
    ),
    static: Annotated[
        str | None,
        Option(
            metavar=_choices(config.StaticKind),
            help="Static vectors: the embedding layer's output, or the raw row of the embedding matrix. "
            "[default: embeddings]",
        ),
    ] = None,
    shift: Annotated[
        str | None,
        Option(
            metavar=_choices(config.ShiftKind),
            help="How contextual is compared with static. [default: log_ratio]",
        ),
    ] = None,
    floor: Annotated[
        float | None,
        Option(help=f"log_ratio: values smaller than this count as zero. [default: {config.DEFAULT_FLOOR}]"),
    ] = None,
    delta: Annotated[
        float | None,
        Option(help=f"asinh: where it turns from linear to logarithmic. [default: {config.DEFAULT_DELTA}]"),
    ] = None,
    pool: Annotated[
        str,
        Option(
            metavar=_choices(config.Pooling),
            help="Wordpieces of a word: their mean, the first, or a row for each.",
        ),
    ] = "mean",
    keep_punctuation: Annotated[
        bool, Option("--keep-punctuation", help="Store words without a letter or digit too.")
    ] = False,
    record: Annotated[
        str, Option(metavar=_choices(config.RecordKind), help="What a record of a text file is.")
    ] = "line",
    split: Annotated[
        str,
        Option(metavar=_choices(config.SplitKind), help="Split records into sentences, or take them whole."),
    ] = "sentence",
    lang: Annotated[
        str | None, Option(metavar="CODE", help="Language of the text, for sentence splitting. [default: en]")
    ] = None,
    format: Annotated[  # noqa: A002 (named as its option)
        str | None,
        Option(
            "--format",
            metavar=_choices(config.FormatName),
            help="Format of all inputs, whatever their suffixes say. [default: by suffix]",
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Field or column with the text; nested ones with dots, as meta.body. [default: text]",
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        Option(metavar="NAME", help="Field or column with the document's id. [default: id, if there is one]"),
    ] = None,
    encoding: Annotated[
        str | None,
        Option(metavar="NAME", help="Encoding of text without a byte order mark. [default: utf-8]"),
    ] = None,
    errors: Annotated[
        str,
        Option(
            metavar=_choices(config.DecodeErrors),
            help="Bytes that are no text: reject their record, or replace them by U+FFFD.",
        ),
    ] = "strict",
    max_rejects: Annotated[
        str | None,
        Option(metavar="N|SHARE", help="Stop when more records than this are rejected, as 100 or 1%."),
    ] = None,
    limit: Annotated[int | None, Option(metavar="RECORDS", help="Stop after this many records.")] = None,
    dtype: Annotated[
        str, Option(metavar=_choices(config.StoredType), help="Type of the stored vectors.")
    ] = "float16",
    precision: Annotated[
        str,
        Option(
            metavar=_choices(config.Precision),
            help="Arithmetic of the model; auto is bf16 where the device multiplies it natively, else fp32.",
        ),
    ] = "auto",
    workers: Annotated[
        str, Option(metavar="N", help="Worker processes; auto is one a GPU, or one a CPU core.")
    ] = "auto",
    shard_size: Annotated[
        str,
        Option(
            metavar="BYTES",
            help="Input per shard, as 4MB or in bytes; auto depends on the size of the corpus.",
        ),
    ] = "auto",
    tokens_per_batch: Annotated[
        str,
        Option(metavar="N", help="Tokens of a batch, padding included; auto depends on the kind of device."),
    ] = "auto",
    no_index: Annotated[bool, Option("--no-index", help="Do not build the search index at the end.")] = False,
    force: Annotated[
        bool, Option("--force", help="Begin even if the disk seems too small for the result.")
    ] = False,
) -> RunConfig:
    return RunConfig(
        model=model,
        revision=revision,
        layers=None if layers is None else _numbers("--layers", layers),
        vectors=tuple(vectors.split(",")),  # type: ignore[arg-type]  # RunConfig checks all choices
        static=static,  # type: ignore[arg-type]
        shift=shift,  # type: ignore[arg-type]
        floor=floor,
        delta=delta,
        pool=pool,  # type: ignore[arg-type]
        keep_punctuation=keep_punctuation,
        record=record,  # type: ignore[arg-type]
        split=split,  # type: ignore[arg-type]
        lang=lang,
        text_field=text_field,
        id_field=id_field,
        format=format,  # type: ignore[arg-type]
        encoding=encoding,
        errors=errors,  # type: ignore[arg-type]
        max_rejects=_max_rejects(max_rejects),
        limit=limit,
        dtype=dtype,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        workers=_auto("--workers", workers),
        shard_size=_size("--shard-size", shard_size),
        tokens_per_batch=_auto("--tokens-per-batch", tokens_per_batch),
        index=not no_index,
        force=force,
    )


def _takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above, and their `RunConfig` to the command, as ``options``."""
    taken = inspect.signature(_run_options).parameters
    first: list[inspect.Parameter] = []
    last: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "options":
            (first if parameter.default is parameter.empty else last).append(parameter)

    @functools.wraps(command)
    def with_options(**given: Any) -> None:  # noqa: ANN401 (whatever the command line says)
        options = _run_options(**{name: given.pop(name) for name in taken})
        command(options=options, **given)

    parameters = [*first, *taken.values(), *last]
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    with_options.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


@app.command()
@_takes_run_options
def run(inputs: Inputs, out: NewOutFolder, options: RunConfig, quiet: Quiet = False) -> None:
    """Turn text into a store of word vectors, or finish one that was interrupted.

    The same command again goes on where the last one stopped.
    """
    report = ctxbatch.run(inputs, out, options, quiet=quiet)
    if not quiet:
        _print_report(report)
    if not report.clean:
        raise typer.Exit(3)


@app.command()
@_takes_run_options
def plan(inputs: Inputs, out: NewOutFolder, options: RunConfig, as_json: AsJson = False) -> None:
    """Say what a run would come to, from a sample: words, time, room on the disk. Writes nothing.

    Takes the options of `ctxbatch run`.
    """
    found = ctxbatch.estimate(inputs, out, options)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        _print_lines(_estimate_lines(found, out))


def _estimate_lines(found: "Estimate", out: Path) -> Iterator[str]:
    compressed = f" ({found.sources_compressed:,} compressed)" if found.sources_compressed else ""
    about = "" if found.sampled == 1 and not compressed else "about "
    yield f"sources    {found.sources:,}{compressed}, {about}{found.bytes / 1e6:,.1f} MB of input"
    yield f"sample     {found.sampled:.1%} of it"
    yield f"records    {about}{found.records:,}"
    yield f"sentences  {about}{found.sentences:,}"
    yield f"words      {about}{found.words:,} in {found.rows:,} rows"
    size, index_size = found.bytes_on_disk / 1e6, found.bytes_of_index / 1e6
    yield f"on disk    about {size:,.1f} MB in {found.shards:,} shards, index {index_size:,.1f} MB"
    if found.seconds is None:
        yield f"time       unknown: no run with this model and device is remembered ({found.tokens:,} tokens)"
    else:
        rate = f"{found.tokens:,} tokens at {found.tokens_per_second:,.0f} tokens/s as in the last run"
        yield f"time       about {_duration(found.seconds)} ({rate})"
    short = "" if found.fits else ": too little, `ctxbatch run` would refuse to begin"
    yield f"free disk  {found.bytes_free / 1e6:,.1f} MB for {out}{short}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _print_report(report: "RunReport") -> None:
    totals = report.totals
    say = sys.stderr.write
    if not report.n_run and not report.given_up:
        say(f"{report.out} was finished before: nothing to do\n")
    say(
        f"{report.out}: {totals['rows']:,} rows of {totals['words']:,} words in "
        f"{totals['sentences']:,} sentences, {totals['bytes_written'] / 1e6:,.1f} MB, "
        f"{totals['tokens_per_second']:,.0f} tokens/s\n"
    )
    if report.index is not None:
        say(f"{report.index}\n")
    if totals["rejected"] or totals["rejected_words"]:
        say(
            f"rejected: {totals['rejected']:,} records, {totals['rejected_words']:,} words; "
            f"see {report.out}/shards/*/rejects.jsonl\n"
        )
    if report.given_up:
        shards = ", ".join(f"{shard:06d}" for shard in report.given_up)
        say(f"given up after three tries: shards {shards}; see {report.out}/run.log, then run again\n")


@app.command()
def search(
    outs: Annotated[
        list[Path], Argument(metavar="OUT...", help="Folders of one or more stores of one configuration.")
    ],
    query: Annotated[
        str,
        Argument(
            metavar="QUERY",
            help='A sentence with one word marked: "I will send her a [card]."',
            show_default=False,
        ),
    ],
    k: Annotated[int, Option("-k", metavar="N", help="How many hits.")] = 10,
    on: VectorKind = None,
    layer: Annotated[int | None, Option(metavar="N", help="Layer. [default: the first of the run]")] = None,
    same_word: Annotated[bool, Option("--same-word", help="Only occurrences of the marked word.")] = False,
    other_words: Annotated[bool, Option("--other-words", help="Only occurrences of other words.")] = False,
    word: Annotated[str | None, Option(metavar="W", help="Only occurrences of this word.")] = None,
    as_json: AsJson = False,
) -> None:
    r"""Find the nearest contexts of a word used in a sentence.

    A query that starts with - goes after --; \[ is a literal bracket.
    """
    if same_word + other_words + (word is not None) > 1:
        raise InputError("--same-word, --other-words and --word exclude each other: give one")
    from ctxbatch.search import keyword_in_context, parse_query

    parse_query(query)  # a wrong query is told at once, before the model is loaded
    searcher = ctxbatch.searcher(outs, on, layer)
    filtered = same_word or other_words or word is not None
    for store in () if filtered else searcher.worth_indexing:
        log.warning(
            "no index on %s: all rows are read; `ctxbatch index %s` makes it fast",
            searcher.column,
            store.path,
        )
    hits = searcher.search(query, k, "same" if same_word else "other" if other_words else "any", word)
    if as_json:
        _print_lines(json.dumps(hit.as_dict(), ensure_ascii=False) for hit in hits)
    elif hits:
        _print_lines(keyword_in_context(hits, shutil.get_terminal_size((100, 24)).columns))
    else:
        log.warning("no row of the store matches")


@app.command()
def index(
    out: OutFolder,
    on: VectorKind = None,
    layer: Annotated[int | None, Option(metavar="N", help="Layer. [default: the first of the run]")] = None,
) -> None:
    """Build the search index on one kind of vector."""
    from ctxbatch.index import build
    from ctxbatch.layout import locked

    store = ctxbatch.open(out)
    with locked(out):
        print(build(store, store.config.column(on, layer)))


@app.command()
def stats(out: OutFolder, as_json: AsJson = False) -> None:
    """Show what a store holds and what it took."""
    from ctxbatch.store import totals

    found = totals(ctxbatch.open(out))
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<18} {_readable(name, value)}")


def _readable(name: str, value: Any) -> str:  # noqa: ANN401 (JSON values)
    if name.endswith("bytes") or name.startswith("bytes"):
        return f"{value / 1e6:,.1f} MB"
    if name == "padding":
        return f"{value:.1%}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {'/'.join(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


@app.command()
def verify(
    out: OutFolder,
    sources: Annotated[
        bool, Option("--sources", help="Read the sources again too and compare them with the plan.")
    ] = False,
    repair: Annotated[
        bool, Option("--repair", help="Make damaged or missing shards and damaged indexes anew.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check every file of a store and what is in it; exit status 3 if something is damaged."""
    from ctxbatch.verify import find_damage, find_source_changes

    store = ctxbatch.open(out)
    if repair:
        from ctxbatch import runner

        repaired = runner.repair(out, quiet=quiet)
        _print_lines(f"repaired: {damage.text}" for damage in repaired)
        store = ctxbatch.open(out)
    found = [damage.text for damage in find_damage(out)]
    found += find_source_changes(out) if sources else []
    missing, planned = len(store.manifest.shards) - len(store.commits), len(store.manifest.shards)
    if missing:
        found.append(
            f"{out}: {missing} of {planned} shards are missing: run the same command, or add --repair"
        )
    _print_lines(found)
    if found:
        raise typer.Exit(3)
    print(f"{out}: {planned} of {planned} shards committed, all intact")


@app.command()
def status(out: OutFolder) -> None:
    """Show how far a run has come, and whether one is going on."""
    from ctxbatch.layout import is_locked

    store = ctxbatch.open(out)
    done, planned = len(store.commits), len(store.manifest.shards)
    state = (
        "running"
        if is_locked(out)
        else "finished"
        if store.complete
        else "interrupted: run the same command again"
    )
    size = sum(spec.size for spec in store.manifest.shards)
    size_done = sum(spec.size for spec in store.manifest.shards if spec.shard in store.commits)
    share = size_done / size if size else 1.0
    print(
        f"{out}: {state}; {done} of {planned} shards, {share:.0%} of {size / 1e6:,.1f} MB of text, "
        f"{store.n_rows:,} rows"
    )
    missing = [f"{spec.shard:06d}" for spec in store.manifest.shards if spec.shard not in store.commits]
    if missing:
        print(f"missing: {', '.join(missing[:20])}{' …' if len(missing) > 20 else ''}")


# --- parsing --------------------------------------------------------------------------------------


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} must be layer numbers such as -1 or 2,4,6") from None


def _auto(option: str, text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} {text!r} must be auto or a number") from None


def _max_rejects(text: str | None) -> int | float | None:
    """A count as an ``int``, a share as a ``float``."""
    if text is None:
        return None
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return float(text) if "." in text else int(text)
    except ValueError:
        raise InputError(f"--max-rejects {text!r} must be a count, as 100, or a share, as 1%") from None


def _size(option: str, text: str) -> int | None:
    units = {
        "kb": 1 << 10,
        "mb": 1 << 20,
        "gb": 1 << 30,
        "k": 1 << 10,
        "m": 1 << 20,
        "g": 1 << 30,
        "b": 1,
        "": 1,
    }
    lower = text.lower().replace(" ", "")
    if lower == "auto":
        return None
    number = lower.rstrip("kmgb")
    try:
        return int(float(number) * units[lower[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        raise InputError(f"{option} {text!r} must be auto or a size such as 4MB") from None


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


# --- the process ----------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; the entry point of the ``ctxbatch`` script."""
    _listen_to_signals()
    _log_to_stderr()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no Unicode
    try:
        status = _run_command()
    except CtxbatchError as error:
        status = _complain(str(error), error.exit_status)
    except BrokenPipeError:
        sys.stderr.close()  # the reader, head or less, has gone: nothing to say and nobody to tell
        status = 141
    except OSError as error:
        status = _complain(f"{error.filename or 'the disk'}: {error.strerror}: mend it and run again", 4)
    except Stopped as stopped:
        message = f"stopped by {signal.Signals(stopped.signum).name}"
        if sys.argv[1:2] == ["run"]:
            message += "; what is committed is kept, the same command goes on from there"
        status = _complain(message, stopped.exit_status)
    sys.exit(status)


def _run_command() -> int:
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"argument {os.fsencode(argument)!r} is not UTF-8: rename or retype it"
            ) from None
    command = typer.main.get_command(app)
    try:
        result = command.main(prog_name="ctxbatch", standalone_mode=False)
    except Exception as error:
        # typer brings its own click; its usage errors say what is wrong in format_message.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 2
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "ctxbatch"
        message = " ".join(error.format_message().split()).rstrip(".")
        marked = any(argument.startswith("-") and "[" in argument for argument in sys.argv[2:])
        hint = "; a query that starts with - goes after --" if where.endswith("search") and marked else ""
        return _complain(f"{message}{hint}; see `{where} --help`", 2)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"ctxbatch: {message}\n")
    return status


def _listen_to_signals() -> None:
    def stop(signum: int, _frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)  # one is enough; nothing may disturb the way out
        raise Stopped(signum)

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for each in handled:
        if signal.getsignal(each) is not signal.SIG_IGN:  # nohup
            signal.signal(each, stop)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("ctxbatch: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False


if __name__ == "__main__":
    main()
