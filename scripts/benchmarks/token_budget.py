"""Measure which --tokens-per-batch is fastest for a model on a device.

    python -m scripts.benchmarks.token_budget CORPUS --model NAME [--device cpu]
        [--budgets 256,512,...] [--verses 3000]
        [--repeats 3]

One worker encodes the same text in batches of each budget, in turns; the medians are compared. Nothing is
written. Prints the machine, a table, the value, and a last line of JSON. The default of ctxbatch is a fixed
number for each kind of device, because results depend on it in their last bits: pass another explicitly.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import measuring
from scripts.benchmarks.contenders import run_batches
from scripts.benchmarks.measuring import shown
from scripts.command_line import Parser, positive, positives, run, say

if TYPE_CHECKING:
    from ctxbatch.model.encoders import BatchEncoder
    from ctxbatch.text.batching import TokenBatch

_CPU_BUDGETS = [256, 512, 1024, 2048, 4096]
_GPU_BUDGETS = [4096, 8192, 16384, 32768, 65536]


def main() -> int:
    """Run the sweep; returns the exit status."""
    options = parse()
    from ctxbatch.model import devices, encoders, resolve
    from ctxbatch.run_config import RunConfig

    devices.choose_devices([options.device])
    config = RunConfig(model=options.model, index=False)
    resolved = resolve.resolve(config, options.device)
    model = encoders.open_encoder(resolved, options.device)
    with tempfile.TemporaryDirectory() as folder:
        machine = measuring.describe_machine(Path(folder))
        lines = measuring.take_lines(options.corpus, options.verses)
        text = measuring.write_lines(Path(folder) / "text.txt", lines)
        batches = {
            budget: run_batches(text, config, replace(resolved, tokens_per_batch=budget))
            for budget in options.budgets or (_CPU_BUDGETS if options.device == "cpu" else _GPU_BUDGETS)
        }
    report(
        options,
        {**machine, "device": devices.describe_device(options.device)},
        {budget: facts_of(each) for budget, each in batches.items()},
        sweep(model, batches, options.repeats),
        resolved.tokens_per_batch,
    )
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_text()
    parser.add_model()
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU as cuda:0")
    parser.add_argument("--budgets", type=positives, metavar="N,...", help="budgets to try")
    parser.add_argument("--verses", type=positive, default=3000, metavar="N", help="lines to take")
    parser.add_argument("--repeats", type=positive, default=3, metavar="R", help="rounds")
    return parser.parse_args()


def sweep(
    model: "BatchEncoder", batches: Mapping[int, "Sequence[TokenBatch]"], repeats: int
) -> dict[int, list[float]]:
    """Seconds of each budget in each round."""
    seconds: dict[int, list[float]] = {budget: [] for budget in batches}
    for each in batches.values():
        list(model.encode(each[:2]))
    for number in range(repeats):
        for budget, each in batches.items():
            started = time.perf_counter()
            for _ in model.encode(each):
                pass
            seconds[budget].append(time.perf_counter() - started)
            say(f"round {number + 1}: {budget} tokens a batch, {seconds[budget][-1]:.1f} s")
    return seconds


def facts_of(batches: "Sequence[TokenBatch]") -> dict[str, Any]:
    """Return what a text comes to in batches of a budget."""
    tokens = sum(batch.n_tokens for batch in batches)
    slots = sum(batch.input_ids_BT.size for batch in batches)
    return {"tokens": tokens, "batches": len(batches), "padding": 1 - tokens / slots}


def report(
    options: argparse.Namespace,
    machine: Mapping[str, Any],
    facts: Mapping[int, Mapping[str, Any]],
    seconds: Mapping[int, Sequence[float]],
    default: int,
) -> None:
    """Print everything."""
    rates = {
        budget: facts[budget]["tokens"] / statistics.median(listed) for budget, listed in seconds.items()
    }
    best = max(rates, key=lambda budget: rates[budget])
    print(measuring.machine_lines(machine))
    print(f"{options.model} on {machine['device']}, one worker\n")
    rows = [
        [
            f"{budget}{' (default)' if budget == default else ''}",
            shown(rate),
            f"{facts[budget]['padding']:.1%}",
            shown(facts[budget]["batches"]),
            shown(rate / rates[best], ".2f"),
        ]
        for budget, rate in rates.items()
    ]
    print(measuring.table(["tokens a batch", "tokens/s", "padding", "batches", "to best"], rows))
    print(f"\nfastest here: --tokens-per-batch {best}\n")
    cases = [
        {"budget": budget, "tokens_per_second": rates[budget], "seconds": seconds[budget], **facts[budget]}
        for budget in rates
    ]
    found = {"machine": machine, "model": options.model, "best": best}
    print(json.dumps({**found, "default": default, "cases": cases}))


if __name__ == "__main__":
    sys.exit(run(main))
