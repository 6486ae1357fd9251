"""Turns large text corpora into searchable tables of word-in-context vectors.

Importing this package is cheap; torch and transformers load with the first function that needs them.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctxbatch  # itself: so that type hints resolve to classes that load at their first use
from ctxbatch import cores as _cores  # noqa: F401 (before any library that binds this process to a core)
from ctxbatch.errors import CtxbatchError, InputError, ResourceError, StoreError

if TYPE_CHECKING:
    from ctxbatch.analysis.layers import measure as measure_layers
    from ctxbatch.analysis.senses import find_senses
    from ctxbatch.execution.estimate import Estimate
    from ctxbatch.execution.run import RunReport
    from ctxbatch.run_config import RunConfig
    from ctxbatch.search.filters import Filters
    from ctxbatch.search.hits import Answer, Hit, hits_table
    from ctxbatch.search.searcher import Searcher
    from ctxbatch.store.pull import PullReport
    from ctxbatch.store.reader import Store
    from ctxbatch.store.stats import RunTotals

__all__ = [
    "Answer",
    "CtxbatchError",
    "Estimate",
    "Filters",
    "Hit",
    "InputError",
    "PullReport",
    "ResourceError",
    "RunConfig",
    "RunReport",
    "RunTotals",
    "Searcher",
    "Store",
    "StoreError",
    "estimate",
    "find_senses",
    "hits_table",
    "measure_layers",
    "open",
    "pull",
    "run",
    "searcher",
]
# Where the names are that load at their first use: they need torch, pyarrow, faiss or cyclopts.
_LAZY = {
    "Answer": ("search.hits", "Answer"),
    "Estimate": ("execution.estimate", "Estimate"),
    "Filters": ("search.filters", "Filters"),
    "Hit": ("search.hits", "Hit"),
    "PullReport": ("store.pull", "PullReport"),
    "RunConfig": ("run_config", "RunConfig"),
    "RunReport": ("execution.run", "RunReport"),
    "RunTotals": ("store.stats", "RunTotals"),
    "Searcher": ("search.searcher", "Searcher"),
    "Store": ("store.reader", "Store"),
    "find_senses": ("analysis.senses", "find_senses"),
    "hits_table": ("search.hits", "hits_table"),
    "measure_layers": ("analysis.layers", "measure"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever has the name)
    """Load a public name at its first use.

    Raises:
        AttributeError: There is no such name.
    """
    if name == "__version__":
        from importlib import metadata  # which takes as long as all else here

        return metadata.version("ctxbatch")
    if name not in _LAZY:
        raise AttributeError(f"module 'ctxbatch' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(f"ctxbatch.{module}"), attribute)


def __dir__() -> list[str]:
    """Return all names, loaded or not."""
    return sorted({*globals(), *__all__})


def run(
    inputs: Sequence[str | Path] | str | Path,
    out: str | Path,
    config: "ctxbatch.RunConfig | None" = None,
    *,
    quiet: bool = True,
) -> "ctxbatch.RunReport":
    """Turn text into a store, or finish the store that an interrupted run has left.

    Args:
        inputs: Files, folders and globs of text, here or on object storage.
        out: The store's folder, or its URL, as ``s3://bucket/store``.
        config: The options; the defaults of ``ctxbatch run`` if not given.
        quiet: Show no progress on standard error.

    Raises:
        InputError: An input, an option or the model cannot be used as it is.
        StoreError: ``out`` is not a store, is damaged, or was made with another configuration or text.
        ResourceError: The disk, a permission or another run stands in the way; fix that and run again.
    """
    from ctxbatch.execution import run

    return run.run(inputs, out, config, quiet=quiet)


def estimate(
    inputs: Sequence[str | Path] | str | Path,
    out: str | Path | None = None,
    config: "ctxbatch.RunConfig | None" = None,
) -> "ctxbatch.Estimate":
    """Say what a run would come to, from a sample of the inputs: words, bytes on disk, time. Writes nothing.

    Args:
        inputs: Files, folders and globs of text.
        out: The store's folder, whose disk is checked for space.
        config: The options of the run.

    Raises:
        InputError: An input, an option or the model cannot be used as it is.
        StoreError: ``out`` is a folder of something else, or a store made with other options.
    """
    from ctxbatch.execution import estimate

    return estimate.estimate(inputs, out, config)


def pull(url: str, out: str | Path, *, quiet: bool = True) -> "ctxbatch.PullReport":
    """Copy a store from object storage into a folder, or complete a copy; checksums are compared.

    Args:
        url: The store.
        out: The folder.
        quiet: Show no progress on standard error.

    Raises:
        InputError: ``url`` is not a URL.
        StoreError: There is no store, or the folder is something else.
        ResourceError: The network, the disk, a permission or another run stands in the way.
    """
    from ctxbatch.store import pull

    return pull.pull(url, out, quiet=quiet)


def searcher(
    outs: "Sequence[str | Path | ctxbatch.Store] | str | Path | ctxbatch.Store",
    on: str | None = None,
    layer: int | None = None,
    model: str | None = None,
    *,
    delta: float | None = None,
    floor: float | None = None,
    standardise: bool = False,
) -> "ctxbatch.Searcher":
    """Return a searcher for nearest contexts over one or more stores; it loads model and indexes once.

    Args:
        outs: Stores, or their folders; all of one configuration.
        on: ``shift``, ``contextual``, ``static``, or a shift by name, ``log_ratio``, ``asinh`` or
            ``difference``, which is computed if it is not stored; default the first that is stored.
        layer: The layer; default the first of the run.
        model: The folder or the name of the stores' model; needed where it is not where the first store says.
        delta: Of asinh, if not the stores' or the default.
        floor: Of log_ratio, likewise.
        standardise: Search by standardised vectors: each dimension less its mean, over its standard
            deviation.

    Raises:
        InputError: The stores neither hold such vectors nor what they are computed from.
        StoreError: A store is unfinished, empty, damaged or of another configuration than the first.
    """
    from ctxbatch.search.searcher import Searcher
    from ctxbatch.store.reader import Store

    several = [outs] if isinstance(outs, str | Path | Store) else outs
    opened = [each if isinstance(each, Store) else open(each) for each in several]
    return Searcher(opened, on, layer, model, delta=delta, floor=floor, standardise=standardise)


def open(out: str | Path) -> "ctxbatch.Store":  # noqa: A001 (users write `ctxbatch.open`)
    """Open a store for reading, by its folder; of a URL only what its commits say can be read.

    Logs a warning for each damaged shard: its rows are not read, nor are those of a shard that a run has not
    finished. Only a store whose ``complete`` is true has all rows.

    Raises:
        StoreError: It is not a store, or its manifest is damaged.
        ResourceError: The network fails.
    """
    from ctxbatch.store.reader import Store

    store = Store(out)
    store.tell_damage()
    return store
