"""What is kept between runs can be seen, and removed without harm to a run that uses it."""

import json

import pytest

from ctxbatch.store.locks import locked


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache with something of each kind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "ctxbatch"
    for name, size in (
        ("graphs/1a/layers.bin", 2_000_000),
        ("remote/out-1/shards/x", 10),
        ("remote/out-2/x", 10),
    ):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(bytes(size))
    (folder / "rates.json").write_text("{}")
    return folder


def test_the_cache_is_shown(folder, cli):
    result = cli("cache")
    assert result.stdout.startswith(f"{folder}\nconverted models ")
    assert "2.0 MB" in result.stdout
    found = json.loads(cli("cache", "--json").stdout)
    assert found == {
        "folder": str(folder),
        "bytes": {"graphs": 2_000_000, "models": 0, "rates.json": 2, "remote": 20},
    }


def test_clearing_removes_all_but_what_is_used(folder, cli):
    with locked(folder / "remote" / "out-2"):
        assert cli("cache", "--clear").returncode == 0
        assert (folder / "remote" / "out-2" / "x").exists()
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"x", ".lock"}
    assert cli("cache", "--clear").returncode == 0
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_an_empty_cache_is_no_error(tmp_path, monkeypatch, cli):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for arguments in ((), ("--clear",)):
        assert cli("cache", *arguments).returncode == 0
