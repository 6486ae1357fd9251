"""Say what `throughput` found: medians and ratios of the rounds, tables, footnotes, and the line of JSON."""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmarks import measuring
from scripts.benchmarks.measuring import cores, shown
from scripts.benchmarks.throughput_job import NAMES, PEERS, Job, Results


def summarise(job: Job, rounds: Results, machine: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians and ratios of the rounds."""
    summary = {}
    for name, results in rounds.items():
        rates = [job.text.tokens / each["seconds"] for each in results]
        whole = [job.text.tokens / each["whole_seconds"] for each in results if "whole_seconds" in each]
        summary[name] = {
            **measuring.medians(results),
            "text_tokens_per_second": statistics.median(rates),
            "spread": [min(rates), max(rates)],
            "whole_tokens_per_second": statistics.median(whole) if whole else None,
            "share_of_peak": None if name == "half" else share_of_peak(job, results, machine),
        }
    for of in ("text_tokens_per_second", "whole_tokens_per_second"):
        for peer, names in PEERS.items():
            best = max((summary[name][of] or 0 for name in names if name in summary), default=0)
            for found in summary.values():
                found[f"{of}_over_{peer}"] = found[of] / best if found[of] and best else None
    return {
        "summary": summary,
        "machine_rates": measuring.medians(machine),
        "machine_rounds": machine,
        "rounds": rounds,
    }


def share_of_peak(
    job: Job, results: Sequence[Mapping[str, Any]], machine: Sequence[Mapping[str, float]]
) -> float | None:
    """How much of the peak of its own round useful work reaches; of those that count their own tokens."""
    precision = results[0].get("precision", job.config.precision)
    if "tokens" not in results[0] or precision == "int8":
        return None
    peaks = [each[f"{precision}_operations_per_second"] for each in machine]
    shares = [
        each["tokens"] * job.operations_per_token / each["seconds"] / peak
        for each, peak in zip(results, peaks, strict=True)
    ]
    return float(statistics.median(shares))


def report(
    options: argparse.Namespace, machine: Mapping[str, Any], job: Job, found: Mapping[str, Any]
) -> None:
    """Print everything."""
    model = f"{options.random or options.model}{', random weights' if options.random else ''}"
    print(measuring.machine_lines(machine))
    print(f"{model}, {job.config.precision}; {job.text.lines:,} lines, {job.text.tokens:,} tokens\n")
    print(main_table(found["summary"]), end="\n\n")
    print(whole_table(job, found), end="\n\n")
    for note in footnotes(job, found):
        print(f"- {note}")
    facts = {
        "machine": machine,
        "model": model,
        "precision": job.config.precision,
        "lines": job.text.lines,
        "text_tokens": job.text.tokens,
        "lines_left_out": job.text.left_out,
        "operations_per_token": job.operations_per_token,
        "repeats": options.repeats,
    }
    print(json.dumps({**facts, **found}))


def main_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Everybody's rate after start-up."""
    heads = ["contender", "tokens/s", "min to max", "of peak", "whole s", "peak MB"]
    heads[3:3] = [f"to {peer}" for peer in PEERS]
    rows = [
        [
            NAMES[name],
            shown(found["text_tokens_per_second"]),
            " - ".join(map(shown, found["spread"])),
            *(shown(found[f"text_tokens_per_second_over_{peer}"], ".2f") for peer in PEERS),
            shown(found["share_of_peak"], ".0%"),
            shown(found.get("whole_seconds"), ".1f"),
            shown(found["peak_bytes"] / 1e6),
        ]
        for name, found in summary.items()
    ]
    return measuring.table(heads, rows)


def whole_table(job: Job, found: Mapping[str, Any]) -> str:
    """Whole commands, from the start of the process to its end."""
    parts = [(job.text.lines, job.text.tokens, found["summary"])]
    if found["whole"]:
        parts.append(tuple(found["whole"].values()))
    rows = []
    for lines, tokens, results in parts:
        rates = {
            name: tokens / each["whole_seconds"] for name, each in results.items() if "whole_seconds" in each
        }
        base = max((rates.get(name, 0) for name in PEERS["st"]), default=0)
        for name, rate in rates.items():
            seconds = shown(results[name]["whole_seconds"], ".1f")
            ratio = shown(rate / base if base else None, ".2f")
            rows.append([NAMES[name], shown(lines), seconds, shown(rate), ratio])
    return measuring.table(["whole command", "lines", "seconds", "tokens/s", "to st"], rows)


def footnotes(job: Job, found: Mapping[str, Any]) -> list[str]:
    """Return what one must know to read the tables."""
    rates, summary = found["machine_rates"], found["summary"]
    low, high = (
        pick(each[f"{job.config.precision}_operations_per_second"] / 1e9 for each in found["machine_rounds"])
        for pick in (min, max)
    )
    notes = [
        "tokens/s: wordpieces of the lines with special tokens, the same for all, by the seconds after "
        "start-up\n  (imports, model, and a warm-up batch of each but the run, whose clock starts with its "
        "first shard)",
        f"peak: {rates['bf16_operations_per_second'] / 1e9:,.0f} billion operations/s in bf16, "
        f"{rates['fp32_operations_per_second'] / 1e9:,.0f} in fp32, in the model's linear layers alone, "
        f"{cores()} processes\n  ({job.config.precision} from {low:,.0f} to {high:,.0f}: a wide range is a "
        "machine that others use too); its share counts\n  these operations for ctxbatch's own tokens, and "
        "neither padding nor attention",
        f"disk: {rates['disk_bytes_per_second'] / 1e6:,.0f} MB/s written and flushed",
        "peak MB: resident memory of all processes together, shared pages counted in each",
        "the loop takes lines in text order, stores punctuation too and flushes nothing;\n  "
        "sentence-transformers sort by length and write nothing",
    ]
    if "run" in summary:
        run = summary["run"]
        more = run["tokens"] / job.text.tokens - 1
        notes.append(
            f"ctxbatch splits lines into sentences: {run['tokens']:,.0f} tokens by its own count "
            f"({more:+.1%}), {run['tokens'] / run['seconds']:,.0f} tokens/s,\n  {run['padding']:.1%} padding"
            f", {run['bytes_written'] / 1e6:,.0f} MB in {run['shards']:,.0f} shards"
        )
        if "encode" in summary:
            ratio = summary["encode"]["seconds"] / run["seconds"]
            notes.append(f"the run goes at {ratio:.0%} of the speed of encoding alone")
        if "half" in summary:
            ratio = summary["half"]["seconds"] / run["seconds"]
            notes.append(
                f"half of the layers take {ratio:.2f} of the seconds of all of them, as many columns"
            )
    if job.text.left_out:
        notes.append(
            f"{job.text.left_out:,} lines longer than {job.config.max_tokens} tokens were left out for all"
        )
    return notes
