"""Writes the same records in every format and compression, and reads them back as the pipeline does."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
from hypothesis import HealthCheck, settings

from ctxbatch.corpus.plan import plan
from ctxbatch.corpus.records import Reader, Record
from ctxbatch.execution.run_plan import examined, find_corpus
from ctxbatch.run_config import RunConfig
from ctxbatch.store.location import location_of

relaxed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)


def read_all(files, **options):
    """Return the sources, the plan, and a list of the records and rejects of the corpus."""
    sources, shards, items = reading_of(files, **options)
    return sources, shards, list(items)


def reading_of(files, **options):
    """Return the sources, the plan, and an iterator over the records and rejects of the corpus."""
    config = RunConfig(**options)
    corpus = examined(find_corpus(files, location_of("/nowhere"), config), config)
    shards = plan(corpus.sources, corpus.reading)
    reader = Reader(corpus.sources, corpus.reading)
    return corpus.sources, shards, (item for spec in shards for item in reader.read(spec.segments))


def texts_of(items):
    assert all(isinstance(item, Record) for item in items), items
    return [item.text for item in items]


def _arrow_compressed(name):
    def compress(data):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, name) as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()

    return compress


COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": _arrow_compressed("zstd"),
    ".lz4": _arrow_compressed("lz4"),
}


def as_lines(texts):
    return "".join(f"{text}\n" for text in texts).encode()


def as_json_lines(texts):
    return "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)).encode()


def as_delimited(texts, delimiter):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    return stream.getvalue().encode()


def as_table(texts):
    return pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})


def write_parquet(table, path, **options):
    pa.parquet.write_table(table, path, **options)


def write_arrow_file(table, path, rows=7):
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write_arrow_stream(table, path, rows=7):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write_all(folder, texts):
    """Write one file per format and compression, all with the same records; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, compress in COMPRESS.items():
        (folder / f"lines.txt{suffix}").write_bytes(compress(as_lines(texts)))
        (folder / f"objects.jsonl{suffix}").write_bytes(compress(as_json_lines(texts)))
    (folder / "rows.csv").write_bytes(as_delimited(texts, ","))
    (folder / "rows.csv.gz").write_bytes(gzip.compress(as_delimited(texts, ",")))
    (folder / "rows.tsv").write_bytes(as_delimited(texts, "\t"))
    table = as_table(texts)
    write_parquet(table, folder / "table.parquet", row_group_size=5)
    pa.feather.write_feather(table, str(folder / "table.feather"), chunksize=7)
    write_arrow_file(table, folder / "file.arrow")
    write_arrow_stream(table, folder / "stream.arrow")
    return sorted(folder.iterdir())
