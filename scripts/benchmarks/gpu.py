"""Test and measure ctxbatch on a GPU, in one command that keeps to a time.

    python -m scripts.benchmarks.gpu [--minutes 8] [--model NAME] [--shapes minilm,bert-base,...]
        [--corpus TEXT] [--work FOLDER]

First the tests marked `gpu`. Then for models of four shapes, with random weights and the tokenizer of
--model: the peak of matrix products in the model's own shapes; computing alone (batches tokenised beforehand;
pooling, shift, cast and the copy to the host included); and `ctxbatch run --no-index`. All to the last layer.
Then what each choice is worth at bert-base: the token budget, packing, compiling, the precision, the number
of workers. MFU is useful work, the matrix products of unpadded tokens, by the peak. What there is no time
for is named. Prints tables, a verdict against the goals and a last line of JSON. Exit status: 1 if a test
failed, 2 without a GPU.
"""

import argparse
import dataclasses
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import measuring
from scripts.benchmarks.contenders import run_buffers
from scripts.benchmarks.measuring import shown
from scripts.benchmarks.models import SHAPES, linear_shapes, random_model
from scripts.command_line import Parser, existing_file, positive, run, say, some_of

if TYPE_CHECKING:
    from ctxbatch.config import ResolvedConfig
    from ctxbatch.text.batching import TokenBatch
    from ctxbatch.text.buffers import Buffer

_DEVICE = "cuda:0"
_TESTS = "tests/model/test_gpu.py"
_TEXT = Path(__file__).parents[1] / "demo" / "devils-dictionary.txt"
_COMPUTED_BYTES, _RUN_BYTES = 3 << 20, 8 << 20
# MFU of computing alone at bert-base: what is asked for, and what would be better.
_GOAL, _BETTER = 0.5, 0.6
_ROUNDS = 5
_TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_RUN_SECONDS, _CHOICE_SECONDS, _COMPILE_SECONDS = 25, 8, 30


class Clock:
    """The time that there is; says what there was no time for."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._end - time.monotonic()

    def allows(self, what: str, seconds: float) -> bool:
        """Return whether there is time for something; if not, note that it is left out."""
        if self.left >= seconds:
            return True
        self.left_out.append(what)
        return False


def main() -> int:
    """Test and measure; returns the exit status."""
    options = parse()
    from ctxbatch.model.devices import describe_device
    from ctxbatch.model.gpus import find_gpus
    from ctxbatch.model.hub import find_model

    found = find_gpus()
    if not found.gpus or found.gpus[0].trouble:
        say(f"no GPU here that torch can use{f': {found.trouble}' if found.trouble else ''}")
        return 2
    clock = Clock(60 * options.minutes)
    tests = run_tests(clock)
    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        work = Path(folder)
        machine = {**measuring.describe_machine(work), "device": describe_device(_DEVICE)}
        own = find_model(options.model, None).path
        text = repeated(options.corpus, work / "text.txt", _COMPUTED_BYTES)
        whole = repeated(options.corpus, work / "whole.txt", _RUN_BYTES)
        shapes: dict[str, Any] = {}
        for shape in options.shapes:
            if clock.allows(shape, _RUN_SECONDS):
                shapes[shape] = measure(random_model(own, work / shape, shape), text, whole, work, clock)
        choices, workers = {}, {}
        if "bert-base" in shapes:
            choices = measure_choices(work / "bert-base", text, clock)
            workers = measure_workers(work / "bert-base", whole, work, clock)
        rates = {"disk_bytes_per_second": measuring.write_rate(work), **transfer_rates()}
    report(machine, tests, shapes, choices, workers, rates, clock)
    return 1 if tests["status"] else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("--minutes", type=positive, default=8, metavar="M", help="time to keep to")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="whose tokenizer is used")
    parser.add_argument("--shapes", type=some_of(SHAPES), default=list(SHAPES), help=", ".join(SHAPES))
    parser.add_argument("--corpus", type=existing_file, default=_TEXT, help="text, a record a line")
    parser.add_work()
    return parser.parse_args()


def repeated(corpus: Path, path: Path, size: int) -> Path:
    """Write a text as often as it takes to fill a size."""
    text = corpus.read_bytes()
    path.write_bytes(text * -(-size // len(text)))
    return path


def run_tests(clock: Clock) -> dict[str, Any]:
    """Run the tests marked ``gpu``; return pytest's last line and exit status."""
    processes = str(max(2, len(os.sched_getaffinity(0)) // 2))
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", processes, _TESTS]
    seconds = max(60, clock.left / 2)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as tests:
        try:
            said, _ = tests.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(tests.pid, signal.SIGKILL)  # pytest's own processes too: they would disturb figures
            return {"status": 1, "summary": f"not done after {seconds:.0f} s"}
    if tests.returncode:
        say(said[-4000:])
    return {"status": tests.returncode, "summary": said.strip().splitlines()[-1]}


# --- a shape --------------------------------------------------------------------------------------


def measure(model: Path, text: Path, whole: Path, work: Path, clock: Clock) -> dict[str, Any]:
    """Return what one model reaches, computing alone and in a run."""
    config, buffers = prepare(model, text)
    batches = cut(config, buffers)
    shapes = linear_shapes(model, config.model_type)
    per_token = 2 * sum(inputs * outputs for inputs, outputs in shapes)
    tokens = statistics.median(tokens_of([batch]) for batch in batches)
    one_layer = shapes[: len(shapes) // config.n_layers]
    peak = peak_rate(one_layer, int(tokens), config.precision)
    found = {"per_token": per_token, "peak": peak, **computing(config, batches)}
    found["mfu"] = found["tokens_per_second"] * per_token / found["peak"]
    say(f"{model.name}: {found['tokens_per_second']:,.0f} tokens/s computing, MFU {found['mfu']:.0%}")
    if clock.allows(f"{model.name}: run", _RUN_SECONDS):
        found["run"] = whole_run(model, whole, work, [])
        say(f"{model.name}: {found['run']['tokens_per_second']:,.0f} tokens/s in a run")
    return found


def prepare(model: Path, text: Path, **given: Any) -> "tuple[ResolvedConfig, list[Buffer]]":  # noqa: ANN401 (options)
    """Return the configuration of a run to the last layer, and the buffers of a text."""
    from ctxbatch.model.resolve import resolve
    from ctxbatch.run_config import RunConfig

    asked = RunConfig(model=str(model), layers=(-1,), shard_size=1 << 30, index=False, **given)
    config = resolve(asked, _DEVICE)
    return config, run_buffers(text, asked, config)


def cut(config: "ResolvedConfig", buffers: "Sequence[Buffer]") -> "list[TokenBatch]":
    """Return the batches of buffers."""
    from ctxbatch.model.resolve import read_tokenizer
    from ctxbatch.text.batching import BatchMaker

    maker = BatchMaker(read_tokenizer(config), config)
    return [batch for buffer in buffers for batch in maker.batches(buffer)]


def tokens_of(batches: "Sequence[TokenBatch]") -> int:
    """Return the tokens of batches, without padding."""
    return sum(batch.n_tokens for batch in batches)


def computing(
    config: "ResolvedConfig", batches: "Sequence[TokenBatch]", change: Callable[[Any], None] = lambda _: None
) -> dict[str, float]:
    """Return tokens a second of the encoder, vectors brought to the host, and the memory that it takes."""
    import torch

    from ctxbatch.model.encoder import Encoder

    gc.collect()
    torch.cuda.empty_cache()
    model = Encoder(config, _DEVICE)
    change(model)
    torch.cuda.reset_peak_memory_stats(_DEVICE)
    seconds, n_bytes = [], 0
    for number in range(_ROUNDS + 1):  # the first is for what is set up once
        started = time.perf_counter()
        n_bytes = sum(found.vectors_CRD.nbytes for found in model.encode(batches))
        if number:
            seconds.append(time.perf_counter() - started)
    middle = statistics.median(seconds)
    return {
        "tokens_per_second": tokens_of(batches) / middle,
        "bytes_to_host_per_second": n_bytes / middle,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(_DEVICE),
        "batches": len(batches),
        "padding": 0 if config.packed else 1 - tokens_of(batches) / sum(b.input_ids_BT.size for b in batches),
    }


def peak_rate(shapes: Sequence[tuple[int, int]], tokens: int, precision: str) -> float:
    """Operations a second of the GPU in linear layers of (inputs, outputs), one after another."""
    import torch

    kind: dict[str, Any] = {"dtype": getattr(torch, _TYPES[precision]), "device": _DEVICE}
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


def whole_run(model: Path, text: Path, work: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Return what `ctxbatch run` did."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # or the run would find less memory free, and take fewer workers
    given = ["--model", str(model), "--layers", "-1", "--devices", _DEVICE, *settings]
    ran = measuring.run_ctxbatch(text, work / "out", given, dict(os.environ))
    return {
        **ran,
        "tokens_per_second": ran["tokens"] / ran["seconds"],
        "written_bytes_per_second": ran["bytes_written"] / ran["seconds"],
    }


def transfer_rates() -> dict[str, float]:
    """Return bytes a second of one large copy from pinned memory to the GPU, and back."""
    import torch

    host = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    device = torch.empty_like(host, device=_DEVICE)
    rates = {}
    for name, target, source in (("to_gpu", device, host), ("to_host", host, device)):
        target.copy_(source)
        torch.cuda.synchronize(_DEVICE)
        started = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(_DEVICE)
        rates[f"{name}_bytes_per_second"] = host.nbytes / (time.perf_counter() - started)
    return rates


# --- the choices ----------------------------------------------------------------------------------


def measure_choices(model: Path, text: Path, clock: Clock) -> dict[str, dict[str, float]]:
    """Return what computing reaches with one thing chosen otherwise at a time."""
    config, buffers = prepare(model, text)
    variants: list[tuple[str, dict[str, Any], Callable[[Any], None]]] = [("as it is", {}, lambda _: None)]
    variants += [
        (f"{budget} tokens a batch", {"tokens_per_batch": budget}, lambda _: None)
        for budget in (8_192, 16_384, 32_768)
    ]
    variants += [
        ("padded, 16384 tokens a batch", {"packed": False, "tokens_per_batch": 16_384}, lambda _: None),
        ("fp16", {"precision": "fp16"}, lambda _: None),
        ("layers compiled", {}, compile_layers),
        ("fp32, padded", {"precision": "fp32", "packed": False, "tokens_per_batch": 16_384}, lambda _: None),
    ]
    found = {}
    for name, fields, change in variants:
        if clock.allows(name, _COMPILE_SECONDS if change is compile_layers else _CHOICE_SECONDS):
            chosen = dataclasses.replace(config, **fields)
            found[name] = computing(chosen, cut(chosen, buffers), change)
            say(f"{name}: {found[name]['tokens_per_second']:,.0f} tokens/s")
    return found


def compile_layers(encoder: Any) -> None:  # noqa: ANN401 (an Encoder, whose parts are its own)
    """Have torch compile each layer of an encoder's model, for batches of any shape."""
    import torch

    from ctxbatch.model.families import family_of

    inner = encoder._model
    for layer in inner._model.get_submodule(family_of(inner._config).layers):
        layer.forward = torch.compile(layer.forward, dynamic=True)


def measure_workers(model: Path, whole: Path, work: Path, clock: Clock) -> dict[int, dict[str, Any]]:
    """Return what runs with other numbers of workers on one GPU reach."""
    found = {}
    for number in (1, 2, 4):
        if clock.allows(f"{number} workers", _RUN_SECONDS):
            found[number] = whole_run(model, whole, work, ["--workers", str(number)])
            say(f"{number} workers: {found[number]['tokens_per_second']:,.0f} tokens/s")
    return found


# --- what was found -------------------------------------------------------------------------------


def report(
    machine: Mapping[str, Any],
    tests: Mapping[str, Any],
    shapes: Mapping[str, Any],
    choices: Mapping[str, Any],
    workers: Mapping[int, Any],
    rates: Mapping[str, float],
    clock: Clock,
) -> None:
    """Print everything."""
    print(measuring.machine_lines(machine))
    print(f"{machine['device']}; tests marked gpu: {tests['summary'].strip('= ')}")
    print(
        f"disk {rates['disk_bytes_per_second'] / 1e6:,.0f} MB/s, copies to the GPU "
        f"{rates['to_gpu_bytes_per_second'] / 1e9:.1f} GB/s, to the host "
        f"{rates['to_host_bytes_per_second'] / 1e9:.1f} GB/s\n"
    )
    heads = ["shape", "computing tokens/s", "MFU", "peak TFLOP/s", "GPU memory GB", "to host GB/s"]
    print(
        measuring.table(
            [*heads, "run tokens/s", "written MB/s", "padding"], [row(*each) for each in shapes.items()]
        )
    )
    if choices:
        base = choices["as it is"]["tokens_per_second"]
        rows = [
            [
                name,
                shown(each["tokens_per_second"]),
                f"{each['tokens_per_second'] / base:.2f}",
                f"{each['padding']:.1%}",
                f"{each['peak_memory_bytes'] / 1e9:.1f}",
            ]
            for name, each in choices.items()
        ]
        heads = ["bert-base, computing alone", "tokens/s", "to the first", "padding", "GPU memory GB"]
        print(f"\n{measuring.table(heads, rows)}")
    if workers:
        rows = [
            [str(number), shown(each["tokens_per_second"]), shown(each["written_bytes_per_second"] / 1e6)]
            for number, each in sorted(workers.items())
        ]
        print(f"\n{measuring.table(['bert-base, workers on the GPU', 'run tokens/s', 'written MB/s'], rows)}")
    if clock.left_out:
        print(f"\nno time for: {'; '.join(clock.left_out)}")
    print(f"\n{verdict(tests, shapes)}\n")
    found = {"machine": machine, "tests": tests, "shapes": shapes, "choices": choices, "workers": workers}
    print(json.dumps({**found, "rates": rates, "left_out": clock.left_out}))


def row(shape: str, found: Mapping[str, Any]) -> list[str]:
    """Return a row of the table of shapes."""
    ran = found.get("run")
    return [
        shape,
        shown(found["tokens_per_second"]),
        f"{found['mfu']:.0%}",
        shown(found["peak"] / 1e12),
        f"{found['peak_memory_bytes'] / 1e9:.1f}",
        f"{found['bytes_to_host_per_second'] / 1e9:.1f}",
        shown(ran and ran["tokens_per_second"]),
        shown(ran and ran["written_bytes_per_second"] / 1e6),
        "-" if ran is None else f"{ran['padding']:.1%}",
    ]


def verdict(tests: Mapping[str, Any], shapes: Mapping[str, Any]) -> str:
    """Return what the figures say of the goals."""
    lines = [f"tests: {'failed' if tests['status'] else 'met'}"]
    if "bert-base" in shapes:
        mfu = shapes["bert-base"]["mfu"]
        said = "met, and the better one" if mfu >= _BETTER else "met" if mfu >= _GOAL else "not met"
        lines.append(f"MFU computing at bert-base {mfu:.0%}, goal {_GOAL:.0%} [{_BETTER:.0%}]: {said}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
