"""Measure how much of a GPU ctxbatch uses, in encoding alone and in a whole run.

    python -m scripts.benchmarks.gpu CORPUS --model NAME [--shapes minilm,bert-base] [--verses 31000]
        [--work FOLDER]

--model gives the tokenizer, and the weights of shape ``minilm`` if it is all-MiniLM-L6-v2; ``bert-base`` has
random weights. For each shape and round, in turns: the peak of matrix products in the model's own shapes
(bf16, the default token budget), encoding alone (batches tokenised beforehand; pooling, shift, cast and
the copy to the host included), and `ctxbatch run` with durable writes. MFU is useful work, the matrix
products of unpadded tokens, by that peak. Prints tables and a last line of JSON; exit status 2 without GPU.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import measuring
from scripts.benchmarks.contenders import run_batches
from scripts.benchmarks.measuring import shown
from scripts.benchmarks.models import linear_shapes, random_model
from scripts.command_line import Parser, positive, run, say, some_of

if TYPE_CHECKING:
    from ctxbatch.config import ResolvedConfig

_DEVICE = "cuda:0"
_SHAPES = ("minilm", "bert-base")
_HEADS = ["shape", "encode tokens/s", "MFU", "run tokens/s", "MFU", "peak TFLOP/s", "written MB/s", "padding"]


def main() -> int:
    """Run the comparison; returns the exit status."""
    options = parse()
    import torch

    if not torch.cuda.is_available():
        say("no GPU here: torch sees no CUDA device")
        return 2
    from ctxbatch.model.devices import describe_device
    from ctxbatch.model.hub import find_model

    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        work = Path(folder)
        machine = {**measuring.describe_machine(work), "device": describe_device(_DEVICE)}
        text = measuring.write_lines(work / "text.txt", measuring.take_lines(options.corpus, options.verses))
        own = find_model(options.model, None).path
        models = {
            shape: random_model(own, work / shape) if shape == "bert-base" else own
            for shape in options.shapes
        }
        found = {shape: measure(model, text, work, options.repeats) for shape, model in models.items()}
    print(measuring.machine_lines(machine))
    print(f"{machine['device']}, bf16, {options.verses:,} lines\n")
    print(measuring.table(_HEADS, [row(shape, each) for shape, each in found.items()]), end="\n\n")
    print(json.dumps({"machine": machine, "verses": options.verses, "shapes": found}))
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_text()
    parser.add_model()
    parser.add_argument("--shapes", type=some_of(_SHAPES), default=_SHAPES, help=", ".join(_SHAPES))
    parser.add_argument("--verses", type=positive, default=31_000, metavar="N", help="lines to take")
    parser.add_argument("--repeats", type=positive, default=3, metavar="R", help="rounds")
    parser.add_work()
    return parser.parse_args()


def measure(model: Path, text: Path, work: Path, repeats: int) -> dict[str, Any]:
    """Medians of all rounds for one model."""
    from ctxbatch.model.resolve import resolve
    from ctxbatch.run_config import RunConfig

    size = text.stat().st_size
    config = RunConfig(model=str(model), shard_size=-(-size // 8), index=False, devices=(_DEVICE,))
    resolved = resolve(config, _DEVICE, size)
    shapes = linear_shapes(model, resolved.model_type)
    per_token = 2 * sum(inputs * outputs for inputs, outputs in shapes)
    batches = run_batches(text, config, resolved)
    rounds = []
    for number in range(repeats):
        peak = peak_rate(shapes[: len(shapes) // resolved.n_layers], resolved.tokens_per_batch)
        encode = encode_rate(resolved, batches)
        settings = ["--model", str(model), "--shard-size", str(config.shard_size), "--devices", _DEVICE]
        ran = measuring.run_ctxbatch(text, work / "out", settings, dict(os.environ))
        written = ran["tokens"] / ran["seconds"]
        rounds.append(
            {
                "peak_operations_per_second": peak,
                "encode_tokens_per_second": encode,
                "encode_mfu": encode * per_token / peak,
                "run_tokens_per_second": written,
                "run_mfu": written * per_token / peak,
                "written_bytes_per_second": ran["bytes_written"] / ran["seconds"],
                "padding": ran["padding"],
            }
        )
        say(f"{model.name}, round {number + 1}: {encode:,.0f} tokens/s encoded, {written:,.0f} written")
    return {**measuring.medians(rounds), "rounds": rounds, "tokens_per_batch": resolved.tokens_per_batch}


def peak_rate(shapes: Sequence[tuple[int, int]], tokens: int) -> float:
    """Operations a second of the GPU in bf16 linear layers of (inputs, outputs), one after another."""
    import torch

    kind = {"dtype": torch.bfloat16, "device": _DEVICE}
    weights = [torch.randn(outputs, inputs, **kind) for inputs, outputs in shapes]
    values = {inputs: torch.randn(tokens, inputs, **kind) for inputs, _ in shapes}
    operations = sum(2 * tokens * inputs * outputs for inputs, outputs in shapes)
    rates = []
    for _ in range(20):
        torch.cuda.synchronize(_DEVICE)
        started = time.perf_counter()
        for _ in range(10):
            for weight in weights:
                torch.nn.functional.linear(values[weight.shape[1]], weight)
        torch.cuda.synchronize(_DEVICE)
        rates.append(10 * operations / (time.perf_counter() - started))
    return statistics.median(rates[5:])


def encode_rate(config: "ResolvedConfig", batches: Sequence[Any]) -> float:
    """Tokens a second of the encoder, vectors brought back to the host."""
    from ctxbatch.model.encoder import Encoder

    model = Encoder(config, _DEVICE)
    for _ in model.encode(batches[:8]):
        pass
    started = time.perf_counter()
    for _ in model.encode(batches):
        pass
    return sum(int(batch.lengths_B.sum()) for batch in batches) / (time.perf_counter() - started)


def row(shape: str, found: Mapping[str, Any]) -> list[str]:
    """Return a row of the table."""
    return [
        shape,
        shown(found["encode_tokens_per_second"]),
        f"{found['encode_mfu']:.0%}",
        shown(found["run_tokens_per_second"]),
        f"{found['run_mfu']:.0%}",
        shown(found["peak_operations_per_second"] / 1e12, ",.1f"),
        shown(found["written_bytes_per_second"] / 1e6),
        f"{found['padding']:.1%}",
    ]


if __name__ == "__main__":
    sys.exit(run(main))
