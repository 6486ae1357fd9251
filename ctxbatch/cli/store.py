"""Runs the commands on a whole store: index, pull, stats, verify, status."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import (
    AsJson,
    Delta,
    Floor,
    Layer,
    Quiet,
    Standardise,
    StoredModel,
    StoreHere,
    StoreName,
    VectorKind,
)
from ctxbatch.cli.standardised import tell_standardised
from ctxbatch.errors import InputError, StoreError, resumable, shortened
from ctxbatch.option_values import size as size_of

if TYPE_CHECKING:
    from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")


def index(
    out: StoreHere,
    /,
    *,
    on: VectorKind = None,
    layer: Layer = None,
    delta: Delta = None,
    floor: Floor = None,
    standardise: Standardise = False,
    memory: Annotated[
        str,
        Parameter(
            metavar="BYTES",
            help="Memory that a search may take for the index, such as 500MB (1 MB is 1024 x 1024 bytes).",
        ),
    ] = "4GB",
    recall: Annotated[
        float, Parameter(metavar="SHARE", help="Share of the ten nearest rows that a search must find.")
    ] = 0.95,
    factory: Annotated[
        str | None,
        Parameter(metavar="STRING", help="FAISS factory string of the index to build, such as IVF1024,Flat."),
    ] = None,
    model: StoredModel = None,
    quiet: Quiet = False,
) -> None:
    """Build the search index on one kind of vector.

    The model encodes new sentences, with which the index is tuned beside stored rows.
    """
    from ctxbatch.search.index import IndexOptions
    from ctxbatch.search.index_build import build
    from ctxbatch.store.checks import check_finished
    from ctxbatch.store.locks import locked
    from ctxbatch.store.shard_writer import remove_leftovers

    n_bytes = size_of("--memory", memory)
    options = IndexOptions(n_bytes, recall, factory)
    store = ctxbatch.open(out)
    store.check_is_here()
    column = store.config.column(on, layer, delta=delta, floor=floor, standardise=standardise)
    with locked(store.path):
        check_finished(store)
        tell_standardised(store, [column])
        remove_leftovers(store.path)
        report = build(store, column, options, model, quiet=quiet)
    if not quiet:
        terminal.show([str(report)])


def pull(
    url: Annotated[str, Parameter(help="The store, such as s3://bucket/store.")],
    out: Annotated[str, Parameter(help="The folder to copy it to; created, or completed.")],
    /,
    *,
    quiet: Quiet = False,
) -> int:
    """Copy a store from object storage into a folder, to index and to search it there.

    The same command again copies what is missing; every file is compared with its checksum.
    """
    with resumable("what is copied is kept; to resume, run the same command again"):
        report = ctxbatch.pull(url, out, quiet=quiet)
    terminal.show(report.damaged)
    incomplete = report.held < report.planned
    if incomplete or not quiet:
        terminal.tell(str(report))
    if report.damaged:
        terminal.tell(f"`ctxbatch verify {url} --repair` rebuilds what is damaged")
    return 3 if incomplete else 0


def stats(out: StoreName, /, *, as_json: AsJson = False) -> None:
    """Show what a store holds, and the time and memory that its run used."""
    from ctxbatch.store.stats import totals

    store = ctxbatch.open(out)
    found = {**totals(store).as_dict(), "anisotropy": _measured_anisotropy(store)}
    terminal.show([terminal.json_line(found)] if as_json else _lines_of_stats(found))


def _lines_of_stats(found: dict[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        first, *rest = _readable(name, value).split("\n")
        yield f"{name.replace('_', ' '):<22} {first}"
        yield from (f"{'':<22} {line}" for line in rest)


def _measured_anisotropy(store: "Store") -> list[dict[str, Any]] | None:
    """Return the anisotropy of each column; ``None`` if the rows cannot be read."""
    from ctxbatch.store.anisotropy import measure_anisotropy

    if not store.location.is_here:
        return None
    try:
        return [asdict(column) for column in measure_anisotropy(store)]
    except StoreError as error:
        log.warning("%s", error)
        return None


def _readable(name: str, value: Any) -> str:  # noqa: ANN401 (JSON values)
    if name.endswith("bytes") or name.startswith("bytes"):
        return terminal.readable_size(value)
    if name == "padding":
        return f"{value:.1%}"
    if name == "stages":
        return "; ".join(
            f"{stage} {each['busy']:,.1f} s at work, {each['starved'] + each['blocked']:,.1f} s waiting"
            for stage, each in value.items()
        )
    if name in _DESCRIBED:
        return _DESCRIBED[name](value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {'/'.join(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _anisotropy(value: list[dict[str, Any]] | None) -> str:
    if not value:
        return "none"
    return "\n".join(_anisotropy_of(**column) for column in value)


def _anisotropy_of(column: str, plain: dict[str, Any], standardised: dict[str, Any], still: list[int]) -> str:
    what = f"{column}: random pairs have cosine {plain['mean_cosine']:.3f}"
    if plain["share"] is not None:
        what += f", {plain['share']:.0%} of it by dimension {plain['dimension']}"
    what += f"; standardised {standardised['mean_cosine']:.3f}"
    if still:
        what += f"; {shortened(list(map(str, still)), 5)} hardly vary"
    return what


def _fidelity(value: dict[str, Any] | None) -> str:
    from ctxbatch.model.fidelity import Fidelity

    return "none" if value is None else str(Fidelity(**value))


def _int8(value: list[dict[str, Any]] | None) -> str:
    from ctxbatch.store.int8_fidelity import Int8Fidelity

    return "\n".join(str(Int8Fidelity(**column)) for column in value or ()) or "none"


def _fit(value: dict[str, Any] | None) -> str:
    from ctxbatch.text.fit import FitShares

    return "none" if value is None else str(FitShares(**value))


def _selection(value: dict[str, Any] | None) -> str:
    from ctxbatch.config import Kept

    return "all words" if value is None else str(Kept(**value))


def _word_rule(value: str) -> str:
    words = {"unicode": "Unicode's word boundaries (UAX 29)", "tokenizer": "the model's tokenizer"}
    return words[value]


_DESCRIBED: dict[str, Callable[[Any], str]] = {
    "anisotropy": _anisotropy,
    "fidelity": _fidelity,
    "fit": _fit,
    "int8": _int8,
    "selection": _selection,
    "word_rule": _word_rule,
}


def verify(
    out: StoreName,
    /,
    *,
    sources: Annotated[
        bool, Parameter(help="Also read the sources again and compare them with the plan.")
    ] = False,
    repair: Annotated[bool, Parameter(help="Rebuild damaged or missing shards and damaged indexes.")] = False,
    model: Annotated[
        str | None,
        Parameter(metavar="M", help="With --repair: where the store's model is, a folder or a name."),
    ] = None,
    quiet: Quiet = False,
) -> int:
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
            f"{out}: {missing} of {planned} shards are missing: run its `ctxbatch run` command again, or add "
            "--repair"
        )
    terminal.show(found)
    if found:
        return 3
    terminal.show([f"{out}: {planned} of {planned} shards committed, all intact"])
    return 0


def status(out: StoreName, /, *, as_json: AsJson = False) -> None:
    """Show how far a run has come, and whether it is running now."""
    from ctxbatch.execution.partition import shard_list
    from ctxbatch.store.checks import state_of
    from ctxbatch.store.location import location_of
    from ctxbatch.store.locks import claimed, is_locked

    running = is_locked(location_of(out).folder)
    store = ctxbatch.open(out)
    out = str(store.location.out)
    done, planned = len(store.commits), len(store.manifest.shards)
    state: str = "running" if running else state_of(store)
    size = sum(spec.size for spec in store.manifest.shards)
    size_done = sum(spec.size for spec in store.manifest.shards if spec.shard in store.commits)
    missing = [spec.shard for spec in store.manifest.shards if spec.shard not in store.commits]
    in_work = claimed(store.path, missing)
    if as_json:
        found = {"store": out, "state": state, "shards": done, "planned": planned, "bytes": size_done}
        found |= {"bytes_planned": size, "rows": store.n_rows, "missing": missing, "in_work": in_work}
        terminal.show([terminal.json_line(found)])
        return
    if state == "damaged":
        state = "damaged: run its `ctxbatch run` command again to rebuild the damaged shards"
    elif state == "interrupted":
        state = "interrupted: run its `ctxbatch run` command again"
        if not store.location.is_here:
            state = "unfinished, and no run on this machine writes to it: if none runs elsewhere, run its "
            state += "`ctxbatch run` command again"
    share = size_done / size if size else 1.0
    lines = [
        f"{out}: {state}; {done} of {planned} shards, {share:.0%} of {terminal.readable_size(size)} of text, "
        f"{store.n_rows:,} rows"
    ]
    if missing:
        lines.append(f"missing: {shard_list(missing)}")
    if in_work:
        lines.append(f"of these in progress: {shard_list(in_work)}")
    terminal.show(lines)
