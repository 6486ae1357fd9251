"""Run one of the contenders of `throughput`, which starts each in a process of its own; nobody else need.

    python -m scripts.benchmarks.contenders loop|st-fp32|st-bf16|ov-fp32|ov-bf16|ov-int8|encode|peak …

Each prints a line of JSON in the end. Peers use all cores by threads in one process, as they do unless told
otherwise, and import nothing of ctxbatch.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.measuring import cores, matrix_rate, wait_for_start
from scripts.command_line import Parser

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from ctxbatch.config import ResolvedConfig
    from ctxbatch.run_config import RunConfig
    from ctxbatch.text.batching import TokenBatch
    from ctxbatch.text.buffers import Buffer
    from ctxbatch.text.sentences import Sentence

_BATCH_LINES = 32
_FLOOR = 1e-3


def main() -> int:
    """Be one of the contenders; returns the exit status."""
    options = parse()
    result = _CONTENDERS[options.name](options)
    print(json.dumps(result), flush=True)
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("name", choices=_CONTENDERS)
    parser.add_argument("--model", help="the model's folder")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--max-tokens", type=int, help="the model's longest input")
    parser.add_argument("--out", type=Path, help="loop: the Arrow file")
    parser.add_argument("--share", type=int, help="encode: which of the shares of the batches")
    parser.add_argument("--of", type=int, help="encode: the number of shares")
    parser.add_argument("--precision", help="peak: bf16 or fp32")
    parser.add_argument("--shapes", type=json.loads, help="peak: inputs and outputs of linear layers")
    parser.add_argument("--tokens", type=int, help="peak: tokens of a batch")
    return parser.parse_args()


def read_lines(path: Path) -> list[str]:
    """Return the lines of the text."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def timed(work: Callable[[Sequence[str]], Any], lines: Sequence[str]) -> dict[str, float]:
    """Seconds of a small warm-up, and then of the whole text."""
    started = time.perf_counter()
    work(lines[:_BATCH_LINES])
    warm = time.perf_counter()
    work(lines)
    return {"seconds": time.perf_counter() - warm, "warm_up_seconds": warm - started}


# --- the loop by hand -----------------------------------------------------------------------------


def loop(options: argparse.Namespace) -> dict[str, float]:
    """Loop over transformers by hand: batches in text order, pooled words, three columns to one file."""
    import pyarrow as pa
    import torch
    import transformers

    torch.set_num_threads(cores())
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = transformers.AutoModel.from_pretrained(options.model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def work(lines: Sequence[str]) -> None:
        kind = pa.list_(pa.float16(), model.config.hidden_size)
        schema = pa.schema([(name, kind) for name in ("static", "contextual", "shift")])
        with pa.ipc.new_file(str(options.out), schema) as writer:
            for begin in range(0, len(lines), _BATCH_LINES):
                encoded = tokenizer(
                    lines[begin : begin + _BATCH_LINES],
                    padding=True,
                    truncation=True,
                    max_length=options.max_tokens,
                    return_tensors="pt",
                )
                hidden = model(**encoded, output_hidden_states=True).hidden_states
                static, contextual = word_means([hidden[0], hidden[-1]], encoded)
                columns = [static, contextual, log_ratio(contextual, static)]
                writer.write_batch(pa.record_batch([as_column(each) for each in columns], schema=schema))

    return timed(work, read_lines(options.text))


def word_means(states: "Sequence[torch.Tensor]", encoded: Any) -> "list[torch.Tensor]":  # noqa: ANN401
    """Return the mean of each word's wordpieces, for all lines of a batch at once."""
    import torch

    numbers: list[int] = []
    n_words = 0
    for row in range(len(encoded["input_ids"])):
        words = [-1 if word is None else word for word in encoded.word_ids(row)]
        numbers += [-1 if word < 0 else n_words + word for word in words]
        n_words += 1 + max(words)
    word_M = torch.tensor(numbers)
    position_M = (word_M >= 0).nonzero()[:, 0]
    word_M = word_M[position_M]
    counts_N = torch.bincount(word_M, minlength=n_words).clamp(min=1)[:, None]
    means = []
    for state in states:
        sums_ND = torch.zeros(n_words, state.shape[-1])
        sums_ND.index_add_(0, word_M, state.flatten(0, 1)[position_M])
        means.append(sums_ND / counts_N)
    return means


def log_ratio(contextual: "torch.Tensor", static: "torch.Tensor") -> "torch.Tensor":
    """ln(contextual / static) where both have one sign and some size, 0 elsewhere."""
    import torch

    valid = (contextual.abs() >= _FLOOR) & (static.abs() >= _FLOOR) & (contextual * static > 0)
    return torch.where(valid, contextual / static, 1.0).log_()


def as_column(vectors: "torch.Tensor") -> "pa.Array":
    """Vectors as a column of half floats, as ctxbatch stores them."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.half().numpy().ravel()), vectors.shape[1])


# --- sentence-transformers ------------------------------------------------------------------------


def sentence_transformers(options: argparse.Namespace) -> dict[str, float]:
    """Compute the token embeddings of all lines; the library sorts them by length. Nothing is written."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(cores())
    kind = torch.bfloat16 if options.name == "st-bf16" else torch.float32
    model = SentenceTransformer(options.model, device="cpu", model_kwargs={"dtype": kind})
    model.max_seq_length = options.max_tokens

    def work(lines: Sequence[str]) -> None:
        found = model.encode(
            list(lines), output_value="token_embeddings", batch_size=_BATCH_LINES, show_progress_bar=False
        )
        assert len(found) == len(lines)
        assert found[0].dtype == kind

    return timed(work, read_lines(options.text))


# --- OpenVINO by hand -----------------------------------------------------------------------------


def openvino_by_hand(options: argparse.Namespace) -> dict[str, float]:
    """Compute the embedding output and the last hidden state of all lines, sorted by length; write nothing.

    All cores are at work: a stream for each, fed by a queue.
    """
    import torch
    import transformers

    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = transformers.AutoModel.from_pretrained(options.model, attn_implementation="eager").eval()

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: "torch.Tensor", attention_mask: "torch.Tensor") -> Any:  # noqa: ANN401
            states = self.model(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
            ).hidden_states
            return states[0], states[-1]

    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    graph = ov.convert_model(Whole(), example_input=example, input=[ov.PartialShape([-1, -1])] * 2)
    precision = options.name.removeprefix("ov-")
    lines = read_lines(options.text)
    if precision == "int8":
        graph = quantised(graph, tokenizer, lines, options.max_tokens)
    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "int8": "f32"}[precision],
        "NUM_STREAMS": cores(),
        "INFERENCE_NUM_THREADS": cores(),
    }
    queue = ov.AsyncInferQueue(ov.Core().compile_model(graph, "CPU", settings), cores())
    found = []
    queue.set_callback(lambda request, _: found.append(request.get_output_tensor(1).data.shape))

    def work(lines: Sequence[str]) -> None:
        encoded = tokenizer(list(lines), truncation=True, max_length=options.max_tokens)["input_ids"]
        encoded.sort(key=len, reverse=True)
        for begin in range(0, len(encoded), _BATCH_LINES):
            batch = encoded[begin : begin + _BATCH_LINES]
            padded = tokenizer.pad({"input_ids": batch}, return_tensors="np")
            queue.start_async([padded["input_ids"], padded["attention_mask"]])
        queue.wait_all()

    return timed(work, lines)


def quantised(graph: Any, tokenizer: Any, lines: Sequence[str], max_tokens: int) -> Any:  # noqa: ANN401
    """Return an int8 graph, calibrated with some of the lines."""
    import nncf

    some = [lines[number * len(lines) // 128] for number in range(128)]
    encoded = [
        dict(tokenizer(line, truncation=True, max_length=max_tokens, return_tensors="np")) for line in some
    ]
    items = [{name: each[name] for name in ("input_ids", "attention_mask")} for each in encoded]
    return nncf.quantize(
        graph, nncf.Dataset(items), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(items)
    )


# --- ctxbatch's encoder alone ---------------------------------------------------------------------


def encode_only(options: argparse.Namespace) -> dict[str, int]:
    """Encode one share of the run's own batches with its own encoder, from a common start."""
    from ctxbatch.model import encoders, resolve
    from ctxbatch.run_config import RunConfig

    config = RunConfig(model=options.model, layers=(-1,), shift="log_ratio")
    resolved = resolve.resolve(config, "cpu")
    model = encoders.open_encoder(resolved, "cpu")
    batches = share_of(run_batches(options.text, config, resolved), options.share, options.of)
    for _ in model.encode(batches[:1]):
        pass
    wait_for_start()
    for _ in model.encode(batches):
        pass
    return {
        "tokens": sum(batch.n_tokens for batch in batches),
        "slots": sum(batch.input_ids_BT.size for batch in batches),
        "batches": len(batches),
    }


def run_batches(text: Path, config: "RunConfig", resolved: "ResolvedConfig") -> "list[TokenBatch]":
    """Return the batches that a run makes of a text, from its own shards, in their order."""
    from ctxbatch.model.resolve import read_tokenizer
    from ctxbatch.text.batching import BatchMaker

    maker = BatchMaker(read_tokenizer(resolved), resolved)
    return [batch for buffer in run_buffers(text, config, resolved) for batch in maker.batches(buffer)]


def run_buffers(text: Path, config: "RunConfig", resolved: "ResolvedConfig") -> "list[Buffer]":
    """Return the buffers that a run fills with a text, from its own shards, in their order."""
    from ctxbatch.model.resolve import read_tokenizer
    from ctxbatch.text.batching import BatchMaker

    maker = BatchMaker(read_tokenizer(resolved), resolved)
    shards = run_sentences(text, config, resolved)
    return [buffer for sentences in shards for buffer in maker.buffers(sentences)]


def run_sentences(
    text: Path, config: "RunConfig", resolved: "ResolvedConfig"
) -> "Iterator[Iterator[Sentence]]":
    """Yield the sentences that a run reads from a text, shard by shard."""
    from ctxbatch.corpus.examine import examine
    from ctxbatch.corpus.inputs import find_sources
    from ctxbatch.corpus.plan import plan
    from ctxbatch.corpus.records import Reader, Record
    from ctxbatch.execution.run_plan import resolve_reading
    from ctxbatch.text.sentences import split_sentences

    sources, _ = find_sources([text], text.parent / "no-store", None)
    reading = resolve_reading(config, sources)
    sources = examine(sources, reading, config.id_field)
    reader = Reader(sources, reading)
    lang, rules = resolved.lang, resolved.sentence_rules
    for spec in plan(sources, reading):
        records = (record for record in reader.read(spec.segments) if isinstance(record, Record))
        yield (each for record in records for each in split_sentences(record, lang, rules))


def share_of(batches: "Sequence[TokenBatch]", share: int, n_shares: int) -> "list[TokenBatch]":
    """Return a contiguous share of the batches, all shares of the same size in tokens, padding included."""
    total = sum(batch.input_ids_BT.size for batch in batches)
    mine, before = [], 0
    for batch in batches:
        middle = before + batch.input_ids_BT.size / 2
        if int(middle * n_shares / total) == share:
            mine.append(batch)
        before += batch.input_ids_BT.size
    return mine


# --- the peak -------------------------------------------------------------------------------------


def peak(options: argparse.Namespace) -> dict[str, float]:
    """Operations a second of one thread in matrix products of the model's shapes; from a common start."""
    import torch

    torch.set_num_threads(1)
    wait_for_start()
    return {"rate": matrix_rate(options.shapes, options.tokens, options.precision)}


_CONTENDERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "loop": loop,
    "st-fp32": sentence_transformers,
    "st-bf16": sentence_transformers,
    "ov-fp32": openvino_by_hand,
    "ov-bf16": openvino_by_hand,
    "ov-int8": openvino_by_hand,
    "encode": encode_only,
    "peak": peak,
}

if __name__ == "__main__":
    sys.exit(main())
