"""The command line: one function per command that parses, calls and prints.

Results go to standard output, progress and messages to standard error. Errors of the project become one
line and an exit status; anything else keeps its traceback.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli import cache, guide, layers, search, senses
from ctxbatch.cli.options import (
    AsJson,
    Layer,
    StoredModel,
    StoreHere,
    StoreName,
    VectorKind,
    parse_size,
    takes_run_options,
)
from ctxbatch.config import Kept, RunConfig
from ctxbatch.errors import CtxbatchError, InputError, Stopped

if TYPE_CHECKING:
    from ctxbatch.execution.estimate import Estimate
    from ctxbatch.execution.run import RunReport

log = logging.getLogger("ctxbatch")
app = typer.Typer(
    name="ctxbatch",
    help="Turn text into a searchable store of word-in-context vectors.",
    epilog="Exit status: 0 done, 2 wrong command or input, 3 something rejected, damaged or missing, "
    "4 stopped by disk, network, permissions or lock and resumable, 130 or 143 after a signal.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        terminal.show([ctxbatch.__version__])
        raise typer.Exit


Inputs = Annotated[
    list[str],
    Argument(
        metavar="INPUT",
        help="Files, folders and globs, also s3:// and gs://: text, JSON lines, CSV, TSV (also compressed), "
        "Parquet, Arrow.",
        show_default=False,
    ),
]
NewOut = Annotated[
    str,
    Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Folder of the store, or its URL, as s3://bucket/store; made, or resumed.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, Option("-q", "--quiet", help="Show no progress and no summary.")]


@app.command()
@takes_run_options
def run(inputs: Inputs, out: NewOut, options: RunConfig, quiet: Quiet = False) -> None:
    """Turn text into a store of word vectors, or finish one that was interrupted.

    The same command again goes on where the last one stopped.
    """
    report = ctxbatch.run(inputs, out, options, quiet=quiet)
    if not quiet:
        _tell_of_store(report)
    _tell_of_losses(report)
    if not report.clean:
        raise typer.Exit(3)


@app.command()
@takes_run_options
def plan(inputs: Inputs, out: NewOut, options: RunConfig, as_json: AsJson = False) -> None:
    """Say what a run would come to, from a sample: words, time, room on the disk. Writes nothing.

    Takes the options of `ctxbatch run`.
    """
    found = ctxbatch.estimate(inputs, out, options)
    terminal.show([terminal.json_line(found.as_dict())] if as_json else _estimate_lines(found, out))


def _estimate_lines(found: "Estimate", out: str) -> Iterator[str]:
    compressed = f" ({found.sources_compressed:,} compressed)" if found.sources_compressed else ""
    about = "" if found.sampled == 1 else "about "
    yield f"sources    {found.sources:,}{compressed}, {about}{_size_of(found.bytes)} of input"
    yield f"sample     {found.sampled:.1%} of it"
    yield f"records    {about}{found.records:,}"
    if found.rejected:
        yield f"rejected   {about}{found.rejected:,} of them, such as {found.first_reject}"
    yield f"sentences  {about}{found.sentences:,}"
    words = "" if found.words is None else f"{found.words:,} in "
    yield f"words      {about}{words}{found.rows:,} rows"
    size, index_size = _size_of(found.bytes_on_disk), _size_of(found.bytes_of_index)
    yield f"on disk    about {size} in {found.shards:,} shards, index {index_size}"
    if found.seconds is None:
        yield f"time       unknown: no run with this model and device is remembered ({found.tokens:,} tokens)"
    else:
        rate = f"{found.tokens:,} tokens at {found.tokens_per_second:,.0f} tokens/s as in an earlier run"
        yield f"time       about {_duration(found.seconds)} ({rate})"
    if found.bytes_free is None:
        return
    short = "" if found.fits else ": too little, `ctxbatch run` would refuse to begin"
    yield f"free disk  {_size_of(found.bytes_free)} for {out}{short}"


def _size_of(n_bytes: float) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if n_bytes >= u), (1, "B"))
    return f"{n_bytes / unit:,.1f} {name}" if unit > 1 else f"{n_bytes:,.0f} B"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _tell_of_store(report: "RunReport") -> None:
    """Say what a run has come to."""
    totals, part = report.totals, report.part
    if part is not None:
        terminal.tell(f"{report.out}: {part}")
    elif not report.n_run and not report.given_up:
        terminal.tell(f"{report.out} was finished before: nothing to do")
    what = report.out if part is None else "this part"
    terminal.tell(
        f"{what}: {totals['rows']:,} rows {_of_words(totals['words'])}in "
        f"{totals['sentences']:,} sentences, {_size_of(totals['bytes_written'])}, "
        f"{totals['tokens_per_second']:,.0f} tokens/s"
    )
    if report.index is not None:
        terminal.tell(str(report.index))
    if isinstance(report.out, str) and not (report.given_up or report.missing):
        terminal.tell(f"to index and search it: `ctxbatch pull {report.out} OUT` copies it here")
    if part is not None and part.to_index is not None:
        terminal.tell(
            f"the store is complete: `ctxbatch index {report.out}` builds the index on {part.to_index}"
        )


def _tell_of_losses(report: "RunReport") -> None:
    """Say why a run ends with status 3, whether or not it is to be quiet."""
    from ctxbatch.store.manifest import rejects_of

    totals = report.totals
    if totals["rejected"] or totals["rejected_words"]:
        terminal.tell(
            f"rejected: {totals['rejected']:,} records, {totals['rejected_words']:,} words; "
            f"see {rejects_of(report.out)}"
        )
    if report.missing:
        shards = ", ".join(f"{shard:06d}" for shard in report.missing)
        terminal.tell(
            f"gone again, as if another run had been at work there: shards {shards}; run again, alone"
        )
    if report.given_up:
        shards = ", ".join(f"{shard:06d}" for shard in report.given_up)
        terminal.tell(f"given up: shards {shards}; see {report.log}, then run again")


def _of_words(n_words: int | None) -> str:
    return "" if n_words is None else f"of {n_words:,} words "


app.command()(search.search)
app.command()(layers.layers)
app.command()(senses.senses)


@app.command()
def index(
    out: StoreHere,
    on: VectorKind = None,
    layer: Layer = None,
    memory: Annotated[
        str, Option(metavar="BYTES", help="Memory that the index may take when it is searched, as 500MB.")
    ] = "4GB",
    recall: Annotated[
        float, Option(metavar="SHARE", help="Share of the ten nearest rows that a search has to find.")
    ] = 0.95,
    factory: Annotated[
        str | None,
        Option(metavar="STRING", help="A FAISS factory string to take instead, as IVF1024,Flat."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Build the search index on one kind of vector."""
    from ctxbatch.search.index import IndexOptions
    from ctxbatch.search.index_build import build
    from ctxbatch.store.locks import locked
    from ctxbatch.store.shard_writer import remove_leftovers

    size = parse_size("--memory", memory)
    options = IndexOptions(size, recall, factory)
    store = ctxbatch.open(out)
    store.check_is_here()
    column = store.config.column(on, layer)
    with locked(store.path):
        remove_leftovers(store.path)
        report = build(store, column, options, quiet=quiet)
    if not quiet:
        terminal.show([str(report)])


@app.command()
def pull(
    url: Annotated[str, Argument(metavar="URL", help="The store, as s3://bucket/store.")],
    out: Annotated[str, Argument(metavar="OUT", help="The folder to copy it to; made, or completed.")],
    quiet: Quiet = False,
) -> None:
    """Copy a store from object storage into a folder, to index and to search it there.

    The same command again copies what is missing; every file is compared with its checksum.
    """
    report = ctxbatch.pull(url, out, quiet=quiet)
    terminal.show(report.damaged)
    incomplete = report.held < report.planned
    if incomplete or not quiet:
        terminal.tell(str(report))
    if report.damaged:
        terminal.tell(f"`ctxbatch verify {url} --repair` rebuilds what is damaged")
    if incomplete:
        raise typer.Exit(3)


@app.command()
def stats(out: StoreName, as_json: AsJson = False) -> None:
    """Show what a store holds and what it took."""
    from ctxbatch.store.stats import totals

    store = ctxbatch.open(out)
    store.tell_damage()
    found = totals(store)
    lines = (f"{name.replace('_', ' '):<22} {_readable(name, value)}" for name, value in found.items())
    terminal.show([terminal.json_line(found)] if as_json else lines)


def _readable(name: str, value: Any) -> str:  # noqa: ANN401 (JSON values)
    if name.endswith("bytes") or name.startswith("bytes"):
        return _size_of(value)
    if name == "padding":
        return f"{value:.1%}"
    if name == "stages":
        return "; ".join(
            f"{stage} {each['busy']:,.1f} s at work, {each['starved'] + each['blocked']:,.1f} s waiting"
            for stage, each in value.items()
        )
    if name == "selection":
        return "all words" if value is None else str(Kept(**value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {'/'.join(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


@app.command()
def verify(
    out: StoreName,
    sources: Annotated[
        bool, Option("--sources", help="Read the sources again too and compare them with the plan.")
    ] = False,
    repair: Annotated[
        bool, Option("--repair", help="Rebuild damaged or missing shards and damaged indexes.")
    ] = False,
    model: StoredModel = None,
    quiet: Quiet = False,
) -> None:
    """Check every file of a store and what is in it; exit status 3 if something is damaged."""
    from ctxbatch.execution.repair import find_damage, repair_store
    from ctxbatch.store.verify import find_source_changes, tell_sources

    store = ctxbatch.open(out)
    out = str(store.location.out)
    if model is not None and not repair:
        raise InputError(f"--model {model} is only for --repair: add that, or leave it out")
    if repair:
        repaired = repair_store(out, model, quiet=quiet)
        if repaired.shards:
            terminal.show([f"rebuilt: shards {', '.join(f'{shard:06d}' for shard in repaired.shards)}"])
        if repaired.indexes:
            terminal.show([f"rebuilt: {', '.join(f'index/{name}' for name in repaired.indexes)}"])
        store = ctxbatch.open(out)
    damages = list(find_damage(out))
    found = [damage.text for damage in damages]
    if any(damage.shard is not None for damage in damages):
        found.append(f"`ctxbatch verify {out} --repair` rebuilds what is damaged from the sources")
    if sources:
        tell_sources(out, store.manifest.sources)
    if sources and (changes := list(find_source_changes(out))):
        found += [*changes, "restore the sources, or start a new run with another -o"]
    missing, planned = len(store.manifest.shards) - len(store.commits), len(store.manifest.shards)
    if missing:
        found.append(
            f"{out}: {missing} of {planned} shards are missing: run the same command, or add --repair"
        )
    terminal.show(found)
    if found:
        raise typer.Exit(3)
    terminal.show([f"{out}: {planned} of {planned} shards committed, all intact"])


@app.command()
def status(out: StoreName, as_json: AsJson = False) -> None:
    """Show how far a run has come, and whether one is going on."""
    from ctxbatch.execution.partition import shard_list
    from ctxbatch.store.location import location_of
    from ctxbatch.store.locks import claimed, is_locked

    running = is_locked(location_of(out).folder)
    store = ctxbatch.open(out)
    store.tell_damage()
    out = str(store.location.out)
    done, planned = len(store.commits), len(store.manifest.shards)
    state = "running" if running else "finished" if store.complete else "interrupted"
    size = sum(spec.size for spec in store.manifest.shards)
    size_done = sum(spec.size for spec in store.manifest.shards if spec.shard in store.commits)
    missing = [spec.shard for spec in store.manifest.shards if spec.shard not in store.commits]
    in_work = claimed(store.path, missing)
    if as_json:
        found = {"store": out, "state": state, "shards": done, "planned": planned, "bytes": size_done}
        found |= {"bytes_planned": size, "rows": store.n_rows, "missing": missing, "in_work": in_work}
        terminal.show([terminal.json_line(found)])
        return
    if state == "interrupted":
        state = "interrupted: run the same command again"
        if not store.location.is_here:
            state = "unfinished, and no run on this machine: if none is elsewhere, run the same command again"
    share = size_done / size if size else 1.0
    lines = [
        f"{out}: {state}; {done} of {planned} shards, {share:.0%} of {_size_of(size)} of text, "
        f"{store.n_rows:,} rows"
    ]
    if missing:
        lines.append(f"missing: {shard_list(missing)}")
    if in_work:
        lines.append(f"of these in work: {shard_list(in_work)}")
    terminal.show(lines)


app.command()(cache.cache)
app.command()(guide.guide)


# --- the process ----------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; the entry point of the ``ctxbatch`` script."""
    terminal.make_ready()
    _listen_to_signals()
    log.addHandler(terminal.stderr_handler())
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        status = _status_of_command()
    except Stopped as stopped:
        message = f"stopped by {signal.Signals(stopped.signum).name}"
        if sys.argv[1:2] in (["run"], ["pull"]):
            kept = "committed" if sys.argv[1] == "run" else "copied"
            message += f"; what is {kept} is kept, the same command goes on from there"
        _complain(message, stopped.exit_status)
        with contextlib.suppress(OSError, CtxbatchError):
            terminal.flush()
        os._exit(stopped.exit_status)  # a client of object storage would first try again for its minutes
    sys.exit(status)


def _status_of_command() -> int:
    """Run the command; its errors become a line and a status."""
    try:
        status = _run_command()
        terminal.flush()
    except BrokenPipeError:  # the reader, head or less, has gone: nobody is left to tell
        return 128 + signal.SIGPIPE
    except CtxbatchError as error:
        return _complain(str(error), error.exit_status)
    except MemoryError:
        return _complain("this machine is out of memory: free some, then run the same command again", 4)
    except OSError as error:
        return _complain(f"{error.filename or 'the disk'}: {error.strerror}: fix that and run again", 4)
    return status


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
        # Not its main(), which takes every broken pipe for its own and ends the process with status 1.
        with command.make_context("ctxbatch", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except Exception as error:
        # typer brings its own click; its usage errors say what is wrong in format_message.
        if not hasattr(error, "format_message"):
            raise
        return _explain_usage(error)
    return 0


def _explain_usage(error: Any) -> int:  # noqa: ANN401 (a class of typer's own click)
    """Say what is wrong with a command line."""
    if type(error).__name__ == "NoArgsIsHelpError":
        terminal.show(error.format_message().split("\n"))
        return 2
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "ctxbatch"
    message = " ".join(error.format_message().split()).rstrip(".")
    marked = any(argument.startswith("-") and "[" in argument for argument in sys.argv[2:])
    hint = "; a query that starts with - goes after --" if where.endswith("search") and marked else ""
    return _complain(f"{message}{hint}; see `{where} --help`", 2)


def _complain(message: str, status: int) -> int:
    terminal.tell(f"ctxbatch: {message}")
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


if __name__ == "__main__":
    main()
