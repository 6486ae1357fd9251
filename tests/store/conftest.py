import pytest

import ctxbatch
from ctxbatch import RunConfig, filesystem
from tests.helpers.stores import objects


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory):
    """A function that runs a text of three shards."""
    path = tmp_path_factory.mktemp("short") / "short.txt"
    path.write_text("".join(f"{n}: I want an apple.\n" for n in range(60)))

    def run(out):
        return ctxbatch.run(path, out, RunConfig(model=str(tiny()), shard_size=450, workers=1))

    return run


@pytest.fixture(scope="module")
def made(server, short):
    """The objects of a finished store of that text."""
    server.client().create_bucket(Bucket="made")
    short("s3://made/out")
    names = objects(server, "s3://made/out")
    return {f"out/{name}": filesystem.read_file(f"s3://made/out/{name}") for name in names}
