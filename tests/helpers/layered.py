"""Stores with several layers, and what is told of them on a terminal."""

from ctxbatch import RunConfig
from tests.helpers.models import PLAIN_TEXT
from tests.helpers.stores import make_store

LAYERS = (3, 1, 2)
TEXT = PLAIN_TEXT + "The old bank had twenty doors, and the river wanted none: the WANT of the bank.\nBank!\n"


def layered_store(tmp_path_factory, model, text=TEXT, **options):
    """A store with several layers of a text that repeats words in several sentences and shards."""
    folder = tmp_path_factory.mktemp("layers")
    (folder / "a.txt").write_text(text, encoding="utf-8")
    options = {"layers": LAYERS, "shard_size": 300, "dtype": "float32", **options}
    return make_store(folder / "out", [folder / "a.txt"], RunConfig(model=str(model), **options))


def assert_fits(shown):
    assert all(len(line) <= 80 for line in shown.splitlines()[1:])  # the first one names the model
