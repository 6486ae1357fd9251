"""`ctxbatch plan` says from a sample what a run will come to."""

import gzip
import json
import random
import re

import pyarrow as pa
import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig
from ctxbatch.execution import estimate, rates
from ctxbatch.store.stats import totals
from tests.helpers.corpora import (
    COMPRESS,
    as_delimited,
    as_json_lines,
    as_lines,
    as_table,
    reading_of,
    write_arrow_file,
    write_parquet,
)
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store

WRAPPED = [
    "A lock is a thing that protects data from being changed by two",
    "processes at the same time, and the process that holds it must",
    "disable interrupts while the lock is held. If it does not, then",
    "another one waits for ever, because the one that could release",
]
LINES = [line for line in TEXT.splitlines() if line.strip() and "antidis" not in line]


def texts(n_lines):
    """Lines of very different lengths, long ones more often towards the end."""
    chance = random.Random(6)
    return [" ".join(chance.choices(LINES, k=1 + n * chance.randrange(4) // n_lines)) for n in range(n_lines)]


def write(name, path, content):
    suffix = path.suffix if path.suffix in COMPRESS else ""
    if name.startswith("table"):
        (write_parquet if path.suffix == ".parquet" else write_arrow_file)(as_table(content), path)
    else:
        encode = {"csv": lambda lines: as_delimited(lines, ","), "jsonl": as_json_lines, "txt": as_lines}
        path.write_bytes(COMPRESS[suffix](encode[name.split(".")[1]](content)))


@pytest.mark.parametrize(
    "name",
    ["a.txt", "a.txt.xz", "a.jsonl", "a.jsonl.zst", "a.csv", "a.csv.gz", "table.parquet", "table.arrow"],
)
@pytest.mark.parametrize("n_lines", [40, 3_000])
def test_an_estimate_is_close_to_the_run(tmp_path, tiny, monkeypatch, name, n_lines):
    monkeypatch.setattr(estimate, "_SAMPLE_BYTES", 100_000)
    content = texts(n_lines)
    write(name, tmp_path / name, content)
    config = RunConfig(model=str(tiny()), vectors=("static",))
    expected = ctxbatch.estimate(tmp_path / name, tmp_path / "out", config)
    assert (expected.sampled < 1) == (n_lines > 40)
    found = totals(make_store(tmp_path / "out", [tmp_path / name], config))
    # Of CSV only the beginning can be sampled, where these lines are shorter.
    within = 0.02 if n_lines == 40 else 0.35 if "csv" in name else 0.12
    for key, real in (
        ("records", found.records),
        ("sentences", found.sentences),
        ("words", found.words),
    ):
        assert getattr(expected, key) == pytest.approx(real, rel=within), key
    assert expected.tokens == pytest.approx(found.tokens, rel=within)
    assert expected.bytes_on_disk == pytest.approx(found.bytes_written, rel=within + 0.03, abs=20_000)
    assert expected.rejected == 0


@pytest.mark.parametrize("letters", ["ab", "abcdefghijklmnopqrstuvwxyz0123456789"])
def test_as_many_shards_are_announced_as_are_planned_however_well_a_text_compresses(letters, tmp_path, tiny):
    chance = random.Random(6)
    lines = [" ".join("".join(chance.choices(letters, k=6)) for _ in range(10)) for _ in range(25_000)]
    path = tmp_path / "a.txt.gz"
    write(path.name, path, lines)
    expected = ctxbatch.estimate(path, tmp_path / "out", RunConfig(model=str(tiny()), vectors=("static",)))
    _, shards, _ = reading_of(path)
    assert expected.shards == pytest.approx(len(shards), abs=2)


def test_many_files_are_sampled_evenly(tmp_path, tiny):
    for number in range(100):
        (tmp_path / f"{number:03d}.txt").write_bytes(as_lines(LINES[: 1 + number % 5]))
    config = RunConfig(model=str(tiny()), vectors=("static",))
    expected = ctxbatch.estimate(tmp_path, tmp_path / "out", config)
    assert expected.sources == 100
    assert expected.sampled < 1
    assert expected.words == pytest.approx(
        totals(make_store(tmp_path / "out", [tmp_path], config)).words, rel=0.1
    )


def test_rejects_and_damage_are_part_of_the_estimate(tmp_path, tiny):
    whole = COMPRESS[".gz"](as_lines(texts(400)))
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "mixed.jsonl").write_bytes(as_json_lines(LINES) + b"{\n" * 5)
    (tmp_path / "bad.csv").write_text("id,text\n0,too,many\n" + "1,a line\n" * 50)
    config = RunConfig(model=str(tiny()), vectors=("static",))
    expected = ctxbatch.estimate(tmp_path, tmp_path / "out", config)
    found = totals(make_store(tmp_path / "out", [tmp_path], config))
    assert (expected.records, expected.rejected, expected.words) == (
        found.records,
        found.rejected,
        found.words,
    )
    (tmp_path / "none.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="nothing can be read"):
        ctxbatch.estimate(tmp_path / "none.txt.gz", tmp_path / "out", config)


def test_what_lies_behind_a_damage_is_not_counted(tmp_path, tiny):
    indices = pa.array([n % len(LINES) if n != 5_000 else 99 for n in range(12_000)], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(LINES), safe=False)
    write_arrow_file(pa.table({"text": column}), tmp_path / "a.arrow", rows=12_000)
    config = RunConfig(model=str(tiny()), vectors=("static",))
    expected = ctxbatch.estimate(tmp_path, tmp_path / "out", config)
    found = totals(make_store(tmp_path / "out", [tmp_path], config))
    assert found.records == 4_097
    assert expected.records == pytest.approx(found.records, rel=0.02)
    assert expected.words == pytest.approx(found.words, rel=0.05)
    assert expected.rejected == found.rejected == 1


def test_a_limit_bounds_the_estimate(tmp_path, tiny):
    (tmp_path / "a.txt").write_bytes(as_lines(LINES * 20))
    config = RunConfig(model=str(tiny()), vectors=("static",), limit=len(LINES))
    expected = ctxbatch.estimate(tmp_path / "a.txt", tmp_path / "out", config)
    assert expected.records == len(LINES)
    assert expected.words == pytest.approx(
        totals(make_store(tmp_path / "out", [tmp_path], config)).words, rel=0.02
    )


def test_one_line_longer_than_the_sample_is_judged_by_its_beginning(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(estimate, "_SAMPLE_BYTES", 20_000)
    (tmp_path / "a.txt").write_text(" ".join(LINES[1:4] * 2_000), encoding="utf-8")
    config = RunConfig(model=str(tiny()), vectors=("static",))
    expected = ctxbatch.estimate(tmp_path / "a.txt", tmp_path / "out", config)
    found = totals(make_store(tmp_path / "out", [tmp_path / "a.txt"], config))
    assert expected.words == pytest.approx(found.words, rel=0.1)


def test_the_command_prints_a_page_or_json_and_writes_nothing(tmp_path, tiny, cli, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where no run is remembered
    (tmp_path / "a.txt").write_bytes(as_lines(LINES))
    out = tmp_path / "out"
    shown = cli("plan", tmp_path / "a.txt", "-o", out, "--model", tiny())
    assert shown.returncode == 0, shown.stderr
    names = [line.split("  ")[0] for line in shown.stdout.splitlines()]
    assert names == [
        *("sources", "", "sample", "records", "sentences", "words", "fit", "", "on disk", "", "", "time"),
        "free disk",
    ]
    assert "unknown: no run with this model and device is remembered" in shown.stdout
    facts = json.loads(cli("plan", tmp_path / "a.txt", "-o", out, "--model", tiny(), "--json").stdout)
    assert facts["records"] == len(LINES)
    assert facts["sampled"] == 1
    assert not out.exists()


def test_the_rate_of_a_run_is_remembered_for_its_model_and_device(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(rates, "_MIN_SECONDS_FOR_RATE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_bytes(as_lines(LINES))
    config = RunConfig(model=str(tiny()))
    report = ctxbatch.run(tmp_path / "a.txt", tmp_path / "out", config)
    expected = ctxbatch.estimate(tmp_path / "a.txt", tmp_path / "new", config)
    assert expected.tokens_per_second == report.totals.tokens_per_second
    work = expected.tokens / expected.tokens_per_second
    assert expected.seconds > work  # the start, which converts the model, takes longer than so few tokens
    start = rates.known_start(report_config(tmp_path / "out"), report.totals.devices)
    assert expected.seconds == pytest.approx(start + work, abs=0.1)
    another = RunConfig(model=str(tiny()), vectors=("static",))
    assert ctxbatch.estimate(tmp_path / "a.txt", tmp_path / "new", another).seconds is None
    for damaged in ("", "[]", '{"a": "b"}', "\xff"):
        (tmp_path / "cache" / "ctxbatch" / "rates.json").write_text(damaged)
        assert ctxbatch.estimate(tmp_path / "a.txt", tmp_path / "new", config).seconds is None


def test_a_plan_says_how_long_the_index_takes_where_a_run_builds_one(tmp_path, tiny, cli, monkeypatch):
    monkeypatch.setattr(rates, "_MIN_SECONDS_FOR_RATE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_bytes(as_lines(LINES))
    options = [tmp_path / "a.txt", "--model", tiny()]
    assert cli("run", *options, "-o", tmp_path / "out").returncode == 0
    (tmp_path / "a.txt").write_bytes(as_lines(LINES * 1_000))
    assert re.search(r"as in an earlier run\), and \d+ s for the index\n", cli("plan", *options).stdout)
    for without in (("--no-index",), ("--words", "apple")):
        assert "for the index" not in cli("plan", *options, *without).stdout


def report_config(out):
    return ctxbatch.open(out).config


def test_plan_says_how_each_kind_of_file_is_read_and_needs_no_store(tmp_path, tiny, cli):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"line {number}\n")
    (folder / "b.md").write_bytes(as_lines(WRAPPED))
    (folder / "c.csv.gz").write_bytes(gzip.compress(b"text\none\n"))
    (folder / "d.tsv").write_text('n\ttext\n1\t"one\n2\ttwo"\n')
    result = cli("plan", folder, "--model", tiny(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    for line in (
        "3 .txt, 21 B: text, by line",
        ".md, 253 B: text, by paragraph",
        ".csv.gz, 29 B: CSV, by row",
        ".tsv, 21 B: TSV, by row, quotes are text",
    ):
        assert line in lines
    assert lines[-1].endswith(" here")
    assert any("less with --vectors static,contextual" in line for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_plan_refuses_what_run_refuses(tmp_path, cli):
    (tmp_path / "a.csv").write_text("id,body\n1,x\n")
    for name in ("plan", "run"):
        result = cli(name, tmp_path / "a.csv", "-o", tmp_path / "out")
        assert result.returncode == 2
        assert re.fullmatch(
            r"ctxbatch: .*a.csv has no field 'text'; its fields are id, body: .*\n", result.stderr
        )


def test_an_estimate_says_what_stored_shifts_take_that_could_be_computed(corpus, tiny):
    of = {
        vectors: ctxbatch.estimate(
            corpus, config=RunConfig(model=str(tiny()), vectors=vectors, layers=(1, 3))
        )
        for vectors in (("static", "contextual", "shift"), ("static", "contextual"), ("contextual", "shift"))
    }
    whole, less, other = of.values()
    assert whole.bytes_of_shifts == whole.rows * 2 * 32 * 2 == whole.bytes_on_disk - less.bytes_on_disk
    assert less.bytes_of_shifts == other.bytes_of_shifts == 0


def test_an_estimate_says_what_each_stored_type_takes(corpus, tiny, cli, tmp_path):
    fields = {"model": str(tiny()), "layers": (1, 3)}
    types = ("float16", "float32", "int8")
    of = {dtype: ctxbatch.estimate(corpus, config=RunConfig(**fields, dtype=dtype)) for dtype in types}
    sizes = {dtype: estimate.bytes_on_disk for dtype, estimate in of.items()}
    for dtype, found in of.items():
        assert found.bytes_on_disk_as == {each: size for each, size in sizes.items() if each != dtype}
    half, full = (of[dtype].rows * 5 * 32 * size for dtype, size in (("float16", 2), ("float32", 4)))
    assert sizes["float32"] - sizes["float16"] == full - half
    assert sizes["float16"] - sizes["int8"] == half - of["int8"].rows * 5 * (32 + 4)
    store = make_store(tmp_path / "out", [corpus], RunConfig(**fields, dtype="int8"))
    assert sum(commit.size for commit in store.commits.values()) == pytest.approx(sizes["int8"], rel=0.15)
    ratios = ctxbatch.estimate(corpus, config=RunConfig(**fields, shift="log_ratio"))
    assert list(ratios.bytes_on_disk_as) == ["float32"]
    said = cli("plan", corpus, "--model", tiny()).stdout
    assert re.search(r"^ +with another --dtype: float32 [\d.]+ .B, int8 [\d.]+ .B$", said, re.M)
    assert "another --dtype" not in cli("plan", corpus, "-o", store.path, "--model", tiny()).stdout


def test_a_plan_for_a_store_that_exists_does_not_say_to_leave_its_shifts_out(corpus, tiny, tmp_path, cli):
    out = tmp_path / "out"
    command = ["plan", corpus, "-o", out, "--model", tiny()]
    assert "less with --vectors static,contextual" in cli(*command).stdout
    make_store(out, [corpus], ctxbatch.RunConfig(model=str(tiny())))
    result = cli(*command)
    assert result.returncode == 0
    assert "less with" not in result.stdout
