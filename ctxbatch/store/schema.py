"""Defines the schemas of a shard's Arrow files, words.arrow and sentences.arrow."""

import json
from dataclasses import asdict

import pyarrow as pa

from ctxbatch.choices import StoredType
from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.fields import FieldType, name_and_type
from ctxbatch.corpus.sources import Reading
from ctxbatch.store.int8_vectors import scale_of
from ctxbatch.store.manifest import FORMAT_VERSION

_FIELD_TYPES: dict[FieldType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
}
_SENTENCE_FIELDS = (
    pa.field("sentence_id", pa.int64(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("record", pa.int64(), nullable=False),
    pa.field("byte_start", pa.int64()),
    pa.field("doc_id", pa.string()),
    pa.field("char_start", pa.int32(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    pa.field("n_words", pa.int32()),
    pa.field("n_pieces", pa.int32()),
)
_STORED_TYPES: dict[StoredType, pa.DataType] = {
    "float16": pa.float16(),
    "float32": pa.float32(),
    "int8": pa.int8(),
}
# What treebanks say of their words.
ANNOTATIONS = ("lemma", "upos")


def words_schema(config: ResolvedConfig, reading: Reading) -> pa.Schema:
    """Return the schema of words.arrow: each word, its place in its sentence, and its vectors.

    ``known`` says whether the model knows all wordpieces of the row; older stores do not tell. Where sources
    say what their words are, also the lemma and the part of speech of each.
    """
    item = pa.field("item", _STORED_TYPES[config.dtype], nullable=False)
    vector_type = pa.list_(item, config.hidden_size)
    fields = [
        ("row_id", pa.int64()),
        ("sentence_id", pa.int64()),
        ("word_index", pa.int32()),
        ("word", pa.string()),
        ("char_start", pa.int32()),
        ("char_end", pa.int32()),
        ("n_pieces", pa.int32()),
    ]
    columns = [pa.field(name, kind, nullable=False) for name, kind in fields]
    columns.append(pa.field("salience", pa.float32()))
    if config.word_rule is not None:
        columns.append(pa.field("known", pa.bool_(), nullable=False))
    if reading.annotated:
        columns += [pa.field(name, pa.string()) for name in ANNOTATIONS]
    for name in config.columns:
        columns.append(pa.field(name, vector_type, nullable=False))
        if config.dtype == "int8":
            columns.append(pa.field(scale_of(name), pa.float32(), nullable=False))
    return pa.schema(columns, _metadata(config))


def sentences_schema(config: ResolvedConfig, reading: Reading) -> pa.Schema:
    """Return the schema of sentences.arrow: each sentence, its place in the source, its text, fields kept."""
    kept = [pa.field(name, _FIELD_TYPES[kind]) for name, kind in kept_columns(reading).items()]
    return pa.schema([*_SENTENCE_FIELDS, *kept], _metadata(config))


def kept_columns(reading: Reading) -> dict[str, FieldType]:
    """Return the columns of the fields that are kept, with their types.

    A field that has the name of a column of sentences.arrow gets an underscore.
    """
    taken = {each.name for each in _SENTENCE_FIELDS}
    columns: dict[str, FieldType] = {}
    for name, kind in map(name_and_type, reading.keep_field):
        while name in taken or name in columns:
            name += "_"
        columns[name] = kind or "string"
    return columns


def _metadata(config: ResolvedConfig) -> dict[str, str]:
    facts = {
        "format_version": FORMAT_VERSION,
        "model": config.model,
        "revision": config.revision,
        "layers": ",".join(map(str, config.layers)),
        "pooling": config.pool,
        "static": config.static,
        "salience_layer": config.salience_layer,
        "salience_head": config.salience_head,
        "selection": None if config.kept is None else json.dumps(asdict(config.kept)),
        "shift": config.shift,
        "floor": config.floor,
        "delta": config.delta,
        "dtype": config.dtype,
        "fingerprint": config.fingerprint,
    }
    return {f"ctxbatch.{name}": str(value) for name, value in facts.items() if value is not None}
