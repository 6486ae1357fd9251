"""Converts models in the tests' own process: one of its own would import torch for seconds."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

from ctxbatch.model.facts import read_facts
from ctxbatch.model.graph_conversion import convert
from ctxbatch.model.hub import ModelFolder


def convert_here(model: ModelFolder, out: Path) -> None:
    """Do what the process of a conversion does, and say as little."""
    log = logging.getLogger("transformers")
    level = log.level
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        try:
            read_facts(model)
            convert(model, out)
        finally:
            log.setLevel(level)
