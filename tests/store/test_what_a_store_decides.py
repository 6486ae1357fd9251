"""What a store may decide: it names a model and sources; neither is opened to a stranger's gain."""

import http.server
import os
import shutil
import subprocess
import threading
from dataclasses import replace

import pytest

from ctxbatch import RunConfig
from ctxbatch.execution.pipeline import ShardPipeline
from ctxbatch.store.manifest import Manifest
from tests.helpers.running import command
from tests.helpers.stores import arrow_digests, make_store

QUERY = "I want an [apple]."


@pytest.fixture
def model(tiny, tmp_path):
    shutil.copytree(tiny(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def out(model, corpus, tmp_path):
    config = RunConfig(model=str(model), shard_size=2000, index=False)
    return make_store(tmp_path / "out", [corpus], config).path


def renamed(out, name, model, revision=None):
    """Make a store anew that names its model otherwise, as whoever makes one can."""
    manifest = Manifest.read(out)
    shutil.rmtree(out / "shards")
    replace(manifest, config=replace(manifest.config, model=str(name), revision=revision)).write(out)
    assert list(ShardPipeline(out, "cpu", model).run_shards(range(len(manifest.shards)), lambda _: None))


def test_a_relative_path_in_a_store_is_no_model(out, model, cli, tmp_path):
    expected = cli("search", out, QUERY, "--json").stdout
    renamed(out, "model", model)
    result = cli("search", out, QUERY, cwd=tmp_path)
    assert result.returncode == 2
    assert (
        "made with the model model, which is neither installed nor in the Hugging Face cache" in result.stderr
    )
    assert "give --model" in result.stderr
    result = cli("search", out, QUERY, "--json", "--model", "model", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, expected)


def test_a_model_inside_the_store_is_not_used_unasked(out, model, cli):
    inside = out / "model"
    shutil.move(model, inside)
    renamed(out, inside, inside)
    result = cli("search", out, QUERY)
    assert result.returncode == 2
    assert f"names a model inside itself ({inside})" in result.stderr


def test_a_model_that_has_moved_is_named_by_the_user_and_compared(out, model, tiny, cli, tmp_path):
    expected = cli("search", out, QUERY, "--json").stdout
    model.rename(tmp_path / "moved")
    result = cli("search", out, QUERY)
    assert result.returncode == 2
    assert f"made with the model {model}, which is not a folder here" in result.stderr
    found = cli("search", out, QUERY, "--json", "--model", tmp_path / "moved")
    assert (found.returncode, found.stdout) == (0, expected)
    wrong = cli("search", out, QUERY, "--model", tiny("distilbert"))
    assert wrong.returncode == 2
    assert "is not the model that the store was made with" in wrong.stderr


def test_the_hub_is_looked_up_in_its_cache_alone(out, model, tmp_path):
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    renamed(out, "some/model", model, "a" * 40)
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("a" * 40)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = f"http://127.0.0.1:{server.server_port}"
        environment = os.environ | {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": hub,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }
        lacking, found = [], []
        for results in (lacking, found):
            done = subprocess.run(
                command("search", out, QUERY), env=environment, capture_output=True, text=True, check=False
            )
            results += [done.returncode, done.stderr]
            shutil.copytree(model, snapshot, dirs_exist_ok=True)
        server.shutdown()
    assert lacking[0] == 2
    assert "some/model, which is neither installed nor in the Hugging Face cache" in lacking[1]
    assert found == [0, ""]
    assert asked == []


def test_what_is_opened_because_a_store_names_it_is_named_first(out, corpus, cli):
    result = cli("verify", out, "--sources")
    assert result.returncode == 0
    assert f"opening the sources named in {out}: {corpus}" in result.stderr
    shutil.rmtree(out / "shards" / "000001")
    result = cli("verify", out, "--repair")
    assert result.returncode == 0
    assert f"opening the sources named in {out}: {corpus}" in result.stderr


def test_a_source_that_is_no_regular_file_is_not_opened(out, cli, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    manifest = Manifest.read(out)
    replace(manifest, sources=(replace(manifest.sources[0], path=str(tmp_path / "pipe"), size=0),)).write(out)
    result = cli("verify", out, "--sources")
    assert result.returncode == 3
    assert "pipe cannot be read: it is not a regular file" in result.stdout


def test_a_repair_takes_the_model_that_the_user_names(out, model, cli, tmp_path):
    expected = arrow_digests(out)
    shutil.rmtree(out / "shards" / "000001")
    model.rename(tmp_path / "moved")
    result = cli("verify", out, "--repair")
    assert result.returncode == 2
    assert "give --model" in result.stderr
    result = cli("verify", out, "--repair", "--model", tmp_path / "moved")
    assert result.returncode == 0
    assert arrow_digests(out) == expected


def test_verify_takes_a_model_for_a_repair_alone(out, model, cli):
    result = cli("verify", out, "--model", model)
    assert result.returncode == 2
    assert "is only for --repair" in result.stderr
