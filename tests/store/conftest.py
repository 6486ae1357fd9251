import uuid

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
    bucket = f"made-{uuid.uuid4().hex}"  # all servers of a process hold the same objects
    server.client().create_bucket(Bucket=bucket)
    short(f"s3://{bucket}/out")
    names = objects(server, f"s3://{bucket}/out")
    return {f"out/{name}": filesystem.read_file(f"s3://{bucket}/out/{name}") for name in names}
