"""Keeps the tokens per second of past runs in the user's cache, for later estimates."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import ResourceError
from ctxbatch.files import cache_folder, write_atomically
from ctxbatch.store.stats import RunTotals

log = logging.getLogger("ctxbatch")
_MIN_SECONDS_FOR_RATE = 5
_START = " start"


def _rates_file() -> Path:
    return cache_folder() / "rates.json"


def _rate_key(config: ResolvedConfig, devices: Sequence[str]) -> str:
    """Return what a rate depends on: the devices, the model, its layers, and what is stored."""
    parts = [*sorted(set(devices)), config.digests["weights"], config.precision, ",".join(config.columns)]
    marks = {
        "torch": config.runtime == "torch",
        "salience": config.salience_layer is not None,
        "most salient": config.kept_by_model is not None,
        "some words": config.words is not None,
    }
    return " ".join([*parts, config.dtype, *(mark for mark, holds in marks.items() if holds)])


def _read_rates() -> dict[str, float]:
    try:
        rates = json.loads(_rates_file().read_bytes())
        return {str(key): float(rate) for key, rate in rates.items() if float(rate) > 0}
    except (OSError, ValueError, AttributeError, TypeError, ResourceError):
        return {}


def known_rate(config: ResolvedConfig, devices: Sequence[str]) -> float | None:
    """Return the tokens per second of the last such run on these devices; ``None`` if there was none."""
    return _read_rates().get(_rate_key(config, devices))


def known_start(config: ResolvedConfig, devices: Sequence[str]) -> float:
    """Return the seconds that the last such run took to start; 0 if there was none."""
    return _read_rates().get(_rate_key(config, devices) + _START, 0.0)


def remember_rate(totals: RunTotals, config: ResolvedConfig, start_seconds: float) -> None:
    """Keep a finished run's tokens per second and its start for later estimates; a cache that may be lost.

    Where only sentences with some words are tokenised, reading takes the time, and no such rate says much.
    """
    if totals.seconds < _MIN_SECONDS_FOR_RATE or config.words is not None:
        return
    try:
        path = _rates_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        key = _rate_key(config, totals.devices)
        rates = _read_rates() | {key: totals.tokens_per_second, key + _START: round(start_seconds, 1)}
        write_atomically(path, json.dumps(rates, indent=1).encode())
    except (OSError, ResourceError) as error:
        log.debug("the rate of this run cannot be kept: %s", error)
