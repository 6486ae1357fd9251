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
    from transformers.utils.logging import set_tqdm_hook

    log = logging.getLogger("transformers")
    with _reading:
        level, hook = log.level, set_tqdm_hook(_hidden_bar)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
            set_tqdm_hook(hook)


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
