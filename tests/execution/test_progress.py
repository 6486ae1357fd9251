"""What a run shows while it works: the share that is done, and the time that is left."""

import re
import shutil

import pytest

from ctxbatch import RunConfig
from ctxbatch.execution import progress
from ctxbatch.execution.pipeline import ShardPipeline
from ctxbatch.text import batching
from tests.helpers.stores import make_store
from tests.helpers.terminals import on_a_terminal


@pytest.fixture(scope="module")
def arguments(long_text, tiny):
    text = long_text(1500)

    def build(out):
        return ["run", text, "-o", out, "--model", tiny(), "--shard-size", "20000", "--no-index"]

    return build


@pytest.fixture
def half(arguments, tmp_path, cli):
    """A store that has every second of its shards."""
    out = tmp_path / "half"
    assert cli(*arguments(out)).returncode == 0
    shards = sorted((out / "shards").iterdir())
    assert len(shards) >= 6
    for folder in shards[::2]:
        shutil.rmtree(folder)
    return out


def shares(shown):
    return [int(percent) for percent in re.findall(r"(\d+)% [^\r\n]*B/", shown)]


def test_a_bar_begins_with_what_was_done_before_and_ends_full(arguments, half, tmp_path):
    shown, status = on_a_terminal(*arguments(tmp_path / "new"))
    assert status == 0, shown
    assert shares(shown)[0] == 0
    assert max(shares(shown)) == 100
    assert " 0 tokens/s" not in shown
    assert shown.index("left, starting") < shown.index("tokens/s")
    shown, status = on_a_terminal(*arguments(half))
    assert status == 0, shown
    assert 40 <= shares(shown)[0] <= 60
    assert max(shares(shown)) == 100
    assert shares(shown) == sorted(shares(shown))


def test_a_line_of_many_sentences_is_not_done_when_it_is_read(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(batching, "BUFFER_PIECES", 2_000)
    (tmp_path / "one.txt").write_text("The old bank stood by the river. " * 1_000)
    make_store(tmp_path / "out", [tmp_path / "one.txt"], RunConfig(model=str(tiny())))
    said = []
    pipeline = ShardPipeline(tmp_path / "out", "cpu")
    shutil.rmtree(tmp_path / "out" / "shards")
    list(pipeline.run_shards([0], said.append))
    parts = [each.bytes for each in said]
    assert sum(parts) == (tmp_path / "one.txt").stat().st_size
    assert len(parts) > 3
    assert max(parts) < sum(parts) / 2


def test_lines_tell_the_share_of_the_whole_store_and_a_time_for_the_rest(arguments, half, cli, monkeypatch):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0)
    monkeypatch.setattr(progress.time, "monotonic", iter(range(1, 10**6)).__next__)
    done = cli(*arguments(half))
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"(\d+) %, [\d,]+ sentences, [\d,]+ tokens/s, (.+) left", done.stderr)
    percents = [int(percent) for percent, _ in lines]
    assert percents == sorted(percents)
    assert 40 <= percents[0] <= 65
    assert percents[-1] == 100
    assert lines[-1][1] == "00:00"
