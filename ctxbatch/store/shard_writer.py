"""Writes the files of a shard, and the commit record that makes the shard count.

A shard is written to a temporary folder, synced, and renamed into place; its ``shard.json`` is written last.
Rows with a NaN or an infinity are rejected here.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctxbatch.arrays import Vectors
from ctxbatch.corpus.records import Reject
from ctxbatch.files import remove, sync, temporary_name, write_json
from ctxbatch.model.unbatch import Gathered
from ctxbatch.store.arrow_files import frame_facts
from ctxbatch.store.commits import (
    COMMIT,
    MOMENTS,
    REJECTS,
    SENTENCES,
    WORDS,
    Commit,
    Counts,
    FileName,
    commit_of,
    shard_folder,
)
from ctxbatch.store.int8_fidelity import Int8Sample
from ctxbatch.store.int8_vectors import Int8Vectors
from ctxbatch.store.manifest import FORMAT_VERSION, INDEX, MODEL, SHARDS, Manifest
from ctxbatch.store.moments import Moments, moments_as_bytes
from ctxbatch.store.schema import sentences_schema, words_schema
from ctxbatch.text.buffers import Buffer, Rows
from ctxbatch.text.fit import Fit
from ctxbatch.text.sentences import Sentence

BATCH_ROWS = 65_536


class _HashedFile:
    """A binary file that computes its checksum and size as it is written."""

    def __init__(self, path: Path) -> None:
        self._stream: IO[bytes] = path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size += memoryview(data).nbytes
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            try:
                self._stream.flush()
                os.fsync(self._stream.fileno())
            finally:
                self._stream.close()

    def facts(self) -> dict[str, Any]:
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}


class _ArrowFile:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.file = _HashedFile(path)
        self._sink = pa.PythonFile(self.file, mode="w")
        self._writer = pa.ipc.new_file(self._sink, schema)
        self.schema = schema

    def write(self, arrays: Sequence[pa.Array]) -> None:
        """Write rows in record batches of at most `BATCH_ROWS`; the size of a buffer limits their text."""
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        for begin in range(0, batch.num_rows, BATCH_ROWS):
            self._writer.write_batch(batch.slice(begin, BATCH_ROWS))

    def close(self) -> None:
        self._writer.close()
        self._sink.close()
        self.file.close()

    def facts(self) -> dict[str, Any]:
        """Return the facts of the closed file for the commit record."""
        return {**self.file.facts(), **frame_facts(self.path)}

    def abandon(self) -> None:
        self.file.closed = True
        self.file._stream.close()


class _Adding:
    """Adds up the moments of columns in a thread of its own, which takes as long as writing them.

    Args:
        moments: Those of no rows, for each column.
    """

    def __init__(self, moments: list[Moments]) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="moments")
        self._sums: Future[list[Moments]] = Future()
        self._sums.set_result(moments)

    def add(self, vectors: Sequence[Vectors | Int8Vectors]) -> None:
        """Begin to add a record batch, once the last one is added."""
        self._sums = self._threads.submit(_with_batch, self.total(), vectors)

    def total(self) -> list[Moments]:
        """Return the moments of all that was added."""
        return self._sums.result()

    def end(self) -> None:
        """Wait for the thread, and end it."""
        self._threads.shutdown()


def _with_batch(moments: list[Moments], vectors: Sequence[Vectors | Int8Vectors]) -> list[Moments]:
    return [one.with_batch(column) for one, column in zip(moments, vectors, strict=True)]


class ShardWriter:
    """Writes one shard, buffer by buffer, and commits it. A context manager, which removes a failed shard.

    Args:
        out: The store's folder.
        shard: The shard's number.
        manifest: The store's manifest, whose sources the sentences name.
    """

    def __init__(self, out: Path, shard: int, manifest: Manifest) -> None:
        config = manifest.config
        self._place = shard_folder(out, shard)
        self._beside = self._place.with_name(temporary_name(self._place.name))
        self._shard = shard
        self._sources = manifest.sources
        self.counts = Counts()
        self._scripts: Counter[str] = Counter()
        self._rejects: list[Reject] = []
        self._carried: Sequence[Sentence] = []
        self._columns = config.columns
        self._moments = _Adding([Moments.none(config.hidden_size) for _ in config.columns])
        self._int8 = {name: Int8Sample() for name in config.columns} if config.dtype == "int8" else None
        self._n_kept = len(manifest.reading.keep_field)
        shutil.rmtree(self._beside, ignore_errors=True)
        self._beside.mkdir(parents=True)
        sync(out)
        self._words = _ArrowFile(self._beside / WORDS, words_schema(config, manifest.reading))
        self._sentences = _ArrowFile(self._beside / SENTENCES, sentences_schema(config, manifest.reading))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._moments.end()
        if kind is not None:
            for file in (self._words, self._sentences):
                with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
                    file.abandon()
            shutil.rmtree(self._beside, ignore_errors=True)

    def write(self, gathered: Gathered) -> None:
        """Append a buffer's sentences and rows; what is stored as int8 overwrites its vectors."""
        buffer, salience_N, finite_N = gathered.buffer, gathered.salience_N, gathered.finite_N
        vectors = dict(zip(self._columns, gathered.vectors_CND, strict=True))
        first_sentence = self.counts.sentences
        self._write_sentences(buffer, first_sentence)
        self.reject(buffer.rejects)
        words, rows = buffer.words, buffer.rows
        if not finite_N.all():
            self.reject(self._not_finite(buffer, vectors, finite_N))
            keep = np.flatnonzero(finite_N)
            words, rows = words.take(keep), rows.take(keep)
            vectors = {name: vector[keep] for name, vector in vectors.items()}
            salience_N = None if salience_N is None else salience_N[keep]
        base = self._shard << 32
        row_ids = np.arange(self.counts.rows, self.counts.rows + len(rows), dtype=np.int64) + base
        arrays = [
            pa.array(row_ids),
            pa.array(rows.sentence_N + first_sentence + base),
            pa.array(rows.word_index_N.astype(np.int32)),
            words.as_arrow(),
            pa.array(rows.char_start_N.astype(np.int32)),
            pa.array(rows.char_end_N.astype(np.int32)),
            pa.array(rows.n_pieces_N.astype(np.int32)),
            pa.nulls(len(rows), pa.float32()) if salience_N is None else pa.array(salience_N),
        ]
        if self._words.schema.get_field_index("known") >= 0:
            arrays.append(pa.array(rows.known_N))
        if self._words.schema.get_field_index("lemma") >= 0:
            arrays += self._annotations(rows)
        stored = [self._as_stored(name, vectors[name]) for name in self._columns]
        self._moments.add(stored)
        for name, column in zip(self._columns, stored, strict=True):
            arrays += _vectors(column, self._words.schema.field(name).type)
        self._words.write(arrays)
        self.counts.rows += len(rows)
        self.counts.words += int(buffer.n_words_S.sum())
        self.counts.wordpieces += int(buffer.n_pieces_S.sum())
        self._count_unfit(buffer.fit)

    def _as_stored(self, name: str, vectors_ND: Vectors) -> Vectors | Int8Vectors:
        """Return vectors as they are stored, and sample what int8 keeps of them."""
        if self._int8 is None:
            return vectors_ND
        self._int8[name].add(vectors_ND)
        return Int8Vectors.of(vectors_ND)

    def _count_unfit(self, fit: Fit) -> None:
        for name, count in fit.counts.items():
            setattr(self.counts, name, getattr(self.counts, name) + count)
        self._scripts.update(fit.scripts)

    def _annotations(self, rows: Rows) -> list[pa.Array]:
        """Return the lemmas and the parts of speech of rows, null where the source does not say them."""
        lemmas, upos = [], []
        for sentence, token in zip(rows.sentence_N.tolist(), rows.token_N.tolist(), strict=True):
            tokens = self._carried[sentence].tokens if token >= 0 else None  # several words have none
            lemmas.append(tokens.lemmas[token] if tokens and tokens.lemmas else None)
            upos.append(tokens.upos[token] if tokens and tokens.upos else None)
        return [pa.array(lemmas, pa.string()), pa.array(upos, pa.string())]

    def _write_sentences(self, buffer: Buffer, first: int) -> None:
        sentences = buffer.sentences
        if not sentences:
            return
        ids = np.arange(first, first + len(sentences), dtype=np.int64) + (self._shard << 32)
        arrays = [
            pa.array(ids),
            pa.array([self._sources[sentence.record.source].path for sentence in sentences]),
            pa.array([sentence.record.record for sentence in sentences], pa.int64()),
            pa.array([sentence.record.byte_start for sentence in sentences], pa.int64()),
            pa.array([sentence.record.doc_id for sentence in sentences], pa.string()),
            pa.array([sentence.char_start for sentence in sentences], pa.int32()),
            pa.array([sentence.text for sentence in sentences], pa.string()),
            pa.array(buffer.n_words_S.astype(np.int32), mask=~buffer.read_S),
            pa.array(buffer.n_pieces_S.astype(np.int32), mask=~buffer.read_S),
        ]
        arrays += self._kept(sentences)
        self._sentences.write(arrays)
        self._carried = sentences
        self.counts.sentences += len(sentences)

    def _kept(self, sentences: Sequence[Sentence]) -> list[pa.Array]:
        """Return the columns of the fields that are kept, which are the last ones."""
        n_kept = self._n_kept
        fields = list(self._sentences.schema)[-n_kept:] if n_kept else []
        return [
            pa.array([sentence.record.kept[number] for sentence in sentences], field.type)
            for number, field in enumerate(fields)
        ]

    def _not_finite(
        self, buffer: Buffer, vectors: Mapping[str, npt.NDArray[Any]], finite_N: npt.NDArray[np.bool_]
    ) -> Iterable[Reject]:
        for row in np.flatnonzero(~finite_N):
            column = next(name for name in self._columns if not np.isfinite(vectors[name][row]).all())
            record = self._carried[int(buffer.rows.sentence_N[row])].record
            reason = f"{column} is not finite in {vectors[column].dtype}"
            yield Reject(record.source, record.record, record.byte_start, reason, buffer.words[int(row)])

    def reject(self, rejects: Iterable[Reject]) -> None:
        """Record what is not processed."""
        for reject in rejects:
            self._rejects.append(reject)
            if reject.word is None:
                self.counts.rejected += 1
            else:
                self.counts.rejected_words += 1

    def commit(self, facts: Callable[[], Mapping[str, Any]]) -> Commit:
        """Close and sync the files, write the commit record, and rename the shard into place.

        Args:
            facts: Returns the other fields of the commit record, such as inputs, timing and device; called
                when everything else is synced.

        Returns:
            The commit record.
        """
        self._words.close()
        self._sentences.close()
        files = {WORDS: self._words.facts(), SENTENCES: self._sentences.facts()}
        files[MOMENTS] = self._write(MOMENTS, [moments_as_bytes(self._moments.total())])
        if self._rejects:
            lines = (json.dumps(self._reject_line(each), ensure_ascii=False) + "\n" for each in self._rejects)
            files[REJECTS] = self._write(REJECTS, (line.encode() for line in lines))
        record = {
            "format_version": FORMAT_VERSION,
            "shard": self._shard,
            "counts": asdict(self.counts),
            "files": files,
            "scripts": dict(sorted(self._scripts.items())),
            **facts(),
        }
        if self._int8 is not None:
            record["int8"] = {name: asdict(sample.sums()) for name, sample in self._int8.items()}
        write_json(self._beside / COMMIT, record)
        put_in_place(self._beside, self._place)
        return commit_of(json.loads(json.dumps(record)), self._place / COMMIT, self._shard)

    def _write(self, name: FileName, parts: Iterable[bytes]) -> dict[str, Any]:
        """Write a file of the shard; return its facts for the commit record."""
        file = _HashedFile(self._beside / name)
        for part in parts:
            file.write(part)
        file.close()
        return file.facts()

    def _reject_line(self, reject: Reject) -> dict[str, Any]:
        line = {
            "source": self._sources[reject.source].path,
            "record": reject.record,
            "byte_start": reject.byte_start,
            "reason": reject.reason,
        }
        return line if reject.word is None else {**line, "word": reject.word}


def put_in_place(beside: Path, place: Path) -> None:
    """Rename a complete folder to a shard's; an existing folder there is damaged, and is removed.

    Raises:
        OSError: The disk refuses.
    """
    aside = place.with_name(temporary_name(f"{place.name}.old"))
    try:
        beside.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        place.rename(aside)  # rename before removing: a half-removed shard must not count
        beside.rename(place)
    sync(place.parent)
    remove(aside)


def remove_leftovers(out: Path, process: str | None = None) -> None:
    """Remove temporary shards and files that were never finished.

    Args:
        out: The store's folder.
        process: The ended process whose leftovers to remove; by default those of all processes, for which
            the caller must hold the exclusive lock.
    """
    pattern = temporary_name("*", "*" if process is None else glob.escape(process))
    for folder in (out / SHARDS).glob(pattern):
        remove(folder)
    folders = (out, out / INDEX, *(out / INDEX).glob("*.parts"), out / MODEL)
    for file in (each for folder in folders for each in folder.glob(pattern)):
        file.unlink(missing_ok=True)


def remove_unfinished(out: Path, shard: int) -> None:
    """Remove what killed processes have left of a shard; the caller must hold its claim."""
    for folder in (out / SHARDS).glob(temporary_name(shard_folder(out, shard).name, "*")):
        remove(folder)


def _vectors(vectors: Vectors | Int8Vectors, kind: pa.DataType) -> list[pa.Array]:
    """Return the arrays of a column of vectors: the vectors, and the scales of int8 ones."""
    if isinstance(vectors, Int8Vectors):
        return [*_vectors(vectors.values_ND, kind), pa.array(vectors.scale_N)]
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return [pa.FixedSizeListArray.from_arrays(flat, type=kind)]
