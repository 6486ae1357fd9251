"""Writes the dataset card of an export: what it holds, and how to read it.

Names and conditions come from a store or a user, so they are escaped: nothing of them becomes Markdown, HTML
or a link, and none of them gets into the YAML.
"""

import re
from collections.abc import Iterator, Sequence
from importlib import metadata

import pyarrow as pa

from ctxbatch.config import ResolvedConfig
from ctxbatch.formulas import ComputedShift, kind_and_layer
from ctxbatch.store.commits import WORDS, FileName
from ctxbatch.store.int8_vectors import is_scale
from ctxbatch.store.reader import Store
from ctxbatch.tables.export_plan import ExportPlan
from ctxbatch.tables.exported_rows import ExportedRows
from ctxbatch.terminal import flat

_OF_WORDS = {
    "row_id": "the row's number in the store: shard << 32 \\| row",
    "sentence_id": "the word's sentence: shard << 32 \\| sentence",
    "word_index": "the word's number in its sentence, from 0",
    "word": "the word as in the text",
    "char_start": "where the word begins in the sentence's text, in code points, from 0",
    "char_end": "where it ends",
    "n_pieces": "the wordpieces that the vectors are made from",
    "salience": "the attention that the word receives, if the run measured it",
    "known": "false if the model has no wordpiece for a part of the word",
    "lemma": "the lemma that the source gives",
    "upos": "the part of speech that the source gives",
}
_OF_SENTENCES = {
    "sentence_id": "the sentence's number in the store: shard << 32 \\| sentence",
    "source": "the file of the text",
    "record": "the number of the record (a line, a paragraph, a row) in its source, from 0",
    "byte_start": "where the record begins in the decompressed source",
    "doc_id": "the identifier of the record, if it has one",
    "char_start": "where the sentence begins in the record's text, in code points, from 0",
    "text": "the text of the sentence",
    "n_words": "the number of words",
    "n_pieces": "the number of wordpieces",
}
_POOLED = {
    "mean": "the mean of the vectors of its wordpieces",
    "first": "the vector of its first wordpiece",
    "none": "each wordpiece has a row",
}
_READ = """\
```python
folder = "tables"  # the path of this folder

import duckdb{duckdb}
print(duckdb.sql(f"SELECT * FROM '{{folder}}/words/*.parquet' LIMIT 5"))

import polars as pl
words = pl.scan_parquet(f"{{folder}}/words/*.parquet")

import pandas as pd
words = pd.read_parquet(f"{{folder}}/words", columns=[{columns}])

from datasets import load_dataset
words = load_dataset(folder, "words", split="train")
```
"""
_FLOATS_32 = "Spark has a type for each column (vectors are `array<float>`), but this was not tried."
_INT8 = "A vector is its int8 values times the scale in the next column, `<column>_scale`."
_FLOATS_16 = "DuckDB before 1.3 and Spark cannot read the vectors, which are half floats (float16)."
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
_SYNTAX = re.compile(r"([\\`*_{}\[\]<>()#!|~&:@]|(?<=www)\.)", re.IGNORECASE)


def card_of(store: Store, plan: ExportPlan, tables: Sequence[ExportedRows]) -> str:
    """Return the card, as Markdown with YAML for Hugging Face datasets."""
    return "\n".join(_lines(store, plan, tables)) + "\n"


def _lines(store: Store, plan: ExportPlan, tables: Sequence[ExportedRows]) -> Iterator[str]:
    yield from ["---", "configs:"]
    for number, table in enumerate(tables):
        yield from [f"- config_name: {table.name}", f"  data_files: {table.name}/*.parquet"]
        yield from [] if number else ["  default: true"]
    yield from ["---", "", "# Vectors of words in context", ""]
    yield "Each row is one occurrence of a word, with vectors that a language model gives it in its sentence."
    yield f"Written by ctxbatch {metadata.version('ctxbatch')}."
    yield from ["", *_facts(store.config, plan), ""]
    if plan.options.where is not None:
        yield from ["The rows are those that this condition selects:", "", "```sql"]
        yield from [f"WHERE {flat(plan.options.where)}", "```", ""]
    for table in tables:
        yield from _columns(table, store.config)
    yield from ["## Read it", ""]
    names = ", ".join(f'"{name}"' for name in tables[0].schema.names[:2] if _PLAIN_NAME.fullmatch(name))
    duckdb = "  # 1.3 or newer" if plan.options.dtype == "float16" else ""
    yield _READ.format(columns=names, duckdb=duckdb)
    if len(tables) > 1:
        yield "`sentence_id` joins the tables. Read `sentences` in the same way as `words`."
        yield ""
    yield {"float16": _FLOATS_16, "float32": _FLOATS_32, "int8": f"{_INT8} {_FLOATS_32}"}[plan.options.dtype]


def _facts(config: ResolvedConfig, plan: ExportPlan) -> Iterator[str]:
    yield from ["| | |", "| --- | --- |"]
    revision = "" if config.revision is None else f", revision {_escaped(config.revision)}"
    yield f"| model | {_escaped(config.model)} ({_escaped(config.model_type)}{revision}) |"
    yield f"| dimensions | {config.hidden_size} |"
    if config.layers:
        yield f"| layers | {', '.join(map(str, config.layers))} of {config.n_layers} |"
    if config.formula is not None:
        parameters = "".join(f", {name} {value:g}" for name, value in config.formula.parameters.items())
        yield f"| shift | {config.formula.kind}{parameters} |"
    yield f"| a word's vector | {_POOLED[config.pool]} |"
    yield f"| words | {'all' if config.kept is None else config.kept} |"
    narrower = config.dtype == "float16" and plan.options.dtype == "float32"
    yield f"| vectors | {plan.options.dtype}{', widened from float16' if narrower else ''} |"
    for table in plan.tables:
        n_files = len([*table.files])
        yield f"| `{table.name}/` | {table.rows:,} rows in {n_files:,} file{'s' * (n_files > 1)} |"


def _columns(table: ExportedRows, config: ResolvedConfig) -> Iterator[str]:
    yield from [f"## Columns of `{table.name}/`", "", "| column | type | |", "| --- | --- | --- |"]
    for field in table.schema:
        name = f"`{field.name}`" if _PLAIN_NAME.fullmatch(field.name) else _escaped(field.name)
        yield f"| {name} | {_type(field)} | {_meaning(*table.sources[field.name], config)} |"
    yield ""


_TYPES = {pa.float16(): "float16", pa.float32(): "float32", pa.int8(): "int8"}


def _type(field: pa.Field) -> str:
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        return f"list of {kind.list_size} {_TYPES[kind.value_type]}"
    return f"{kind}{' or null' if field.nullable else ''}"


def _meaning(file: FileName, source: str, config: ResolvedConfig) -> str:
    if file != WORDS:
        return _OF_SENTENCES.get(source, "a field of the records")
    if source in _OF_WORDS:
        return _OF_WORDS[source]
    if is_scale(source):
        return "what the int8 values before it are multiplied by"
    kind, layer = kind_and_layer(source)
    if source == "static":
        where = "the output of the embedding layer" if config.static == "embeddings" else "its embedding"
        return f"the word's vector s before the model has read its context: {where}"
    if kind == "contextual":
        return f"the word's vector c in its sentence: the output of layer {layer}"
    shift = ComputedShift.parse(config.identity(source))
    formula = {
        "difference": "c - s",
        "asinh": f"asinh(c/{shift.formula.parameter}) - asinh(s/{shift.formula.parameter})",
        "log_ratio": "ln(c/s) where c and s have the same sign and neither is smaller than "
        f"{shift.formula.parameter}, else 0",
    }[shift.formula.kind]
    return f"what the context has changed: {formula}, with c of layer {shift.layer}"


def _escaped(text: str) -> str:
    """Return a text of others on one line, as it is: no Markdown, no HTML, no links."""
    return _SYNTAX.sub(r"\\\1", flat(text))
