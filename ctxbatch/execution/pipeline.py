"""Makes shards in three overlapping stages: read and tokenise, encode, write.

Owns the stages and their order. Does not know who asks for shards, nor how many processes do. A stage is a
generator. `prefetch` runs it ahead of the next one in a thread, also from one shard to the next.
"""

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.records import Reader, Record, Reject
from ctxbatch.errors import ResourceError
from ctxbatch.execution.messages import Progress
from ctxbatch.files import as_resource_error
from ctxbatch.model.devices import describe_device, library_versions
from ctxbatch.model.encoders import open_encoder
from ctxbatch.model.hub import find_model
from ctxbatch.model.resolve import read_tokenizer
from ctxbatch.model.unbatch import Gathered, gather
from ctxbatch.model.word_vectors import OutOfMemoryError
from ctxbatch.store.commits import Commit
from ctxbatch.store.int8_layers import find_layers
from ctxbatch.store.manifest import Manifest
from ctxbatch.store.shard_writer import ShardWriter
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.buffers import Buffer
from ctxbatch.text.sentences import Sentence, split_sentences
from ctxbatch.text.unicode_words import check_versions

log = logging.getLogger("ctxbatch")
Item = TypeVar("Item")
# Buffers waiting between two stages: enough to overlap, few enough to keep memory small.
_DEPTH = 1


class _Clock:
    """A thread's time, lap by lap; every lap is put down to a shard, a stage and a state."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self, seconds: dict[str, float], state: str) -> None:
        """Add the time since the last lap to the seconds of a state."""
        now = time.perf_counter()
        seconds[state] += now - self._since
        self._since = now


def _no_seconds() -> dict[str, dict[str, float]]:
    """Return zero seconds for each stage: at work, waiting for input, waiting for room to hand it on."""
    states = ("busy", "starved", "blocked")
    return {stage: dict.fromkeys(states, 0.0) for stage in ("read", "encode", "write")}


@dataclass(slots=True)
class ShardState:
    """A shard on its way through the stages, and what it has met so far."""

    spec: ShardSpec
    started: float
    budget: int
    bytes: int = 0
    records: int = 0
    rejects: list[Reject] = field(default_factory=list)
    seconds: dict[str, dict[str, float]] = field(default_factory=_no_seconds)


@dataclass(frozen=True, slots=True)
class ReadBuffer:
    """A buffer of a shard as it is read. ``bytes`` were read of the sources since the last one."""

    state: ShardState
    bytes: int
    buffer: Buffer


@dataclass(frozen=True, slots=True)
class EncodedBuffer:
    """A buffer with its vectors; ``tokens`` went through the model, in ``slots`` with the padding."""

    state: ShardState
    bytes: int
    gathered: Gathered
    tokens: int
    slots: int


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """What follows a shard's last buffer."""

    state: ShardState
    bytes: int


class ShardPipeline:
    """A loaded model and what it takes to run shards of one store on one device.

    Args:
        out: The store's folder, its manifest written.
        device: ``cpu`` or ``cuda:N``.
        model: The folder of the model; found by the name in the manifest if not given.

    Raises:
        CtxbatchError: The manifest or the model cannot be used.
    """

    def __init__(self, out: Path, device: str, model: Path | None = None) -> None:
        self._out = out
        self.manifest = Manifest.read(out)
        config = self.manifest.config
        folder = None if model is None else find_model(str(model), None)
        if config.word_rule is not None:
            check_versions(config.versions)
        self._maker = BatchMaker(read_tokenizer(config, folder), config)
        self._encoder = open_encoder(config, device, folder, find_layers(out, config))
        self._reader = Reader(self.manifest.sources, self.manifest.reading)
        self._device = device

    def run_shards(self, shards: Iterable[int], report: Callable[[Progress], None]) -> Iterator[Commit]:
        """Run shards one after another and yield the commit record of each.

        Args:
            shards: Their numbers; asked for the next one when the reading of the last is done.
            report: Called after every buffer that is written.

        Raises:
            InputError: A source cannot be read or is not what was planned.
            ResourceError: The disk is full, or a folder cannot be written to.
        """
        specs = (self.manifest.shards[shard] for shard in shards)
        stopped = threading.Event()
        read_ahead = prefetch(self._read(specs), _DEPTH, stopped)
        encoded = prefetch(self._encode(read_ahead), _DEPTH, stopped)
        try:
            yield from self._write(encoded, report)
        except OSError as error:
            raise as_resource_error(error, self._out) from error
        except MemoryError as error:
            raise ResourceError(f"{self._device} has too little memory for a worker: {error}") from error
        finally:
            stopped.set()

    def _read(self, specs: Iterable[ShardSpec]) -> Iterator[ReadBuffer | ShardEnd]:
        for spec in specs:
            state = ShardState(spec, time.time(), self.manifest.config.tokens_per_batch)
            clock, seconds, taken = _Clock(), state.seconds["read"], 0
            for buffer in self._maker.buffers(self._sentences(state)):
                clock.lap(seconds, "busy")
                upto = max(taken, state.bytes - _to_come(buffer))
                yield ReadBuffer(state, upto - taken, buffer)
                clock.lap(seconds, "blocked")
                taken = upto
            clock.lap(seconds, "busy")
            yield ShardEnd(state, spec.size - taken)

    def _sentences(self, state: ShardState) -> Iterator[Sentence]:
        before, config = self._reader.bytes_read, self.manifest.config
        for record in self._reader.read(state.spec.segments):
            state.bytes = self._reader.bytes_read - before
            state.records += record.times if isinstance(record, Record) else 1
            if isinstance(record, Record):
                yield from split_sentences(record, config.lang, config.sentence_rules)
            else:
                state.rejects.append(record)

    def _encode(self, items: Iterable[ReadBuffer | ShardEnd]) -> Iterator[EncodedBuffer | ShardEnd]:
        clock = _Clock()
        for item in items:
            seconds = item.state.seconds["encode"]
            clock.lap(seconds, "starved")
            encoded = self._encoded(item) if isinstance(item, ReadBuffer) else item
            clock.lap(seconds, "busy")
            yield encoded
            clock.lap(seconds, "blocked")

    def _encoded(self, item: ReadBuffer) -> EncodedBuffer:
        """Encode a buffer, in smaller batches where the device's memory is too small for these."""
        state = item.state
        while True:
            try:
                return self._try_to_encode(item)
            except OutOfMemoryError as error:
                longest = int(item.buffer.window_length_W.max()) + self._maker.n_specials
                if state.budget <= longest:
                    raise ResourceError(
                        f"{self._device} has no memory for a single window of {longest} tokens: {error}"
                    ) from None
                state.budget //= 2
                log.warning(
                    "shard %06d: out of memory, going on with %d tokens a batch: %s",
                    state.spec.shard,
                    state.budget,
                    error,
                )

    def _try_to_encode(self, item: ReadBuffer) -> EncodedBuffer:
        batches = list(self._maker.batches(item.buffer, item.state.budget))
        encoded = zip(batches, self._encoder.encode(batches), strict=True)
        gathered = gather(self.manifest.config, item.buffer, encoded, self._out)
        tokens = sum(batch.n_tokens for batch in batches)
        is_packed = self.manifest.config.packed
        slots = tokens if is_packed else sum(batch.input_ids_BT.size for batch in batches)
        return EncodedBuffer(item.state, item.bytes, gathered, tokens, slots)

    def _write(
        self, items: Iterator[EncodedBuffer | ShardEnd], report: Callable[[Progress], None]
    ) -> Iterator[Commit]:
        manifest, clock = self.manifest, _Clock()
        for first in items:
            state, item = first.state, first
            seconds = state.seconds["write"]
            clock.lap(seconds, "starved")
            with ShardWriter(self._out, state.spec.shard, manifest) as writer:
                while isinstance(item, EncodedBuffer):
                    writer.write(item.gathered)
                    writer.counts.tokens += item.tokens
                    writer.counts.slots += item.slots
                    report(self._progress(item))
                    clock.lap(seconds, "busy")
                    item = next(items)
                    clock.lap(seconds, "starved")
                writer.reject(state.rejects)
                writer.counts.records = state.records
                report(self._progress(item))
                commit = writer.commit(functools.partial(self._facts, state, clock))
            yield commit

    def _progress(self, item: EncodedBuffer | ShardEnd) -> Progress:
        state = item.state
        first = None
        if state.rejects:
            reject = state.rejects[0]
            source = self.manifest.sources[reject.source].path
            first = f"{source}, record {reject.record}: {reject.reason}"
        n_sentences, n_tokens = 0, 0
        if isinstance(item, EncodedBuffer):
            n_sentences, n_tokens = len(item.gathered.buffer.sentences), item.tokens
        return Progress(
            state.spec.shard,
            item.bytes,
            n_sentences,
            n_tokens,
            state.records,
            len(state.rejects),
            first,
        )

    def _facts(self, state: ShardState, clock: _Clock) -> dict[str, Any]:
        """Return the facts of a written and synced shard for its commit record."""
        clock.lap(state.seconds["write"], "busy")
        stages = {
            stage: {state: round(spent, 4) for state, spent in seconds.items()}
            for stage, seconds in state.seconds.items()
        }
        return {
            "fingerprint": self.manifest.config.fingerprint,
            "inputs": [asdict(segment) for segment in state.spec.segments],
            "timing": {"started": state.started, "finished": time.time(), "stages": stages},
            "tokens_per_batch": state.budget,
            "device": describe_device(self._device),
            "versions": library_versions(),
            "peak_memory_bytes": peak_memory(),
        }


def _to_come(buffer: Buffer) -> int:
    """Return how many code points of the last record are behind a buffer; so many bytes at least."""
    if not buffer.sentences:
        return 0
    last = buffer.sentences[-1]
    return max(0, len(last.record.text) - last.char_start - len(last.text))


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


# --- running ahead --------------------------------------------------------------------------------

_END = object()
_POLL_SECONDS = 0.2


def prefetch(items: Iterable[Item], depth: int, stopped: threading.Event) -> Iterator[Item]:
    """Yield items that a thread of its own draws from an iterable, at most ``depth`` ahead.

    What the iterable raises is raised here. Once ``stopped`` is set, thread and generator end; without
    it, a stage that nobody listens to any more would wait for ever.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)

    def draw() -> None:
        try:
            for item in items:
                if not _put(waiting, (item, None), stopped):
                    return
            _put(waiting, (_END, None), stopped)
        except BaseException as error:  # handed to the thread that waits for the items
            _put(waiting, (_END, error), stopped)

    threading.Thread(target=draw, daemon=True).start()
    while not stopped.is_set():
        with contextlib.suppress(queue.Empty):
            item, error = waiting.get(timeout=_POLL_SECONDS)
            if error is not None:
                raise error
            if item is _END:
                return
            yield item


def _put(waiting: queue.Queue[Any], entry: object, stopped: threading.Event) -> bool:
    """Put an entry as soon as there is room; false where nobody listens any more."""
    while not stopped.is_set():
        try:
            waiting.put(entry, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
