"""Keeps transformers and the hub's client off the terminal while a model is read.

ctxbatch itself says what is wrong with a model. How much these libraries print is a setting of the whole
process, so this module changes it only while a model is read.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# One thread reads at a time: none may undo the silence of another. A thread that reads may read within.
_reading = threading.RLock()


@contextlib.contextmanager
def transformers_silent() -> Iterator[None]:
    """Have transformers log nothing but errors, and show no progress bars."""
    log = logging.getLogger("transformers")
    with _reading, _bars_hidden():
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


@contextlib.contextmanager
def _bars_hidden() -> Iterator[None]:
    """Have transformers show no progress bars."""
    from transformers.utils import logging as bars

    if hasattr(bars, "set_tqdm_hook"):
        hook = bars.set_tqdm_hook(_hidden_bar)
        try:
            yield
        finally:
            bars.set_tqdm_hook(hook)
        return
    # Before transformers 5.4, which can only turn them off together with those of the hub's client.
    shown = bars.is_progress_bar_enabled()
    with downloads_silent():
        bars.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                bars.enable_progress_bar()


def _hidden_bar(make: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Any:  # noqa: ANN401 (a progress bar)
    return make(*arguments, **{**options, "disable": True})


@contextlib.contextmanager
def downloads_silent() -> Iterator[None]:
    """Have the hub's client show no progress bars."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    with _reading:
        shown = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            yield
        finally:
            if shown:
                enable_progress_bars()
