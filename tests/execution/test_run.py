"""One command turns text into a store: counts, columns, exit status, and one line for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import ctxbatch
from ctxbatch import RunConfig
from ctxbatch.formulas import cost_of_log_ratio
from tests.helpers.models import TEXT
from tests.helpers.running import command
from tests.helpers.stores import arrow_digests, make_store, rows_of

# What programs read of a store, by name and in this order.
TOTALS = """
records sentences words rows wordpieces tokens rejected rejected_words unknown_words
control_tokens fit shards shards_planned shards_short_of_memory bytes_written seconds tokens_per_second
padding stages bottleneck peak_memory_bytes model columns word_rule selection salience_layer salience_head
precision runtime fidelity dtype int8 fingerprint devices versions
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    rows = [
        {"text": "The bank of the river. The bank with the money!", "id": "doc-1"},
        {"text": "", "id": "void"},
    ]
    lines = [json.dumps(row) for row in rows] + ["{broken", json.dumps({"text": "Last one.", "id": 3})]
    (folder / "b.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def finished(corpus, tiny, cli, tmp_path_factory):
    """A store made by the command line, with one record that had to be rejected."""
    out = tmp_path_factory.mktemp("made") / "out"
    return out, cli("run", corpus, "-o", out, "--model", tiny(), "--layers", "3,1", "--shard-size", "300")


def test_run_ends_with_a_summary_and_status_3_where_something_was_rejected(finished, corpus):
    out, result = finished
    assert result.returncode == 3, result.stderr
    assert result.stdout == ""
    assert "rejected  1 records, 1 words" in result.stderr
    assert "searched exactly, no index needed" in result.stderr
    assert "Traceback" not in result.stderr
    named = [
        json.loads(line)
        for path in sorted(out.glob("shards/*/rejects.jsonl"))
        for line in path.read_text().splitlines()
    ]
    word, record = named
    assert (word["record"], word["word"]) == (7, "antidisestablishmentarianism")
    before = (corpus / "b.jsonl").read_bytes().index(b"{broken")
    assert (record["record"], record["byte_start"]) == (2, before)
    assert record["source"].endswith("b.jsonl")
    assert record["reason"].startswith("not JSON")


def test_stats_json_counts_what_is_there(finished, cli):
    out, _ = finished
    totals = json.loads(cli("stats", out, "--json").stdout)
    store = ctxbatch.open(out)
    assert totals["records"] == TEXT.count("\n") + 4
    assert totals["rejected"] == 1
    assert totals["rows"] == totals["words"] - totals["rejected_words"] == store.words.count_rows()
    assert totals["sentences"] == store.sentences.count_rows()
    assert totals["wordpieces"] == sum(store.sentences.to_table()["n_pieces"].to_pylist())
    assert totals["tokens"] >= totals["wordpieces"]
    assert totals["shards"] == len(list(out.glob("shards/*"))) == 3
    assert totals["bytes_written"] == sum(
        path.stat().st_size for path in out.glob("shards/*/*") if path.name != "shard.json"
    )
    assert totals["seconds"] > 0
    assert totals["tokens_per_second"] > 0
    assert 0 <= totals["padding"] < 1
    assert {"rejected_words", "unknown_words"} <= totals.keys()


def test_the_totals_of_a_store_are_what_stats_prints_in_that_order(finished, cli):
    from ctxbatch.store.stats import totals

    out, _ = finished
    found = totals(ctxbatch.open(out))
    printed = json.loads(cli("stats", out, "--json").stdout)
    anisotropy = printed.pop("anisotropy")
    assert list(printed) == list(found.as_dict()) == TOTALS.split()
    assert printed == found.as_dict()
    assert [each["column"] for each in anisotropy] == list(found.columns)
    assert printed["columns"] == list(found.columns)
    assert printed["versions"]["torch"] == list(found.versions["torch"])


def test_stats_status_and_verify_speak_to_people(finished, cli):
    out, _ = finished
    assert "records" in cli("stats", out).stdout
    assert "finished; " in cli("status", out).stdout
    verified = cli("verify", out, "--sources")
    assert verified.returncode == 0
    assert "all intact" in verified.stdout


def test_columns_ids_and_metadata_are_the_contract(finished, tiny):
    out, _ = finished
    table = pa.ipc.open_file(out / "shards/000001/words.arrow").read_all()
    assert table.schema.names[:9] == [
        "row_id", "sentence_id", "word_index", "word", "char_start", "char_end", "n_pieces",
        "salience", "known",
    ]  # fmt: skip
    assert table.schema.field("known").type == pa.bool_()
    assert table["known"].null_count == 0
    assert table.schema.names[9:] == ["static", "contextual_3", "contextual_1", "shift_3", "shift_1"]
    vector = pa.list_(pa.field("item", pa.float16(), nullable=False), 32)
    assert {table.schema.field(name).type for name in table.schema.names[9:]} == {vector}
    assert table["row_id"].to_pylist() == [(1 << 32) + n for n in range(len(table))]
    assert table["salience"].null_count == len(table)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["ctxbatch.model"] == str(tiny())
    assert metadata["ctxbatch.layers"] == "3,1"
    assert metadata["ctxbatch.pooling"] == "mean"
    assert metadata["ctxbatch.shift"] == "difference"
    assert not {"ctxbatch.floor", "ctxbatch.delta"} & metadata.keys()
    assert metadata["ctxbatch.format_version"] == "4"


@pytest.mark.parametrize(
    ("shift", "name", "value"), [("log_ratio", "floor", "0.001"), ("asinh", "delta", "0.1")]
)
def test_the_parameter_of_a_shift_is_in_the_metadata(shift, name, value, corpus, tiny, tmp_path):
    out = tmp_path / "out"
    make_store(out, [corpus / "a.txt"], RunConfig(model=str(tiny()), shift=shift))
    metadata = pa.ipc.open_file(out / "shards" / "000000" / "words.arrow").schema.metadata
    assert metadata[b"ctxbatch.shift"] == shift.encode()
    assert metadata[f"ctxbatch.{name}".encode()] == value.encode()


def test_every_word_stands_at_its_offsets_in_its_sentence_and_the_sentence_in_its_source(finished):
    out, _ = finished
    for row in rows_of(ctxbatch.open(out)):
        sentence = row["sentence"]
        assert sentence["text"][row["char_start"] : row["char_end"]] == row["word"]
        raw = Path(sentence["source"]).read_bytes()[sentence["byte_start"] :].split(b"\n")[0].decode()
        text = json.loads(raw)["text"] if sentence["source"].endswith("jsonl") else raw
        assert text[sentence["char_start"] :].startswith(sentence["text"])
    assert {s for s in ctxbatch.open(out).sentences.to_table()["doc_id"].to_pylist() if s} == {"doc-1", "3"}


def test_vectors_are_views_on_the_file_and_take_agrees_with_them(finished):
    store = ctxbatch.open(finished[0])
    blocks = list(store.vectors("shift"))
    assert all(not block.flags.owndata and not block.flags.writeable for block in blocks)
    whole = np.concatenate(blocks)
    rows = store.row_ids()
    chosen = np.random.default_rng(0).permutation(len(rows))[:50]
    np.testing.assert_array_equal(store.take("shift_3", rows[chosen]), whole[chosen])


def test_worker_processes_give_the_bytes_of_a_single_process(finished, corpus, tiny, tmp_path):
    config = RunConfig(model=str(tiny()), layers=(3, 1), shard_size=300)
    make_store(tmp_path / "out", [corpus], config)
    assert arrow_digests(tmp_path / "out") == arrow_digests(finished[0])


def test_layers_stored_together_equal_layers_stored_alone(finished, corpus, tiny, tmp_path):
    together = ctxbatch.open(finished[0])
    for layer in (1, 3):
        alone = make_store(
            tmp_path / f"{layer}", [corpus], RunConfig(model=str(tiny()), layers=(layer,), shard_size=300)
        )
        for kind in ("static", "contextual", "shift"):
            on = kind if kind == "static" else f"{kind}_{layer}"
            np.testing.assert_array_equal(
                np.concatenate([*together.vectors(on)]), np.concatenate([*alone.vectors(on)])
            )


def test_a_vector_that_overflows_half_floats_rejects_its_word_by_name(tiny, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny(), folder)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"][0] = 1e5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (tmp_path / "a.txt").write_text("one two\n")
    config = {"model": str(folder), "precision": "fp32"}
    store = make_store(tmp_path / "half", [tmp_path / "a.txt"], RunConfig(**config))
    from ctxbatch.store.rejects import rejects
    from ctxbatch.store.stats import totals

    assert [(r["word"], r["reason"]) for r in rejects(store)] == [
        ("one", "contextual_2 is not finite in float16"),
        ("two", "contextual_2 is not finite in float16"),
    ]
    assert (totals(store).rows, totals(store).rejected_words) == (0, 2)
    full = make_store(tmp_path / "full", [tmp_path / "a.txt"], RunConfig(**config, dtype="float32"))
    assert full.n_rows == 2


def test_python_runs_the_same_as_the_command_line(corpus, tiny, tmp_path):
    config = RunConfig(model=str(tiny()), workers=1, limit=6)
    report = ctxbatch.run(corpus / "a.txt", tmp_path / "out", config)
    assert report.clean
    assert "shard 000000 committed" in (tmp_path / "out" / "run.log").read_text()
    assert report.totals.rows == ctxbatch.open(tmp_path / "out").n_rows > 50


def test_a_new_store_of_log_ratios_says_what_rounding_costs_them(corpus, tiny, tmp_path, caplog):
    caplog.set_level("INFO", "ctxbatch")
    said = []
    for number, options in enumerate(
        (
            {"shift": "log_ratio", "precision": "bf16"},
            {"shift": "log_ratio", "precision": "fp32"},
            {"precision": "bf16"},
        )
    ):
        config = RunConfig(model=str(tiny()), workers=1, limit=6, index=False, **options)
        for _ in range(2):  # only when it is begun
            ctxbatch.run(corpus / "a.txt", tmp_path / f"{number}", config)
        said.append(
            caplog.text.count("log_ratio keeps 88% of the ten nearest rows of fp32 at bf16, difference")
        )
        caplog.clear()
    assert said == [1, 0, 0]
    assert "at int8, difference 93%" in cost_of_log_ratio("int8")
    assert cost_of_log_ratio("fp16").endswith("; fp16 was not measured")


def test_files_where_the_user_stands_are_not_imported(tiny, tmp_path):
    (tmp_path / "queue.py").write_text("raise SystemExit('imported the wrong queue')")
    (tmp_path / "a.txt").write_text("Some text.\n")
    run = [Path(sys.executable).parent / "ctxbatch", "run", "a.txt", "-o", "out", "--model", tiny(), "-q"]
    result = subprocess.run(list(map(str, run)), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr


# --- mistakes -------------------------------------------------------------------------------------


def assert_refused(result, status, message):
    """One line on standard error, nothing on standard output, no traceback."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no-such.txt", "-o", "out"], "no-such.txt: no such file or folder"),
        (["run", "a.txt"], "parameter --out requires an argument. See `ctxbatch run --help`"),
        (["run", "a.txt", "-o", "out", "--laers", "2"], "unknown option: --laers. Did you mean --layers?"),
        (["run", "-o", "out"], "parameter INPUTS requires an argument"),
        (
            ["run", "a.txt", "-o", "out", "--pool", "men"],
            'value "men" for --pool. Choose from: "mean", "first"',
        ),
        (["run", "a.txt", "-o", "out", "--limit", "x"], 'invalid value for --limit: unable to convert "x"'),
        (["stats", "out", "more"], "unexpected argument 'more'. See"),
        (["run", "a.txt", "-o", "out", "--layers", "two"], "--layers 'two' must be all, or layer numbers"),
        (["run", "a.txt", "-o", "out", "--workers", "many"], "--workers 'many' must be auto or a number"),
        (
            ["run", "a.txt", "-o", "out", "--shard-size", "4 parsecs"],
            "--shard-size '4 parsecs' must be auto or a size such as 4MB",
        ),
        (["run", "a.txt", "-o", "out", "--lang", "klingon"], "--lang 'klingon' is unknown"),
        (
            ["run", "a.txt", "-o", "out", "--model", "./nowhere/at/all"],
            "--model ./nowhere/at/all: no such folder",
        ),
        (["run", "a.txt", "-o", "out"], "give the path of a local folder, or pip install a package"),
        (["run", "a.txt", "-o", "."], "-o . contains other files (a.txt) and no store"),
        (["run", "a.txt", "-o", "a.txt"], "-o a.txt is a file: name a folder"),
        (["serch", "out", "x"], 'unknown command "serch". Did you mean "search"?'),
        (["search", "out"], "a query is missing: add a sentence with a word marked"),
        (["search", "out", "-x [y]"], "A query that starts with - goes after --"),
        (["search", "out", "-know [y]"], "A query that starts with - goes after --"),
        (["search", "out", "[a"], "the brackets in '[a' do not pair up"),
        (["run", "", "-o", "out"], "an input is empty: name a file or a folder"),
        (["run", "a" * 300, "-o", "out"], "cannot be read: File name too long"),
        (["run", "a.txt", "-o", "out", "--model", "~nosuchuser/x"], "--model ~nosuchuser/x cannot be read"),
        (["run", "a.txt", "-o", "out", "--vectors", "static", "--layers", "2"], "--layers cannot be used"),
        (["search", "out", "[a]"], "out is not a ctxbatch store: it has no manifest.json"),
        (["search", "out", "[a]", "--same-word", "--other-words"], "exclude each other"),
        (["stats", "."], ". is not a ctxbatch store"),
        (["verify", "."], ". is not a ctxbatch store"),
    ],
)
def test_a_mistake_is_one_line_with_value_and_remedy(arguments, message, cli, tmp_path):
    (tmp_path / "a.txt").write_text("Some text.\n")
    assert_refused(cli(*arguments, cwd=tmp_path), 2, message)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_refuses_ends_with_status_4_and_the_same_command_goes_on(tiny, cli, tmp_path):
    (tmp_path / "a.txt").write_text("This line is one of many.\n" * 400)
    arguments = ["run", tmp_path / "a.txt", "-o", tmp_path / "out", "--model", tiny()]
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", *command(*arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert_refused(limited, 4, "run again")
    assert ctxbatch.open(tmp_path / "out").commits == {}
    assert not list((tmp_path / "out" / "shards").iterdir())
    result = cli(*arguments)
    assert result.returncode == 0, result.stderr
    assert ctxbatch.open(tmp_path / "out").complete


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], {"torch", "transformers", "pyarrow", "faiss"}),
        (["run", "missing.txt", "-o", "out"], {"torch", "transformers"}),
        (["search", "out", "[no mark"], {"torch", "transformers"}),
    ],
)
def test_help_and_mistakes_do_not_wait_for_torch(arguments, heavy):
    code = f"""
import sys
from ctxbatch.cli.main import main
sys.argv = ["ctxbatch", *{arguments}]
try:
    main()
finally:
    print("heavy:", {heavy} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "heavy: set()" in result.stdout, result.stderr


def test_version_and_bare_command(cli):
    assert cli("--version").stdout.strip() == ctxbatch.__version__
    assert "Usage: ctxbatch" in cli().stdout


def test_output_to_a_closed_pipe_is_no_traceback(finished):
    result = subprocess.run(
        ["bash", "-c", '"$@" | true; exit "${PIPESTATUS[0]}"', "bash", *command("stats", finished[0])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        check=False,
    )
    assert result.stderr == ""
    assert result.returncode != 0
