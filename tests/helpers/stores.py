"""Makes stores inside the test's own process, and reads their rows and checksums."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ctxbatch.corpus.field_types import with_types
from ctxbatch.corpus.plan import plan
from ctxbatch.execution.pipeline import ShardPipeline
from ctxbatch.execution.run_plan import examined, find_corpus
from ctxbatch.model import resolve
from ctxbatch.run_config import RunConfig
from ctxbatch.store.location import location_of
from ctxbatch.store.manifest import Manifest
from ctxbatch.store.reader import Store


def make_store(out: Path, inputs: list[Path], config: RunConfig, device: str = "cpu") -> Store:
    """Make a store as `ctxbatch.run` does, without worker processes and without an index."""
    corpus = examined(find_corpus(inputs, location_of(out), config), config)
    resolved = resolve.resolve(config, device)
    out.mkdir(parents=True, exist_ok=True)
    shards = tuple(plan(corpus.sources, corpus.reading))
    segments = [segment for spec in shards for segment in spec.segments]
    reading = with_types(corpus.reading, corpus.sources, segments)
    Manifest(resolved, reading, corpus.sources, shards).write(out)
    pipeline = ShardPipeline(out, device)
    for _ in pipeline.run_shards([spec.shard for spec in Manifest.read(out).shards], lambda _: None):
        pass
    return Store(out)


def store_maker(model: Path, folder: Callable[[], Path], lines: str, **defaults) -> Callable[..., Store]:
    """Return a function that makes a store of these lines, each in a new folder, with more options."""

    def make(**options):
        parent = folder()
        (parent / "text.txt").write_text(options.pop("lines", lines))
        fields = {"model": str(model), "precision": "fp32", "layers": (3, 1), **defaults, **options}
        return make_store(parent / "out", [parent / "text.txt"], RunConfig(**fields))

    return make


def arrow_digests(out: Path) -> dict[str, str]:
    """Return the checksums of all Arrow files and moments of a store by their paths in it."""
    paths = [*out.glob("shards/*/*.arrow"), *out.glob("shards/*/*.npy")]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)
    }


def rows_of(store) -> list[dict]:
    """Return all rows with their vectors as float32 arrays and their sentences."""
    words = store.words.to_table()
    sentences = {s["sentence_id"]: s for s in store.sentences.to_table().to_pylist()}
    vectors = {name: np.concatenate(list(store.vectors(name))) for name in store.config.columns}
    plain = words.drop_columns(list(vectors)).to_pylist()
    for number, row in enumerate(plain):
        row["sentence"] = sentences[row["sentence_id"]]
        for name, block in vectors.items():
            row[name] = block[number].astype(np.float32)
    return plain


def objects(server, url):
    """The sizes of a store's objects by their names in it."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    listed = server.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
    names = {each["Key"].removeprefix(f"{prefix}/"): each["Size"] for each in listed}
    return {name: size for name, size in names.items() if not name.endswith("/")}


def committed(server, url):
    return [name for name in objects(server, url) if name.endswith("/shard.json")]
