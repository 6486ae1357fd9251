"""A store is untrusted: nothing in it makes the program crash, write elsewhere, or answer wrongly."""

import errno
import json
import os
import random
import re
import shutil
from dataclasses import replace

import pyarrow as pa
import pytest

import ctxbatch
from ctxbatch import ResourceError, RunConfig, StoreError, sealed
from ctxbatch.corpus import tables
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.execution.repair import find_damage
from ctxbatch.files import write_json
from ctxbatch.model.hub import find_model
from ctxbatch.sealed import file_digest, read_json
from ctxbatch.search.queries import QueryEncoder
from ctxbatch.store.manifest import Manifest
from ctxbatch.store.reader import Store
from ctxbatch.store.rejects import rejects
from tests.helpers.corpora import as_table, write_parquet
from tests.helpers.stores import make_store

pytestmark = pytest.mark.usefixtures("quick_indexes")

PLAIN = ("row_id", "sentence_id", "word_index", "word", "char_start", "char_end", "n_pieces", "salience")


@pytest.fixture
def copy(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "out")
    return tmp_path / "out"


def rewritten(copy, name, change, shard="000001"):
    """Change a file's bytes, and have its commit record agree with that."""
    path = copy / "shards" / shard / name
    path.write_bytes(change(bytearray(path.read_bytes())))
    record = read_json(path.with_name("shard.json"))
    record["files"][name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    write_json(path.with_name("shard.json"), record)
    return path


def answers(out):
    store = Store(out)
    return store.words.to_table(columns=list(PLAIN)), store.sentences.to_table()


@pytest.mark.parametrize("name", ["words.arrow", "sentences.arrow"])
def test_a_flipped_bit_is_found_when_an_arrow_file_is_read(name, copy):
    path, chance = copy / "shards" / "000001" / name, random.Random(name)
    before, expected, found = path.read_bytes(), answers(copy), 0
    for _ in range(60):
        content = bytearray(before)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            assert answers(copy) == expected  # then it is in a vector
        except StoreError as error:
            assert name in str(error)
            found += 1
    assert found == 60 if name == "sentences.arrow" else found > 0


@pytest.mark.parametrize("offset", [2**31 - 1, -1])
def test_offsets_that_lead_out_of_a_file_are_refused_in_older_stores_too(offset, copy, cli):
    """Under right checksums, and without the checksums of record batches that older stores lack."""
    path = copy / "shards" / "000001" / "sentences.arrow"
    with pa.memory_map(str(path)) as source:
        data = source.read_buffer()
        batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
        at = batch["text"].buffers()[1].address - data.address

    def change(content):
        content[at + 4 : at + 8] = offset.to_bytes(4, "little", signed=True)
        return content

    rewritten(copy, "sentences.arrow", change)
    assert "sentences.arrow is damaged" in next(find_damage(copy)).text
    result = cli("search", copy, "I want an [apple].")
    assert result.returncode == 2
    assert "sentences.arrow is damaged" in result.stderr


def test_older_stores_without_checksums_of_batches_are_read(copy):
    expected = answers(copy)
    for name in ("words.arrow", "sentences.arrow"):
        rewritten(copy, name, lambda content: content)
    assert "batches" not in read_json(copy / "shards/000001/shard.json")["files"]["words.arrow"]
    assert answers(copy) == expected


HOSTILE = [
    ("manifest.json", lambda c: c.update(shards=7)),
    ("manifest.json", lambda c: c.pop("config")),
    ("manifest.json", lambda c: c["config"].update(hidden_size="x")),
    ("manifest.json", lambda c: c["config"].update(hidden_size=2**40)),
    ("manifest.json", lambda c: c["shards"][0].update(shard=5)),
    ("manifest.json", lambda c: c["shards"][0]["segments"][0].update(source=9)),
    ("manifest.json", lambda c: c["sources"][0].update(size=-1)),
    ("shards/000001/shard.json", lambda c: c.update(counts=[])),
    ("shards/000001/shard.json", lambda c: c.update(shard=0)),
    ("shards/000001/shard.json", lambda c: c["files"].update({"../../../x": c["files"]["words.arrow"]})),
    ("shards/000001/shard.json", lambda c: c["counts"].update(rows=2**62)),
]


@pytest.mark.parametrize(("name", "change"), HOSTILE)
def test_sealed_files_are_compared_with_their_schema(name, change, copy, cli):
    content = read_json(copy / name)
    change(content)
    write_json(copy / name, content)
    result = cli("verify", copy)
    assert result.returncode in (2, 3)
    assert f"{name} is damaged" in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["manifest.json", "shards/000001/shard.json"])
def test_json_that_is_nested_deep_is_damage(name, copy, cli):
    (copy / name).write_text('{"checksum": "", "x": ' + "[" * 20_000 + "]" * 20_000 + "}")
    result = cli("verify", copy)
    assert result.returncode in (2, 3)
    assert f"{name} is damaged" in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["shard.json", "words.arrow"])
def test_what_is_no_regular_file_is_never_opened(name, copy, cli):
    path = copy / "shards" / "000001" / name
    path.unlink()
    os.mkfifo(path)
    result = cli("verify", copy)
    assert result.returncode == 3
    assert f"{name} is damaged: it is not a regular file" in result.stdout


@pytest.mark.parametrize("name", [".lock", "run.log", "index", "shards/000001"])
def test_commands_that_write_refuse_links_inside_a_store(name, copy, cli, tmp_path):
    aside = tmp_path / "aside"
    path = copy / name
    if path.is_dir():
        path.rename(aside)
    elif name == "index":
        aside.mkdir()
    else:
        aside.write_text("mine")
        path.unlink(missing_ok=True)
    path.symlink_to(aside)
    before = sorted(aside.rglob("*")) if aside.is_dir() else aside.read_text()
    for arguments in (("index", copy), ("verify", copy, "--repair")):
        result = cli(*arguments)
        assert result.returncode == 2
        assert f"{path} is a link" in result.stderr
    assert before == (sorted(aside.rglob("*")) if aside.is_dir() else aside.read_text())


def test_a_read_error_is_not_taken_for_a_missing_shard(copy, monkeypatch):
    really = os.open

    def fail(path, *arguments, **options):
        if str(path).endswith("000001/shard.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really(path, *arguments, **options)

    monkeypatch.setattr(sealed.os, "open", fail)
    with pytest.raises(ResourceError, match=r"000001/shard.json cannot be read \(Input/output error\)"):
        ctxbatch.open(copy)


def test_a_store_that_took_a_lack_of_memory_for_damage_is_read_again(tmp_path, tiny, monkeypatch, cli):
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_parquet(as_table([f"I want apple {n}." for n in range(200)]), source)
    config = RunConfig(model=str(tiny()), index=False)
    with monkeypatch.context() as patch:
        really = tables.Table.rows

        def rows(table, *arguments):
            for row in really(table, *arguments):
                if row[0] == 50:
                    raise DamagedError("the Parquet data are damaged (malloc of size 1024 failed)")
                yield row

        patch.setattr(tables.Table, "rows", rows)
        assert make_store(out, [source], config).commits[0].counts.rejected == 1
    result = cli("verify", out)
    assert result.returncode == 3
    assert "rejected text of" in result.stdout
    report = ctxbatch.run(source, out, config)
    assert report.clean
    assert report.totals.records == 200
    assert cli("verify", out).returncode == 0


def test_rejects_that_are_not_what_was_written_are_refused(tmp_path, tiny):
    (tmp_path / "a.jsonl").write_text('{"text": "one two"}\n{"text": 3}\n')
    out = make_store(tmp_path / "out", [tmp_path / "a.jsonl"], RunConfig(model=str(tiny()))).path
    assert len(list(rejects(Store(out)))) == 1
    path = out / "shards" / "000000" / "rejects.jsonl"
    line = json.loads(path.read_text())
    path.write_text(path.read_text().replace(line["reason"][0], "X", 1))
    with pytest.raises(StoreError, match=r"rejects.jsonl is damaged"):
        list(rejects(Store(out)))


def test_sealed_files_are_written_as_they_ever_were():
    chance = random.Random(5)
    words = ['"\\/', "\n\x00\x7f", "é汉😀\u2028", ""]
    content = {
        f"{n}": [chance.random() * 10.0**n, -(10 ** abs(n)), None, True, {}, [], words]
        for n in range(-20, 20)
    }
    written = sealed.seal(content)
    assert written == (json.dumps(json.loads(written), indent=1, ensure_ascii=False) + "\n").encode()
    assert sealed.unseal(written, "x") == content


@pytest.mark.parametrize("command", ["stats", "status", "layers"])
def test_a_damaged_shard_is_named_where_a_store_is_shown(command, copy, cli):
    (copy / "shards" / "000001" / "shard.json").write_text("{}")
    result = cli(command, copy)
    assert result.returncode == 0
    assert f"{copy}/shards/000001 is damaged: run `ctxbatch verify {copy}` for details" in result.stderr


def test_whoever_opens_a_damaged_store_is_told(copy, caplog):
    (copy / "shards" / "000001" / "words.arrow").unlink()
    ctxbatch.open(copy)
    assert f"{copy}/shards/000001 is damaged: run `ctxbatch verify {copy}` for details" in caplog.text


def test_an_index_is_not_blamed_for_a_damaged_shard(copy, cli):
    assert cli("index", copy, "--factory", "IVF1,Flat").returncode == 0
    assert list(copy.glob("index/*.json"))
    (copy / "shards" / "000001" / "words.arrow").unlink()
    verified = cli("verify", copy)
    assert verified.returncode == 3
    assert "/index/" not in verified.stdout
    assert cli("layers", copy).returncode == 0
    assert cli("verify", copy, "--repair").returncode == 0
    assert cli("verify", copy).returncode == 0


def test_a_store_that_was_finished_and_is_damaged_is_not_called_unfinished(copy, cli):
    (copy / "shards" / "000001" / "words.arrow").unlink()
    planned = len(Store(copy).manifest.shards)
    again = "run its `ctxbatch run` command again to rebuild"
    searched = cli("search", copy, "--row", "0")
    assert f"{copy} is damaged (1 of {planned} shards): {again} them; " in searched.stderr
    assert cli("status", copy).stdout.startswith(f"{copy}: damaged: {again} the damaged shards; ")
    assert json.loads(cli("status", copy, "--json").stdout)["state"] == "damaged"
    shutil.rmtree(copy / "shards" / "000000")
    searched = cli("search", copy, "--row", "0")
    assert f"{copy} is unfinished ({planned - 2} of {planned} shards): " in searched.stderr
    assert json.loads(cli("status", copy, "--json").stdout)["state"] == "interrupted"


@pytest.mark.parametrize("sentence", [2**31 - 1, -1, 1 << 40])
def test_rows_of_sentences_that_are_not_there_are_damage(sentence, copy, cli):
    """Under right checksums, and without those of record batches."""
    path = copy / "shards" / "000001" / "words.arrow"
    with pa.memory_map(str(path)) as source:
        data = source.read_buffer()
        batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
        at = batch["sentence_id"].buffers()[1].address - data.address

    def change(content):
        content[at + 80 : at + 88] = sentence.to_bytes(8, "little", signed=True)
        return content

    rewritten(copy, "words.arrow", change)
    result = cli("search", copy, "--row", 5, "--source", "*.txt")
    assert result.returncode == 2
    assert re.search(
        r"is damaged \(a row of shard 000001 names sentence -?\d+, which does not exist", result.stderr
    )
    assert cli("verify", copy).returncode == 3


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_folder_of_indexes_that_is_none_is_damage(kind, copy, cli, tmp_path):
    if kind == "file":
        (copy / "index").write_text("")
    else:
        (tmp_path / "elsewhere").mkdir()
        (copy / "index").symlink_to(tmp_path / "elsewhere")
    said = f"{copy}/index is a link" if kind == "link" else f"{copy}/index is not a folder"
    for command in (("verify", copy), ("search", copy, "--row", 5)):
        result = cli(*command)
        assert result.returncode in (2, 3)
        assert said in result.stdout + result.stderr


def test_a_file_of_rejects_that_never_ends_is_not_read(tmp_path, tiny, cli):
    (tmp_path / "a.jsonl").write_text('{"text": "one two"}\n{"text": 3}\n')
    out = make_store(tmp_path / "out", [tmp_path / "a.jsonl"], RunConfig(model=str(tiny()))).path
    with (out / "shards" / "000000" / "rejects.jsonl").open("wb") as file:
        file.truncate(1 << 42)  # reading that would take hours
    result = cli("verify", out)
    assert result.returncode == 3
    assert "rejects.jsonl is damaged" in result.stdout


@pytest.mark.parametrize(
    ("name", "said"), [("gpt", "a model of the type 'gpt'"), ("electra", "is a bert model, but")]
)
def test_a_family_that_the_model_is_not_of_is_refused(name, said, copy):
    manifest = Manifest.read(copy)
    config = replace(manifest.config, model_type=name)
    with pytest.raises(StoreError, match=said):
        QueryEncoder(config, "shift_3", find_model(config.model, None))


def test_a_pipe_with_the_name_of_an_unfinished_shard_is_removed_and_not_waited_for(copy, cli):
    os.mkfifo(copy / "shards" / ".000000.nobody.1.tmp")
    result = cli("verify", copy, "--repair")
    assert result.returncode == 0
    assert not (copy / "shards" / ".000000.nobody.1.tmp").exists()
