"""Prove that inputs of the size that the program is for are planned and read whole, in bounded memory.

    python -m scripts.checks.real_size [--work FOLDER] [--only NAME ...] [--scale 1.0]

Makes the inputs, seeded: 64 MB of text compressed in each way, a plain file of 1 GB in short lines, 20,000
small files, a .gz that expands to 3 GB of few words, 200 million empty lines in a .gz, and a Parquet file of
one huge row group. Runs `plan` and `run` on each as a user would, no check skipped, with a tiny random model
and ten rare words, so that reading is what costs. Prints a table. The exit status is 1 if a coordinator needs
500 MB, if `plan` of the compressed text costs over three times what decompressing it once costs, beyond what
it costs on the same text uncompressed, if the plan is far from the run, or if a record was not read. With a
smaller ``--scale`` the inputs are smaller, and less is shown.
"""

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from scripts.command_line import Parser, program, run, say, working_folder

COORDINATOR_BYTES = 500e6
MOST_DECOMPRESSIONS = 3
# How far a plan may be off: a sample is all that it has.
AGREEMENT = 0.15
FEW = 1_000
RARE = ("aardvark", "quincunx", "zephyr", "obelisk", "fjord", "gypsum", "larynx", "psalm", "sphinx", "wyvern")
# The same text as it is, which comes first.
PLAIN = ("",)
COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": partial(gzip.open, mode="wb", compresslevel=6),
    ".bz2": partial(bz2.open, mode="wb", compresslevel=1),
    ".xz": partial(lzma.open, mode="wb", preset=0),
    ".zst": lambda path: pa.CompressedOutputStream(str(path), "zstd"),
    ".lz4": lambda path: pa.CompressedOutputStream(str(path), "lz4"),
}


@dataclass(slots=True)
class Case:
    """An input, what it holds, and what was found when it was planned and run."""

    name: str
    path: Path
    records: int
    bytes: int
    facts: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    """Make the inputs and run; returns the exit status."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_kept_work()
    kinds = sorted(MAKERS)
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, help="these inputs alone")
    parser.add_argument("--scale", type=float, default=1.0, help="how large the inputs are")
    arguments = parser.parse_args()
    with working_folder(arguments.work) as work:
        cases = list(check(work, arguments.only, arguments.scale))
    print(table(cases))
    return 1 if any(case.wrong for case in cases) else 0


def check(folder: Path, names: list[str], scale: float, timed: bool = True) -> Iterator[Case]:
    """Make every input, plan it and run it, and maybe time its plan; the input is removed after that."""
    from tests.helpers.models import make_model

    model = make_model(folder / "model", "bert")
    (folder / "rare.txt").write_text("\n".join(RARE))
    for name in names:
        for case in MAKERS[name](folder, scale):
            judge(case, folder, model)
            if timed and not case.wrong and case.path.name.startswith("text.txt"):
                time_plan(case, folder, model)
            yield case
            say(f"{case.name}: {'; '.join(case.wrong) or 'as it should be'}")
            if case.path.is_file():
                case.path.unlink()


# --- the inputs -----------------------------------------------------------------------------------


def lines(n_bytes: float, seed: int, n_words: int, longest: int) -> Iterator[bytes]:
    """Ten thousand lines of made-up words at a time, until there are so many bytes; one has a rare word."""
    chance = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randrange(2, 10))) for _ in range(n_words)]
    written = 0
    while written < n_bytes:
        block = [" ".join(chance.choices(words, k=chance.randrange(1, longest))) for _ in range(10_000)]
        block[chance.randrange(len(block))] += " " + chance.choice(RARE)
        data = "".join(f"{line}\n" for line in block).encode()
        written += len(data)
        yield data


def write(name: str, path: Path, blocks: Iterator[bytes], stream: IO[bytes]) -> Case:
    """Write blocks to a stream, which is closed."""
    records = n_bytes = 0
    with stream:
        for block in blocks:
            stream.write(block)
            records += block.count(b"\n")
            n_bytes += len(block)
    return Case(name, path, records, n_bytes)


def make_compressed(folder: Path, scale: float) -> Iterator[Case]:
    """64 MB of text in each compression, and first as it is, to compare with."""
    for suffix in (*PLAIN, *COMPRESSED):
        path = folder / f"text.txt{suffix}"
        stream = COMPRESSED[suffix](path) if suffix else path.open("wb")
        case = write(f"64 MB text {suffix}", path, lines(64e6 * scale, 1, 50_000, 30), stream)
        assert scale < 1 or path.stat().st_size > 8 << 20
        yield case


def make_plain(folder: Path, scale: float) -> Iterator[Case]:
    """Yield a gigabyte in short lines."""
    path = folder / "short.txt"
    yield write(
        "1 GB in short lines", path, repeated(1e9 * scale, lines(8e6, 2, 50_000, 12)), path.open("wb")
    )


def make_many(folder: Path, scale: float) -> Iterator[Case]:
    """Twenty thousand files of one line to ten."""
    place, records, n_bytes = folder / "many", 0, 0
    whole = b"".join(lines(8e6, 3, 50_000, 20)).splitlines(keepends=True)
    for number in range(int(20_000 * scale)):
        chosen = whole[number % 10_000 : number % 10_000 + number % 10 + 1]
        path = place / f"{number // 1000:02d}" / f"{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(chosen))
        records, n_bytes = records + len(chosen), n_bytes + path.stat().st_size
    yield Case("20,000 small files", place, records, n_bytes)


def make_expanding(folder: Path, scale: float) -> Iterator[Case]:
    """Three gigabytes of few words, in a .gz that is small."""
    path = folder / "few.txt.gz"
    blocks = repeated(3e9 * scale, lines(1e6, 4, 12, 60))
    yield write("3 GB of few words .gz", path, blocks, COMPRESSED[".gz"](path))


def make_empty(folder: Path, scale: float) -> Iterator[Case]:
    """Two hundred million empty lines, with a few between them that are not."""
    path = folder / "empty.txt.gz"
    blocks = repeated(2e8 * scale, iter([b"a zephyr blows\n", *[b"\n" * 1_000_000] * 10]))
    yield write("200 million empty lines .gz", path, blocks, COMPRESSED[".gz"](path))


def repeated(n_bytes: float, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same blocks again and again, until there are so many bytes."""
    kept, written = list(blocks), 0
    while written < n_bytes:
        for block in kept:
            yield block
            written += len(block)


def make_parquet(folder: Path, scale: float) -> Iterator[Case]:
    """One row group of half a gigabyte."""
    path = folder / "one.parquet"
    texts = b"".join(lines(512e6 * scale, 5, 50_000, 60)).decode().split("\n")[:-1]
    column = pa.array(texts, pa.large_string())
    pq.write_table(pa.table({"text": column}), path, row_group_size=len(texts))
    assert pq.read_metadata(path).num_row_groups == 1
    yield Case("Parquet of one row group", path, len(texts), sum(map(len, texts)))


MAKERS: dict[str, Callable[[Path, float], Iterator[Case]]] = {
    "compressed": make_compressed,
    "plain": make_plain,
    "many": make_many,
    "expanding": make_expanding,
    "empty": make_empty,
    "parquet": make_parquet,
}


# --- plan and run ---------------------------------------------------------------------------------


def judge(case: Case, folder: Path, model: Path) -> None:
    """Plan and run an input, and say what is wrong."""
    options = ["--model", model, "--words", folder / "rare.txt", "--vectors", "static"]
    out = folder / f"out-{case.path.name}"
    planned = command(case, "plan", [case.path, "-o", out, *options, "--json"])
    command(case, "run", [case.path, "-o", out, *options, "--no-index", "-q"])
    if not case.wrong:
        compare(case, json.loads(planned), out)


def command(case: Case, name: str, arguments: list[Any]) -> str:
    """Run a command, note its seconds and its peak memory, and return what it says."""
    started = time.monotonic()
    process = subprocess.Popen(
        program(name, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    peak = watch(process)
    said, wrong = process.communicate()
    case.facts[f"{name} s"] = round(time.monotonic() - started, 1)
    case.facts[f"{name} MB"] = round(peak["bytes"] / 1e6)
    if process.returncode:
        case.wrong.append(f"{name} ends with {process.returncode}: {wrong.strip()[-300:]}")
    elif peak["bytes"] > COORDINATOR_BYTES:
        case.wrong.append(f"the coordinator of {name} needed {peak['bytes'] / 1e6:,.0f} MB")
    return said


def watch(process: subprocess.Popen) -> dict[str, int]:
    """Follow a process's peak memory until it ends."""
    peak = {"bytes": 0}

    def look() -> None:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            except (OSError, StopIteration):
                return
            peak["bytes"] = int(line.split()[1]) * 1024
            time.sleep(0.02)

    threading.Thread(target=look, daemon=True).start()
    return peak


def compare(case: Case, planned: dict[str, Any], out: Path) -> None:
    """Hold the plan against the run, and the run against what was written."""
    from ctxbatch import open as open_store
    from ctxbatch.store.stats import totals

    store = open_store(out)
    found = totals(store)
    peaks = [commit.peak_memory_bytes for commit in store.commits.values()]
    case.facts |= {"worker MB": round(max(peaks) / 1e6), "shards": len(peaks), "records": found.records}
    case.facts["planned/run"] = round(planned["records"] / found.records, 3)
    if found.records != case.records or found.rejected:
        what = f"{found.records:,} records of {case.records:,} were read, {found.rejected:,} rejected"
        case.wrong.append(what)
    for name, real in (("records", case.records), ("bytes", case.bytes), ("sentences", found.sentences)):
        if name == "sentences" and real < FEW:
            continue  # whether a sample meets one of so few is chance
        if abs(planned[name] - real) > AGREEMENT * real + 20:
            case.wrong.append(f"plan says {planned[name]:,} {name}, and there are {real:,}")


_plain_seconds: list[float] = []


def time_plan(case: Case, folder: Path, model: Path) -> None:
    """Time a plan in this process, where all is imported, against decompressing the input once."""
    import ctxbatch
    from ctxbatch.corpus.compression import find_compression
    from ctxbatch.corpus.streams import ByteStream

    config = ctxbatch.RunConfig(model=str(model), words=tuple(RARE), vectors=("static",))
    seconds = min(seconds_of(lambda: ctxbatch.estimate(case.path, folder / "new", config)) for _ in range(3))
    compression = find_compression(case.path, b"")
    if compression is None:
        _plain_seconds[:] = [seconds]
        return
    stream = ByteStream(str(case.path), compression)

    def decompress() -> None:
        while stream.read(1 << 20):
            pass

    once = seconds_of(decompress)
    stream.close()
    beyond = seconds - _plain_seconds[0]
    case.facts |= {"plan beyond s": round(max(beyond, 0), 2), "once s": round(once, 2)}
    if beyond > MOST_DECOMPRESSIONS * once:
        case.wrong.append(f"plan costs {beyond:.2f} s, and decompressing once {once:.2f} s")


def seconds_of(do: Callable[[], Any]) -> float:
    """How many seconds something takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


# --- the table ------------------------------------------------------------------------------------

COLUMNS = [
    *("plan s", "plan MB", "run s", "run MB", "worker MB", "shards", "records", "planned/run"),
    *("plan beyond s", "once s"),
]


def table(cases: list[Case]) -> str:
    """Return what was found, a line a case."""
    rows = [["input", "bytes", *COLUMNS, "wrong"]]
    for case in cases:
        facts = [case.facts.get(column, "") for column in COLUMNS]
        shown = [f"{fact:,}" if isinstance(fact, int) else str(fact) for fact in facts]
        rows.append([case.name, f"{case.bytes:,}", *shown, "; ".join(case.wrong)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(run(main))
