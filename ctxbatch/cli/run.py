"""Runs the commands run and plan: make a store, or estimate what that takes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import AsJson, Quiet
from ctxbatch.errors import resumable
from ctxbatch.run_config import RunConfig

if TYPE_CHECKING:
    from ctxbatch.execution.estimate import Estimate
    from ctxbatch.execution.run import RunReport
    from ctxbatch.store.stats import RunTotals

Inputs = Annotated[
    str,
    Parameter(
        required=True,
        help="Files, folders and globs, here or at s3://, gs://, https:// and hf://. Formats: text, JSON "
        "lines, CSV, TSV (all of them also compressed), Parquet, Arrow.",
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
PlannedOut = Annotated[
    str | None,
    Parameter(
        name=["--out", "-o"],
        metavar="OUT",
        help="The store that the run would write, whose disk is checked for space.",
    ),
]


class TypedOptions(RunConfig):
    """The options of a command line, which names only those that were typed, whatever their values."""

    __slots__ = ()

    def __init__(self, *, explicit: frozenset[str] | None = None, **typed: Any) -> None:  # noqa: ANN401 (of any option)
        super().__init__(explicit=frozenset(typed) if explicit is None else explicit, **typed)


Options = Annotated[TypedOptions, Parameter(name="*")]
_DEFAULTS = TypedOptions()


def run(*inputs: Inputs, out: NewOut, options: Options = _DEFAULTS, quiet: Quiet = False) -> int:
    """Turn text into a store of word vectors, or finish an interrupted run.

    To resume, run the same command again.
    """
    with resumable("what is committed is kept; to resume, run the same command again"):
        report = ctxbatch.run(inputs, out, options, quiet=quiet)
    for line in _trouble(report) if quiet else (*_summary(report), *_trouble(report)):
        terminal.tell(line)
    if misfit := _misfit(report.totals):
        terminal.tell(misfit)
    if quiet and (rejected := _rejected(report)):
        terminal.tell(f"rejected  {rejected}")
    return 0 if report.clean else 3


def plan(
    *inputs: Inputs, out: PlannedOut = None, options: Options = _DEFAULTS, as_json: AsJson = False
) -> None:
    """Say how inputs are read, and estimate words, time and disk space from a sample. Writes nothing.

    Takes the options of `ctxbatch run`.
    """
    found = ctxbatch.estimate(inputs, out, options)
    terminal.show([terminal.json_line(found.as_dict())] if as_json else _estimate_lines(found, out))


def _estimate_lines(found: "Estimate", out: str | None) -> Iterator[str]:
    compressed = f" ({found.sources_compressed:,} compressed)" if found.sources_compressed else ""
    about = "" if found.sampled == 1 else "about "
    yield f"sources    {found.sources:,}{compressed}, {about}{terminal.readable_size(found.bytes)} of input"
    for kind in found.kinds:
        number = f"{kind.sources:,} " if kind.sources > 1 else ""
        size = terminal.readable_size(kind.bytes)
        yield f"           {number}{kind.suffix or 'without a suffix'}, {size}: {kind.how}"
    yield f"sample     {found.sampled:.1%} of it"
    yield f"records    {about}{found.records:,}"
    if found.rejected:
        yield f"rejected   {about}{found.rejected:,} of them (the first: {found.first_reject})"
    yield f"sentences  {about}{found.sentences:,}"
    words = "" if found.words is None else f"{found.words:,} in "
    yield f"words      {about}{words}{found.rows:,} rows"
    yield f"fit        {found.fit}"
    if found.control_tokens:
        yield f"           {about}{found.control_tokens:,} control tokens such as [SEP]: read as text"
    size, index_size = map(terminal.readable_size, (found.bytes_on_disk, found.bytes_of_index))
    yield f"on disk    about {size} in {found.shards:,} shards, index {index_size}"
    if found.bytes_of_shifts:
        saved = terminal.readable_size(found.bytes_of_shifts)
        yield f"           {saved} less with --vectors static,contextual (shifts are computed)"
    if found.bytes_on_disk_as:
        sizes = ", ".join(f"{name} {terminal.readable_size(n)}" for name, n in found.bytes_on_disk_as.items())
        yield f"           with another --dtype: {sizes}"
    if found.seconds is None:
        yield f"time       unknown: no run with this model and device is remembered ({found.tokens:,} tokens)"
    else:
        rate = f"{found.tokens:,} tokens at {found.tokens_per_second:,.0f} tokens/s as in an earlier run"
        index = terminal.readable_time(found.seconds_of_index)
        of_index = f", and {index} for the index" if found.seconds_of_index else ""
        yield f"time       about {terminal.readable_time(found.seconds)} ({rate}){of_index}"
    if found.bytes_free is None:
        return
    short = "" if found.fits else ": too little, `ctxbatch run` would refuse to begin"
    yield f"free disk  {terminal.readable_size(found.bytes_free)} {f'for {out}' if out else 'here'}{short}"


def _summary(report: "RunReport") -> Iterator[str]:
    """Say what a run has stored and rejected, how long it took, and where the result is."""
    from ctxbatch.text.fit import FitShares

    totals, part = report.totals, report.part
    if part is None and not (report.n_run or report.given_up):
        yield f"{report.out} was finished before: no text is left to read"
    words = "" if totals.words is None else f" of {totals.words:,} words"
    size, time = terminal.readable_size(totals.bytes_written), terminal.readable_time(totals.seconds)
    yield f"stored    {totals.rows:,} rows{words} in {totals.sentences:,} sentences, {size}"
    yield f"rejected  {_rejected(report) or 'nothing'}"
    if totals.fit is not None:
        yield f"fit       {FitShares(**totals.fit)}"
    if totals.int8:
        more = f"; the worst of {len(totals.int8)} columns" if len(totals.int8) > 1 else ""
        yield f"int8      {min(totals.int8, key=lambda column: column.cosine)}{more}"
    if n := totals.control_tokens:
        yield f"as text   {n:,} control {'tokens' if n > 1 else 'token'} of the model, such as [SEP]"
    yield f"time      {time} of work, {totals.tokens_per_second:,.0f} tokens/s"
    yield f"index     {_index(report)}"
    yield f"store     {report.out if part is None else f'{report.out}: {part}'}"


def _misfit(totals: "RunTotals") -> str | None:
    """Return what to say of a model that does not fit the text."""
    from ctxbatch.text.fit import FitShares

    return None if totals.fit is None else FitShares(**totals.fit).warning(totals.model)


def _rejected(report: "RunReport") -> str | None:
    from ctxbatch.store.manifest import rejects_of

    records, words = report.totals.rejected, report.totals.rejected_words
    if not records and not words:
        return None
    why = "" if report.reject_reason is None else f" ({report.reject_reason})"
    return f"{records:,} records, {words:,} words{why}: see {rejects_of(report.out)}"


def _index(report: "RunReport") -> str:
    """Return what was built, or the command that builds an index."""
    if report.index is not None:
        return str(report.index)
    if report.given_up or report.missing or (report.part and report.part.missing):
        return "none: the store is not complete"
    if isinstance(report.out, str):
        return f"none: `ctxbatch pull {report.out} OUT` copies the store here, to index and search it"
    return f"none: `ctxbatch index {report.out}` builds one"


def _trouble(report: "RunReport") -> Iterator[str]:
    """Say which shards are not there, and what to do."""
    from ctxbatch.execution.partition import shard_list

    if report.missing:
        yield (
            f"shards {shard_list(report.missing)} have disappeared, perhaps because another run writes to "
            f"{report.out}: stop the other run, then run again"
        )
    if report.given_up:
        yield f"ctxbatch gave up shards {shard_list(report.given_up)}: read {report.log}, then run again"
