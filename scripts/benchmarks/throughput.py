"""Measure how fast ctxbatch is beside a loop by hand, sentence-transformers, its encoder alone and the peak.

    python -m scripts.benchmarks.throughput CORPUS --model NAME [--verses 8000] [--repeats 3]
        [--random bert-base] [--skip PEER,...] [--whole-verses M] [--work FOLDER]

All on the CPU, on the same lines, every contender in a process of its own, in turns: round 1 everybody
once, round 2 again. The run computes what the loop by hand does: the last layer, and the log ratio. Prints
the machine, tables of medians, footnotes, and a last line of JSON with everything. Needs
`pip install "ctxbatch[bench]"` for sentence-transformers, unless they are skipped.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.benchmarks import measuring
from scripts.benchmarks.measuring import cores
from scripts.benchmarks.throughput_job import NAMES, Job, Results, prepare, prepare_text
from scripts.benchmarks.throughput_report import report, summarise
from scripts.command_line import Parser, positive, run, say, some_of

_PRECISIONS = ("bf16", "fp32")
_CONTENDERS = "scripts.benchmarks.contenders"
# What the loop by hand computes too.
_LAST_LAYER, _SHIFT = ("--layers", "-1"), ("--shift", "log_ratio")


def main() -> int:
    """Run the comparison; returns the exit status."""
    options = parse()
    wanted = [name for name in NAMES if name not in options.skip]
    if any(name.startswith("st-") for name in wanted) and not has_sentence_transformers():
        say(
            'sentence-transformers is not installed: pip install "ctxbatch[bench]", or --skip st-fp32,st-bf16'
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        work = Path(folder)
        machine = measuring.describe_machine(work)
        if machine["file_system"] == "tmpfs":
            say(f"{work} is in memory: --work names a folder on a disk")
        job = prepare(options, work)
        rounds, machine_rounds = run_rounds(job, wanted, options.repeats)
        whole = run_whole(job, options, wanted)
    report(options, machine, job, summarise(job, rounds, machine_rounds) | {"whole": whole})
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_text()
    parser.add_model()
    parser.add_argument("--verses", type=positive, default=8000, metavar="N", help="lines to take")
    parser.add_argument("--repeats", type=positive, default=3, metavar="R", help="rounds")
    parser.add_argument("--random", choices=("bert-base",), help="random weights of this shape instead")
    parser.add_argument("--skip", type=some_of(NAMES), default=(), metavar="PEER,...", help=", ".join(NAMES))
    parser.add_argument(
        "--whole-verses", type=positive, metavar="M", help="whole commands on so many lines too"
    )
    parser.add_work()
    return parser.parse_args()


def has_sentence_transformers() -> bool:
    """Whether it is installed; importing it here would take seconds."""
    return importlib.util.find_spec("sentence_transformers") is not None


# --- measuring ------------------------------------------------------------------------------------


def run_rounds(job: Job, wanted: Sequence[str], repeats: int) -> tuple[Results, list[dict[str, float]]]:
    """Everybody once a round, and what the machine can do beside it."""
    rounds: Results = {name: [] for name in wanted}
    machine = []
    for number in range(repeats):
        for name in wanted:
            found = run_contender(job, name)
            rounds[name].append(found)
            rate = job.text.tokens / found["seconds"]
            say(f"round {number + 1}: {NAMES[name]}, {found['seconds']:.1f} s, {rate:,.0f} tokens/s")
        machine.append(run_machine(job))
        say(f"round {number + 1}: {', '.join(f'{k} {v:.3g}' for k, v in machine[-1].items())}")
    return rounds, machine


def run_contender(job: Job, name: str) -> dict[str, Any]:
    """One contender once: seconds, whole seconds, peak memory, and what else it says of itself."""
    if name == "half":
        return run_command(job, "--layers", str(job.config.n_layers // 2))
    if name.startswith("run"):
        precision = name.removeprefix("run").removeprefix("-")
        return run_command(job, *_LAST_LAYER, *(("--precision", precision) if precision else ()))
    if name == "encode":
        return run_encode(job)
    return run_peer(job, name)


def run_command(job: Job, *settings: str) -> dict[str, Any]:
    """Run the real command as a user does."""
    given = ("--model", job.config.model, *_SHIFT, *settings)
    return measuring.run_ctxbatch(job.text.path, job.work / "out", given, job.environment)


def run_peer(job: Job, name: str) -> dict[str, Any]:
    """Run a peer in a process of its own. Its warm-up does not count."""
    out = job.work / "loop.arrow"
    given = {
        "--model": job.config.model,
        "--text": job.text.path,
        "--max-tokens": job.config.max_tokens,
        "--out": out,
    }
    finished = measuring.run_process(contender(name, given), job.environment)
    said = json.loads(finished.output.splitlines()[-1])
    written = out.stat().st_size if out.exists() else 0
    out.unlink(missing_ok=True)
    os.sync()  # what is still to be written must not slow down who comes next
    return {
        "seconds": said["seconds"],
        "whole_seconds": finished.seconds - said["warm_up_seconds"],
        "peak_bytes": finished.tree_bytes,
        "bytes_written": written,
    }


def run_encode(job: Job) -> dict[str, Any]:
    """Run the encoder alone, in as many processes as the run has workers."""
    given = {"--model": job.config.model, "--text": job.text.path}
    shares = [{**given, "--share": share, "--of": cores()} for share in range(cores())]
    commands = [contender("encode", share) for share in shares]
    seconds, said, peak = measuring.run_together(commands, job.worker_environment)
    tokens, slots = (sum(each[name] for each in said) for name in ("tokens", "slots"))
    return {"seconds": seconds, "peak_bytes": peak, "tokens": tokens, "padding": round(1 - tokens / slots, 4)}


def run_machine(job: Job) -> dict[str, float]:
    """Operations a second of all cores in the model's own matrix products; bytes a second of the disk."""
    found = {}
    per_layer = job.shapes[: len(job.shapes) // job.config.n_layers]
    for precision in _PRECISIONS:
        given = {
            "--precision": precision,
            "--shapes": json.dumps(per_layer),
            "--tokens": job.config.tokens_per_batch,
        }
        commands = [contender("peak", given)] * cores()
        _, said, _ = measuring.run_together(commands, job.worker_environment)
        found[f"{precision}_operations_per_second"] = sum(each["rate"] for each in said)
    return {**found, "disk_bytes_per_second": measuring.write_rate(job.work)}


def contender(name: str, given: Mapping[str, object]) -> list[str]:
    """Return the command line of a contender's process."""
    return [sys.executable, "-m", _CONTENDERS, name, *(str(part) for pair in given.items() for part in pair)]


def run_whole(job: Job, options: argparse.Namespace, wanted: Sequence[str]) -> dict[str, Any]:
    """Time sentence-transformers and the run once on a longer text, as whole commands."""
    if not options.whole_verses:
        return {}
    text = prepare_text(options.corpus, options.whole_verses, job.work / "whole.txt", job.config)
    (job.work / "whole").mkdir()  # with a cache of its own, so that converting is timed too
    long_job = replace(job, text=text, work=job.work / "whole")
    results = {}
    for name in ("st-bf16", "run"):
        if name in wanted:
            results[name] = run_contender(long_job, name)
            say(f"whole: {NAMES[name]}, {results[name]['whole_seconds']:.1f} s")
    return {"lines": text.lines, "text_tokens": text.tokens, "results": results}


if __name__ == "__main__":
    sys.exit(run(main))
