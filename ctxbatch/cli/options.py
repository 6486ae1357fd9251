"""Options as the command line has them, for every command that takes them: those of a run above all.

Owns how an option is spelled and parsed; what its value may be is for `ctxbatch.config` to say.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

from typer import Argument, Option

from ctxbatch import config
from ctxbatch.config import RunConfig
from ctxbatch.errors import InputError

AsJson = Annotated[bool, Option("--json", help="Print JSON for machines.")]
StoreName = Annotated[str, Argument(metavar="OUT", help="The store: its folder, or its URL.")]
StoreHere = Annotated[str, Argument(metavar="OUT", help="Folder of the store.")]
VectorKind = Annotated[
    str | None,
    Option(
        "--on",
        metavar="KIND",
        help="Vectors: shift, contextual or static. [default: the first of these that is stored]",
    ),
]
Layer = Annotated[int | None, Option("--layer", metavar="N", help="Layer. [default: the first of the run]")]

StoredModel = Annotated[
    str | None,
    Option(
        "--model",
        metavar="M",
        help="Where the store's model is: a folder, or a name. [default: where the store says, if it is "
        "an absolute path, installed, or in the Hugging Face cache]",
    ),
]


def _choices(alias: Any) -> str:  # noqa: ANN401 (a Literal)
    return "|".join(get_args(alias))


def run_options(
    model: Annotated[
        str,
        Option(
            metavar="NAME",
            help="A local folder, a model that an installed package carries, or a name on the hub.",
        ),
    ] = config.DEFAULT_MODEL,
    revision: Annotated[
        str | None, Option(metavar="R", help="Branch, tag or commit of the model on the hub.")
    ] = None,
    layers: Annotated[
        str | None,
        Option(
            metavar="all|N[,N...]",
            help="Layers from 1 up, or from -1 (the last) down; the first named is the default for search, "
            "and with all the last. [default: -1]",
        ),
    ] = None,
    vectors: Annotated[str, Option(metavar="KIND[,KIND...]", help="What to store.")] = ",".join(
        config.VECTOR_KINDS
    ),
    static: Annotated[
        str | None,
        Option(
            metavar=_choices(config.StaticKind),
            help="Static vectors: the embedding layer's output, or the raw row of the embedding matrix. "
            "[default: embeddings]",
        ),
    ] = None,
    shift: Annotated[
        str | None,
        Option(
            metavar=_choices(config.ShiftKind),
            help="How contextual is compared with static. [default: log_ratio]",
        ),
    ] = None,
    floor: Annotated[
        float | None,
        Option(help=f"log_ratio: values smaller than this count as zero. [default: {config.DEFAULT_FLOOR}]"),
    ] = None,
    delta: Annotated[
        float | None,
        Option(help=f"asinh: where it turns from linear to logarithmic. [default: {config.DEFAULT_DELTA}]"),
    ] = None,
    pool: Annotated[
        str,
        Option(
            metavar=_choices(config.Pooling),
            help="Wordpieces of a word: their mean, the first, or a row for each.",
        ),
    ] = "mean",
    keep_punctuation: Annotated[
        bool, Option("--keep-punctuation", help="Store words without a letter or digit too.")
    ] = False,
    salience: Annotated[
        bool, Option("--salience", help="Store how much attention each word receives, too.")
    ] = False,
    salience_layer: Annotated[
        int | None,
        Option(metavar="N", help="Salience at this layer; turns it on. [default: the highest that is run]"),
    ] = None,
    salience_head: Annotated[
        int | None, Option(metavar="N", help="Salience of this head; turns it on. [default: the mean of all]")
    ] = None,
    top_salient: Annotated[
        int | None,
        Option(metavar="K", help="Only the K most salient words of a sentence; turns salience on."),
    ] = None,
    words: Annotated[
        str | None,
        Option(metavar="FILE", help="Only occurrences of the words in a file, one a line, in any case."),
    ] = None,
    sample: Annotated[
        str | None,
        Option(metavar="RATE", help="Only a share of the words, as 0.01 or 1%, the same in every run."),
    ] = None,
    record: Annotated[
        str, Option(metavar=_choices(config.RecordKind), help="What a record of a text file is.")
    ] = "line",
    split: Annotated[
        str,
        Option(metavar=_choices(config.SplitKind), help="Split records into sentences, or take them whole."),
    ] = "sentence",
    lang: Annotated[
        str | None, Option(metavar="CODE", help="Language of the text, for sentence splitting. [default: en]")
    ] = None,
    format: Annotated[  # noqa: A002 (named as its option)
        str | None,
        Option(
            "--format",
            metavar=_choices(config.FormatName),
            help="Format of all inputs, whatever their suffixes say. [default: by suffix]",
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Field or column with the text; nested ones with dots, as meta.body. [default: text]",
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        Option(metavar="NAME", help="Field or column with the document's id. [default: id, if there is one]"),
    ] = None,
    encoding: Annotated[
        str | None,
        Option(metavar="NAME", help="Encoding of text without a byte order mark. [default: utf-8]"),
    ] = None,
    errors: Annotated[
        str,
        Option(
            metavar=_choices(config.DecodeErrors),
            help="Bytes that are not text: reject their record, or replace them by U+FFFD.",
        ),
    ] = "strict",
    delimiter: Annotated[
        str | None,
        Option(
            metavar="CHAR", help="Between the fields of CSV; \\t is a tab. [default: a comma, in .tsv a tab]"
        ),
    ] = None,
    max_rejects: Annotated[
        str | None,
        Option(metavar="N|SHARE", help="Stop when more records than this are rejected, as 100 or 1%."),
    ] = None,
    limit: Annotated[int | None, Option(metavar="RECORDS", help="Stop after this many records.")] = None,
    dtype: Annotated[
        str, Option(metavar=_choices(config.StoredType), help="Type of the stored vectors.")
    ] = "float16",
    precision: Annotated[
        str,
        Option(
            metavar=_choices(config.Precision),
            help="Arithmetic of the model; auto is bf16 where the device multiplies it natively, else fp32.",
        ),
    ] = "auto",
    compile: Annotated[  # noqa: A002 (named as its option)
        str,
        Option(
            "--compile",
            metavar=_choices(config.CompileChoice),
            help="Compile the model for this CPU, once and kept; auto does so where the corpus repays it.",
        ),
    ] = "auto",
    engine: Annotated[
        str, Option(metavar=_choices(config.EngineName), help="Work on this machine, or on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        Option(
            metavar="auto|[ray://]HOST:PORT",
            help="The Ray cluster: the one that this machine is part of, its head, or its head's server of "
            "Ray Client. [default: auto]",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        Option(metavar="D[,D...]", help="cpu, or GPUs as cuda:0,cuda:1. [default: all GPUs, else cpu]"),
    ] = None,
    workers: Annotated[
        str, Option(metavar="N", help="Worker processes; auto is one a GPU, or one a physical CPU core.")
    ] = "auto",
    shard_range: Annotated[
        str | None,
        Option(
            metavar="I/N",
            help="Run the I-th of N parts only, beside the others, on other machines too; I counts from 1.",
        ),
    ] = None,
    shard_size: Annotated[
        str,
        Option(
            metavar="BYTES",
            help="Input per shard, as 4MB or in bytes; auto depends on the size of the corpus.",
        ),
    ] = "auto",
    tokens_per_batch: Annotated[
        str,
        Option(metavar="N", help="Tokens of a batch, padding included; auto depends on the kind of device."),
    ] = "auto",
    no_index: Annotated[bool, Option("--no-index", help="Do not build the search index at the end.")] = False,
    force: Annotated[
        bool, Option("--force", help="Begin even if the disk seems too small for the result.")
    ] = False,
) -> RunConfig:
    """The options of a run, each with its help and default."""
    fields: dict[str, Any] = {  # of plain strings: `RunConfig` checks the choices
        "model": model,
        "revision": revision,
        "layers": layers if layers in (None, "all") else _numbers("--layers", layers),
        "vectors": tuple(vectors.split(",")),
        "static": static,
        "shift": shift,
        "floor": floor,
        "delta": delta,
        "pool": pool,
        "keep_punctuation": keep_punctuation,
        "salience": salience,
        "salience_layer": salience_layer,
        "salience_head": salience_head,
        "top_salient": top_salient,
        "words": None if words is None else _read_words(words),
        "sample": None if sample is None else _share("--sample", sample),
        "record": record,
        "split": split,
        "lang": lang,
        "text_field": text_field,
        "id_field": id_field,
        "format": format,
        "encoding": encoding,
        "errors": errors,
        "delimiter": "\t" if delimiter == "\\t" else delimiter,
        "max_rejects": _max_rejects(max_rejects),
        "limit": limit,
        "dtype": dtype,
        "precision": precision,
        "compile": compile,
        "engine": engine,
        "address": address,
        "devices": None if devices is None else tuple(devices.split(",")),
        "workers": _auto("--workers", workers),
        "shard_range": None if shard_range is None else _part("--shard-range", shard_range),
        "shard_size": None if shard_size == "auto" else parse_size("--shard-size", shard_size, "auto or "),
        "tokens_per_batch": _auto("--tokens-per-batch", tokens_per_batch),
        "index": not no_index,
        "force": force,
    }
    return RunConfig(**fields)


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above, and their `RunConfig` to the command, as ``options``."""
    taken = inspect.signature(run_options).parameters
    first: list[inspect.Parameter] = []
    last: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "options":
            (first if parameter.default is parameter.empty else last).append(parameter)

    @functools.wraps(command)
    def with_options(**given: Any) -> None:  # noqa: ANN401 (whatever the command line says)
        options = run_options(**{name: given.pop(name) for name in taken})
        command(options=options, **given)

    parameters = [*first, *taken.values(), *last]
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    with_options.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]  # typer reads it
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} must be all, or layer numbers such as -1 or 2,4,6") from None


def _auto(option: str, text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} {text!r} must be auto or a number") from None


def _part(option: str, text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    try:
        return int(number), int(of)
    except ValueError:
        raise InputError(f"{option} {text!r} must be I/N, as 2/4 for the second of four parts") from None


def _share(option: str, text: str) -> float:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise InputError(f"{option} {text!r} must be a share, as 0.01 or 1%") from None


def _read_words(path: str) -> tuple[str, ...]:
    """The words in a file, one a line; white space around them and blank lines do not count."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--words {path} cannot be read: {reason}") from None
    words = tuple(word for line in lines if (word := line.strip()))
    if not words:
        raise InputError(f"--words {path} names no words: write one a line")
    return words


def _max_rejects(text: str | None) -> int | float | None:
    """A count as an ``int``, a share as a ``float``."""
    if text is None:
        return None
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return float(text) if "." in text else int(text)
    except ValueError:
        raise InputError(f"--max-rejects {text!r} must be a count, as 100, or a share, as 1%") from None


def parse_size(option: str, text: str, or_else: str = "") -> int:
    """A number of bytes, as 4MB or 4000000; ``or_else`` says what else the option takes.

    Raises:
        InputError: The text is not a size.
    """
    units = {
        "kb": 1 << 10,
        "mb": 1 << 20,
        "gb": 1 << 30,
        "k": 1 << 10,
        "m": 1 << 20,
        "g": 1 << 30,
        "b": 1,
        "": 1,
    }
    lower = text.lower().replace(" ", "")
    number = lower.rstrip("kmgb")
    try:
        return int(float(number) * units[lower[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        raise InputError(f"{option} {text!r} must be {or_else}a size such as 4MB") from None
