"""Defines the choices of options, and some defaults."""

from typing import Literal, get_args

VectorKind = Literal["static", "contextual", "shift"]
StaticKind = Literal["embeddings", "lookup"]
ShiftKind = Literal["log_ratio", "asinh", "difference"]
Pooling = Literal["mean", "first", "none"]
TextRecord = Literal["line", "paragraph", "file"]
RecordKind = Literal["auto", "line", "paragraph", "file"]
QuoteKind = Literal["csv", "none"]
Quoting = Literal["auto", "csv", "none"]
SplitKind = Literal["sentence", "none"]
StoredType = Literal["float16", "float32", "int8"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Arithmetic = Literal["fp32", "bf16", "fp16", "int8"]
FormatName = Literal[
    "txt",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "xml",
    "subtitles",
    "wikiextractor",
    "leipzig",
    "conllu",
    "vertical",
    "parquet",
    "arrow",
]
DecodeErrors = Literal["strict", "replace"]
Runtime = Literal["openvino", "torch"]
AllLayers = Literal["all"]
EngineName = Literal["local", "ray"]
SentenceVector = Literal["mean", "salient"]

VECTOR_KINDS: tuple[VectorKind, ...] = get_args(VectorKind)
SENTENCE_VECTORS: tuple[SentenceVector, ...] = get_args(SentenceVector)
DEFAULT_MODEL = "bert-base-uncased"
DEFAULT_STATIC: StaticKind = "embeddings"
DEFAULT_SHIFT: ShiftKind = "difference"
DEFAULT_FLOOR = 1e-3
DEFAULT_DELTA = 0.1
DEFAULT_LANGUAGE = "en"
DEFAULT_TEXT_FIELD = "text"
DEFAULT_ID_FIELD = "id"
DEFAULT_ENCODING = "utf-8"


def default_layer(n_layers: int) -> int:
    """Return the layer that a run stores unless layers are named: at two thirds of a model's depth."""
    return max(1, round(n_layers * 2 / 3))
