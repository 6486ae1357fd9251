"""The commands run and plan: from text to a store, and what that will come to."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import AsJson, Quiet
from ctxbatch.errors import resumable
from ctxbatch.run_config import RunConfig

if TYPE_CHECKING:
    from ctxbatch.execution.estimate import Estimate
    from ctxbatch.execution.run import RunReport

Inputs = Annotated[
    str,
    Parameter(
        required=True,
        help="Files, folders and globs, here or at s3:// and gs://. Formats: text, JSON lines, CSV, TSV (all "
        "of them also compressed), Parquet, Arrow.",
    ),
]
NewOut = Annotated[
    str,
    Parameter(
        name=["--out", "-o"],
        metavar="OUT",
        help="Folder of the store, or its URL, such as s3://bucket/store; created, or resumed.",
    ),
]
Options = Annotated[RunConfig, Parameter(name="*")]
_DEFAULTS = RunConfig()


def run(*inputs: Inputs, out: NewOut, options: Options = _DEFAULTS, quiet: Quiet = False) -> int:
    """Turn text into a store of word vectors, or finish an interrupted run.

    To resume, run the same command again.
    """
    with resumable("what is committed is kept; to resume, run the same command again"):
        report = ctxbatch.run(inputs, out, options, quiet=quiet)
    if not quiet:
        _tell_of_store(report)
    _tell_of_losses(report)
    return 0 if report.clean else 3


def plan(*inputs: Inputs, out: NewOut, options: Options = _DEFAULTS, as_json: AsJson = False) -> None:
    """Estimate the words, time and disk space of a run from a sample. Writes nothing.

    Takes the options of `ctxbatch run`.
    """
    found = ctxbatch.estimate(inputs, out, options)
    terminal.show([terminal.json_line(found.as_dict())] if as_json else _estimate_lines(found, out))


def _estimate_lines(found: "Estimate", out: str) -> Iterator[str]:
    compressed = f" ({found.sources_compressed:,} compressed)" if found.sources_compressed else ""
    about = "" if found.sampled == 1 else "about "
    yield f"sources    {found.sources:,}{compressed}, {about}{terminal.readable_size(found.bytes)} of input"
    yield f"sample     {found.sampled:.1%} of it"
    yield f"records    {about}{found.records:,}"
    if found.rejected:
        yield f"rejected   {about}{found.rejected:,} of them, such as {found.first_reject}"
    yield f"sentences  {about}{found.sentences:,}"
    words = "" if found.words is None else f"{found.words:,} in "
    yield f"words      {about}{words}{found.rows:,} rows"
    size, index_size = map(terminal.readable_size, (found.bytes_on_disk, found.bytes_of_index))
    yield f"on disk    about {size} in {found.shards:,} shards, index {index_size}"
    if found.seconds is None:
        yield f"time       unknown: no run with this model and device is remembered ({found.tokens:,} tokens)"
    else:
        rate = f"{found.tokens:,} tokens at {found.tokens_per_second:,.0f} tokens/s as in an earlier run"
        yield f"time       about {terminal.readable_time(found.seconds)} ({rate})"
    if found.bytes_free is None:
        return
    short = "" if found.fits else ": too little, `ctxbatch run` would refuse to begin"
    yield f"free disk  {terminal.readable_size(found.bytes_free)} for {out}{short}"


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
        f"{totals['sentences']:,} sentences, {terminal.readable_size(totals['bytes_written'])}, "
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
