"""Compare ctxbatch with a loop by hand, sentence-transformers, its own encoder and the machine's peak.

    python -m scripts.benchmarks.throughput CORPUS --model NAME [--verses 8000] [--repeats 3]
        [--random bert-base] [--skip PEER,...] [--compile on|off|auto] [--whole-verses M] [--out FOLDER]

All on the CPU, on the same lines, every contender in a process of its own, in turns: round 1 everybody
once, round 2 again. Prints the machine, tables of medians, footnotes, and a last line of JSON with
everything. Needs `pip install "ctxbatch[bench]"` for sentence-transformers, unless they are skipped.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import measuring
from scripts.benchmarks.measuring import cores, say, shown
from scripts.benchmarks.models import linear_shapes, random_model

if TYPE_CHECKING:
    from ctxbatch.config import ResolvedConfig

NAMES = {
    "loop": "loop by hand fp32",
    "st-fp32": "sentence-transformers fp32",
    "st-bf16": "sentence-transformers bf16",
    "run": "ctxbatch run",  # before the next one, because it leaves the compiled program
    "encode": "encode only",
    "half": "ctxbatch run, half the layers",
}
PRECISIONS = ("bf16", "fp32")
_SHARDS_PER_WORKER = 4
_MIN_SHARD = 64 << 10
_CONTENDERS = "scripts.benchmarks.contenders"

Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Text:
    """A text as every contender gets it; ``tokens`` are its lines' wordpieces with special tokens."""

    path: Path
    size: int
    lines: int
    tokens: int
    left_out: int

    @property
    def shard_size(self) -> int:
        """Some shards for every worker, so that they end together."""
        return max(_MIN_SHARD, -(-self.size // (_SHARDS_PER_WORKER * cores())))


@dataclass(frozen=True, slots=True)
class Job:
    """What all contenders have in common; ``shapes`` are inputs and outputs of the layers' linears."""

    config: "ResolvedConfig"
    shapes: list[tuple[int, int]]
    text: Text
    work: Path
    compile: str

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


def main() -> int:
    """Run the comparison; returns the exit status."""
    options = parse()
    wanted = [name for name in NAMES if name not in options.skip]
    if any(name.startswith("st-") for name in wanted) and not has_sentence_transformers():
        say(
            'sentence-transformers is not installed: pip install "ctxbatch[bench]", or --skip st-fp32,st-bf16'
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.out) as folder:
        work = Path(folder)
        machine = measuring.describe_machine(work)
        if machine["file_system"] == "tmpfs":
            say(f"{work} is in memory: --out names a folder on a disk")
        job = prepare(options, work)
        rounds, machine_rounds = run_rounds(job, wanted, options.repeats)
        whole = run_whole(job, options, wanted)
    report(options, machine, job, summarise(job, rounds, machine_rounds) | {"whole": whole})
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", type=Path, help="text, a record a line")
    parser.add_argument("--model", required=True)
    parser.add_argument("--verses", type=int, default=8000, metavar="N", help="lines to take")
    parser.add_argument("--repeats", type=int, default=3, metavar="R")
    parser.add_argument("--random", choices=("bert-base",), help="random weights of this shape instead")
    parser.add_argument("--compile", choices=("off", "auto", "on"), default="on", help="as ctxbatch has it")
    parser.add_argument("--skip", type=peers, default=(), metavar="PEER,...", help=", ".join(NAMES))
    parser.add_argument(
        "--whole-verses", type=int, default=0, metavar="M", help="whole commands on so many lines too"
    )
    parser.add_argument("--out", type=Path, help="where to write; the temporary folder by default")
    return parser.parse_args()


def peers(names: str) -> tuple[str, ...]:
    """The contenders to leave out."""
    skipped = tuple(names.split(","))
    if unknown := [name for name in skipped if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(NAMES)}")
    return skipped


def has_sentence_transformers() -> bool:
    """Whether it is installed; importing it here would take seconds."""
    return importlib.util.find_spec("sentence_transformers") is not None


# --- preparing ------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace, work: Path) -> Job:
    """Model and text for all contenders, in the folder where they work."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from ctxbatch.model.hub import find_model
    from ctxbatch.model.resolve import resolve
    from ctxbatch.run_config import RunConfig

    model = find_model(options.model, None).path
    if options.random:
        model = random_model(model, work / options.random)
    config = resolve(RunConfig(model=str(model)), "cpu")
    text = prepare_text(options.corpus, options.verses, work / "text.txt", config)
    return Job(config, linear_shapes(model, config.model_type), text, work, options.compile)


def prepare_text(corpus: Path, n_lines: int, path: Path, config: "ResolvedConfig") -> Text:
    """The first lines of a corpus, written to a file, and their tokens.

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
    if name == "run":
        return run_command(job, job.config.n_layers)
    if name == "half":
        return run_command(job, job.config.n_layers // 2)
    if name == "encode":
        return run_encode(job)
    return run_peer(job, name)


def run_command(job: Job, n_layers: int) -> dict[str, Any]:
    """The real command; vectors of one layer, whichever it is."""
    settings = ["--model", job.config.model, "--shard-size", str(job.text.shard_size)]
    settings += ["--compile", job.compile, "--layers", str(n_layers)]
    return measuring.run_ctxbatch(job.text.path, job.work / "out", settings, job.environment)


def run_peer(job: Job, name: str) -> dict[str, Any]:
    """A peer in a process of its own. Its warm-up is no part of what its command would take."""
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
    """The encoder alone, in as many processes as the run has workers."""
    given = {"--model": job.config.model, "--text": job.text.path, "--shard-size": job.text.shard_size}
    given["--compile"] = job.compile
    shares = [{**given, "--share": share, "--of": cores()} for share in range(cores())]
    commands = [contender("encode", share) for share in shares]
    seconds, said, peak = measuring.run_together(commands, job.worker_environment)
    tokens, slots = (sum(each[name] for each in said) for name in ("tokens", "slots"))
    return {"seconds": seconds, "peak_bytes": peak, "tokens": tokens, "padding": round(1 - tokens / slots, 4)}


def run_machine(job: Job) -> dict[str, float]:
    """Operations a second of all cores in the model's own matrix products; bytes a second of the disk."""
    found = {}
    per_layer = job.shapes[: len(job.shapes) // job.config.n_layers]
    for precision in PRECISIONS:
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
    """The command line of a contender's process."""
    return [sys.executable, "-m", _CONTENDERS, name, *(str(part) for pair in given.items() for part in pair)]


def run_whole(job: Job, options: argparse.Namespace, wanted: Sequence[str]) -> dict[str, Any]:
    """The two that matter once on a longer text, for whole commands of some minutes."""
    if not options.whole_verses:
        return {}
    text = prepare_text(options.corpus, options.whole_verses, job.work / "whole.txt", job.config)
    (job.work / "whole").mkdir()  # with a cache of its own: what is compiled is compiled in these seconds
    long_job = replace(job, text=text, work=job.work / "whole")
    results = {}
    for name in ("st-bf16", "run"):
        if name in wanted:
            results[name] = run_contender(long_job, name)
            say(f"whole: {NAMES[name]}, {results[name]['whole_seconds']:.1f} s")
    return {"lines": text.lines, "text_tokens": text.tokens, "results": results}


# --- reporting ------------------------------------------------------------------------------------


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
        for base in ("st-bf16", "loop"):
            for found in summary.values():
                rate, by = found[of], summary.get(base, {}).get(of)
                found[f"{of}_over_{base}"] = rate / by if rate and by else None
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
    if "tokens" not in results[0]:
        return None
    peaks = [each[f"{job.config.precision}_operations_per_second"] for each in machine]
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
        "compile": job.compile,
        "lines": job.text.lines,
        "text_tokens": job.text.tokens,
        "lines_left_out": job.text.left_out,
        "shard_size": job.text.shard_size,
        "operations_per_token": job.operations_per_token,
        "repeats": options.repeats,
    }
    print(json.dumps({**facts, **found}))


def main_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Everybody's rate after start-up."""
    heads = ["contender", "tokens/s", "min to max", "to st bf16", "to loop", "of peak", "whole s", "peak MB"]
    rows = [
        [
            NAMES[name],
            shown(found["text_tokens_per_second"]),
            " - ".join(map(shown, found["spread"])),
            shown(found["text_tokens_per_second_over_st-bf16"], ".2f"),
            shown(found["text_tokens_per_second_over_loop"], ".2f"),
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
        base = rates.get("st-bf16")
        for name, rate in rates.items():
            seconds = shown(results[name]["whole_seconds"], ".1f")
            ratio = shown(rate / base if base else None, ".2f")
            rows.append([NAMES[name], shown(lines), seconds, shown(rate), ratio])
    return measuring.table(["whole command", "lines", "seconds", "tokens/s", "to st bf16"], rows)


def footnotes(job: Job, found: Mapping[str, Any]) -> list[str]:
    """What one must know to read the tables."""
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


if __name__ == "__main__":
    sys.exit(main())
