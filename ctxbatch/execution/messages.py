"""Defines the messages between workers and their coordinator, and encodes each as a line."""

import msgspec

from ctxbatch.store.commits import Counts


class _Struct(msgspec.Struct, frozen=True, tag=True):
    """A message is known by its class."""


class Job(_Struct, frozen=True):
    """To a worker: a shard to make; ``rebuild`` says to make it although it is committed."""

    shard: int
    rebuild: bool


class Placed(_Struct, frozen=True):
    """A worker of a cluster has its place, on this host."""

    host: str


class Loaded(_Struct, frozen=True):
    """A worker has loaded the model."""


class Ready(_Struct, frozen=True):
    """A worker waits for a job."""


class Progress(_Struct, frozen=True):
    """What has been written of a shard since the last such message; and what was read of it, in all.

    ``rejected`` counts records, ``first_reject`` names one.
    """

    shard: int
    bytes: int
    sentences: int
    tokens: int
    records: int
    rejected: int
    first_reject: str | None


class Committed(_Struct, frozen=True):
    """A worker has committed a shard."""

    shard: int
    counts: Counts


class Found(_Struct, frozen=True):
    """Another process had committed the shard."""

    shard: int
    counts: Counts


class Taken(_Struct, frozen=True):
    """Another process is making the shard; it is asked for again."""

    shard: int


class Left(_Struct, frozen=True):
    """Another process is making the shard, and it is left to that one."""

    shard: int


class Retried(_Struct, frozen=True):
    """The worker of a shard has died, and the shard is run again."""

    shard: int


class GivenUp(_Struct, frozen=True):
    """A shard has failed too often."""

    shard: int
    why: str


class Failed(_Struct, frozen=True):
    """A defect has ended a worker; the same shard would only bring it again."""

    reason: str
    trace: str


class Stopped(_Struct, frozen=True):
    """Something stops the whole run: the kind of the error, and what it says."""

    kind: str
    message: str


class Logged(_Struct, frozen=True):
    """A worker of a cluster has logged something."""

    text: str


class Tick(_Struct, frozen=True):
    """Nothing was said for a while."""


Message = (
    Placed
    | Loaded
    | Ready
    | Progress
    | Committed
    | Found
    | Taken
    | Left
    | Retried
    | GivenUp
    | Failed
    | Stopped
    | Logged
    | Tick
)
_messages = msgspec.json.Decoder(Message)
_jobs = msgspec.json.Decoder(Job)


def encode(message: Message | Job) -> str:
    """Return a message as a line."""
    return msgspec.json.encode(message).decode() + "\n"


def decode(line: str) -> Message:
    """Return the message that a line holds.

    Raises:
        ValueError: The line is none, or half of one.
    """
    message: Message = _messages.decode(line)
    return message


def decode_job(line: str) -> Job:
    """Return the job that a line holds.

    Raises:
        ValueError: The line is none.
    """
    return _jobs.decode(line)
