"""Runs shards in a process of its own: ``python -m ctxbatch.execution.worker OUT DEVICE [MODEL]``.

`ctxbatch.execution.local_pool` starts it. It reads shard numbers from standard input, a JSON object a line,
and says on standard output what became of them. It ends at once when standard input closes: then its
coordinator is gone. Owns what every worker does with a shard, wherever it runs.
"""

import contextlib
import functools
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ctxbatch.arrays import leave_pandas_out
from ctxbatch.errors import CtxbatchError
from ctxbatch.execution.messages import (
    Committed,
    Failed,
    Found,
    Job,
    Loaded,
    Message,
    Ready,
    Stopped,
    Taken,
    decode_job,
    encode,
)
from ctxbatch.execution.shard_coder import ShardCoder
from ctxbatch.store.bucket_location import BucketLocation
from ctxbatch.store.location import StoreLocation, location_of
from ctxbatch.store.locks import Claims
from ctxbatch.store.manifest import Manifest
from ctxbatch.store.shard_writer import remove_unfinished
from ctxbatch.terminal import escape_tracebacks, file_handler

_REASON_LENGTH = 300


def main() -> None:
    """Run shards until the coordinator ends this process."""
    # The terminal sends Ctrl-C to the whole process group; the coordinator alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    escape_tracebacks()
    leave_pandas_out()
    logging.getLogger("ctxbatch").addHandler(file_handler(sys.stderr))
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log, not between the messages
    jobs: queue.Queue[Job] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    say = functools.partial(_say, channel)
    with telling(say):
        model = Path(sys.argv[3]) if len(sys.argv) > 3 else None
        run_shards(location_of(sys.argv[1]), sys.argv[2], jobs.get, say, model)
    sys.stderr.flush()
    os._exit(1)  # whatever a thread is at


@contextlib.contextmanager
def telling(say: Callable[[Message], None]) -> Iterator[None]:
    """Say what ends a worker: what stops the run, or a defect that would only come again.

    Args:
        say: Told which of the two, with a message or a reason in one line.
    """
    try:
        yield
    except CtxbatchError as error:
        say(Stopped(type(error).__name__, str(error)))
    except MemoryError:
        message = "a worker ran out of memory: use fewer --workers or a larger machine, then run again"
        say(Stopped("ResourceError", message))
    except OSError as error:
        message = f"{error.filename or 'a worker'}: {error.strerror or error}: fix it and run again"
        say(Stopped("ResourceError", message))
    except BaseException as error:  # panics of Rust are no Exception
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(Failed(reason[:_REASON_LENGTH], traceback.format_exc()))


def run_shards(
    location: StoreLocation,
    device: str,
    next_job: Callable[[], Job],
    say: Callable[[Message], None],
    model: Path | None = None,
) -> None:
    """Make shards of a store on one device, for as long as there are jobs.

    Each is made under its claim, which is this process's own: it is free again when nobody is left who
    could still write the shard.

    Args:
        location: Where the store is; its folder holds the manifest.
        device: ``cpu`` or ``cuda:N``.
        next_job: Waits for a shard to make.
        say: Told what happens.
        model: The folder of the model; found by the name in the manifest if not given.

    Raises:
        CtxbatchError: Something stops the whole run.
    """
    from ctxbatch.execution.pipeline import ShardPipeline, prefetch

    pipeline = ShardPipeline(location.folder, device, model)
    with Claims(location.folder) as claims:
        if isinstance(location, BucketLocation):
            location.remove_unclaimed(claims)
        say(Loaded())
        shards = _shards_to_make(location, pipeline.manifest, claims, next_job, say)
        made = pipeline.run_shards(shards, say)
        coder = ShardCoder(location, pipeline.manifest)
        for commit in made if location.is_here else prefetch(made, 1, threading.Event()):
            location.publish(commit)
            claims.release(commit.shard)
            say(Committed(commit.shard, commit.counts))
            coder.code(commit)


def _shards_to_make(
    location: StoreLocation,
    manifest: Manifest,
    claims: Claims,
    next_job: Callable[[], Job],
    say: Callable[[Message], None],
) -> Iterator[int]:
    """Yield the shards of jobs, claimed; not those that others are making or have committed."""
    while True:
        say(Ready())
        job = next_job()
        shard = job.shard
        if not claims.take(shard):
            say(Taken(shard))
        elif not job.rebuild and (commit := location.commit_of(manifest, manifest.shards[shard])):
            claims.release(shard)
            say(Found(shard, commit.counts))
        else:
            remove_unfinished(location.folder, shard)
            yield shard


def _listen(jobs: "queue.Queue[Job]") -> None:
    for line in sys.stdin:
        jobs.put(decode_job(line))
    os._exit(1)


def _say(channel: IO[str], message: Message) -> None:
    channel.write(encode(message))


if __name__ == "__main__":
    main()
