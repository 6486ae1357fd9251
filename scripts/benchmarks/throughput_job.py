"""Prepare what all contenders of `throughput` have in common: their names, a text, and a model."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import measuring
from scripts.benchmarks.models import linear_shapes, random_model

if TYPE_CHECKING:
    from ctxbatch.config import ResolvedConfig

NAMES = {
    "loop": "loop by hand fp32",
    "st-fp32": "sentence-transformers fp32",
    "st-bf16": "sentence-transformers bf16",
    "ov-fp32": "OpenVINO by hand fp32",
    "ov-bf16": "OpenVINO by hand bf16",
    "ov-int8": "OpenVINO by hand int8",
    "run": "ctxbatch run",
    "run-fp32": "ctxbatch run --precision fp32",
    "run-bf16": "ctxbatch run --precision bf16",
    "run-int8": "ctxbatch run --precision int8",
    "encode": "encode only",
    "half": "ctxbatch run, half the layers",
}
# Everybody's rate is also given as a multiple of the faster of each of these.
PEERS = {
    "st": ("st-fp32", "st-bf16"),
    "OpenVINO": ("ov-fp32", "ov-bf16"),
    "OpenVINO int8": ("ov-int8",),
    "given": ("run-fp32", "run-bf16"),
}

# What each contender has measured of itself, a record a round.
Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Text:
    """A text as every contender gets it; ``tokens`` are its lines' wordpieces with special tokens."""

    path: Path
    size: int
    lines: int
    tokens: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Job:
    """What all contenders have in common; ``shapes`` are inputs and outputs of the layers' linears."""

    config: "ResolvedConfig"
    shapes: list[tuple[int, int]]
    text: Text
    work: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every contender."""
        return measuring.child_environment(self.work)

    @property
    def worker_environment(self) -> dict[str, str]:
        """That of a process that computes with one thread, as the pool sets it for its workers."""
        from ctxbatch.execution import local_pool

        return {**self.environment, **dict.fromkeys(local_pool._THREADS, "1"), **local_pool._MEMORY}

    @property
    def operations_per_token(self) -> int:
        """Multiplications and additions in the layers' linear weights; attention comes on top."""
        return 2 * sum(inputs * outputs for inputs, outputs in self.shapes)


def prepare(options: argparse.Namespace, work: Path) -> Job:
    """Model and text for all contenders, in the folder where they work."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from ctxbatch.model.hub import find_model
    from ctxbatch.model.resolve import resolve
    from ctxbatch.run_config import RunConfig

    model = find_model(options.model, None).path
    if options.random:
        model = random_model(model, work / options.random, options.random)
    config = resolve(RunConfig(model=str(model), layers=(-1,)), "cpu")
    text = prepare_text(options.corpus, options.verses, work / "text.txt", config)
    return Job(config, linear_shapes(model, config.model_type), text, work)


def prepare_text(corpus: Path, n_lines: int, path: Path, config: "ResolvedConfig") -> Text:
    """Return the first lines of a corpus, written to a file, and their tokens.

    Lines that do not fit the model's window are left out: peers would truncate them.
    """
    from tokenizers import Tokenizer

    from ctxbatch.model.resolve import read_tokenizer

    lines = measuring.take_lines(corpus, n_lines)
    tokenizer = Tokenizer.from_str(read_tokenizer(config))
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(lines)]
    kept = [n for n, length in enumerate(lengths) if length <= config.max_tokens]
    measuring.write_lines(path, [lines[n] for n in kept])
    n_tokens = sum(lengths[n] for n in kept)
    return Text(path, path.stat().st_size, len(kept), n_tokens, len(lines) - len(kept))
