"""What a run is asked to do (`RunConfig`) and what that means for one model (`ResolvedConfig`).

Owns validation of options and the fingerprint. Reads no file and imports no model code.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import msgspec

from ctxbatch.errors import InputError
from ctxbatch.sealed import Count, Positive, canonical_json

VectorKind = Literal["static", "contextual", "shift"]
StaticKind = Literal["embeddings", "lookup"]
ShiftKind = Literal["log_ratio", "asinh", "difference"]
Pooling = Literal["mean", "first", "none"]
RecordKind = Literal["line", "paragraph", "file"]
SplitKind = Literal["sentence", "none"]
StoredType = Literal["float16", "float32"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
FormatName = Literal["txt", "jsonl", "csv", "tsv", "parquet", "arrow"]
DecodeErrors = Literal["strict", "replace"]
CompileChoice = Literal["auto", "on", "off"]
AllLayers = Literal["all"]
EngineName = Literal["local", "ray"]

VECTOR_KINDS: tuple[VectorKind, ...] = get_args(VectorKind)
DEFAULT_MODEL = "bert-base-uncased"
DEFAULT_FLOOR = 1e-3
DEFAULT_DELTA = 0.1
# No model has more dimensions, layers or positions.
_MOST = 1 << 20


def _check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{option} {value!r} is not one of {', '.join(choices)}")


def _check_positive(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{option} {value} is too small: it must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The options of ``ctxbatch run``, by the names they have on the command line.

    ``None`` means "not given": the default then holds where the option has a meaning, and giving an
    option that has none (``floor`` with the asinh shift, say) is an error rather than ignored.
    ``max_rejects`` is a number of records as an ``int``, a share of them as a ``float``. ``words`` are the
    words themselves, which the command line reads from a file. Of ``words``, ``sample`` and ``top_salient``
    each keeps occurrences by itself, and stored are those that all of them keep. ``shard_range`` is (i, n)
    for the i-th of n parts of a run, i from 1.

    Raises:
        InputError: An option has a value out of its range, or cannot be used beside the others.
    """

    model: str = DEFAULT_MODEL
    revision: str | None = None
    layers: tuple[int, ...] | AllLayers | None = None
    vectors: tuple[VectorKind, ...] = VECTOR_KINDS
    static: StaticKind | None = None
    shift: ShiftKind | None = None
    floor: float | None = None
    delta: float | None = None
    pool: Pooling = "mean"
    keep_punctuation: bool = False
    salience: bool = False
    salience_layer: int | None = None
    salience_head: int | None = None
    top_salient: int | None = None
    words: tuple[str, ...] | None = None
    sample: float | None = None
    record: RecordKind = "line"
    split: SplitKind = "sentence"
    lang: str | None = None
    text_field: str | None = None
    id_field: str | None = None
    format: FormatName | None = None
    encoding: str | None = None
    errors: DecodeErrors = "strict"
    delimiter: str | None = None
    max_rejects: int | float | None = None
    limit: int | None = None
    dtype: StoredType = "float16"
    precision: Precision = "auto"
    compile: CompileChoice = "auto"
    engine: EngineName = "local"
    address: str | None = None
    devices: tuple[str, ...] | None = None
    workers: int | None = None
    shard_range: tuple[int, int] | None = None
    shard_size: int | None = None
    tokens_per_batch: int | None = None
    index: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        _check_choice("--pool", self.pool, get_args(Pooling))
        _check_choice("--record", self.record, get_args(RecordKind))
        _check_choice("--split", self.split, get_args(SplitKind))
        if self.format is not None:
            _check_choice("--format", self.format, get_args(FormatName))
        _check_choice("--errors", self.errors, get_args(DecodeErrors))
        _check_choice("--dtype", self.dtype, get_args(StoredType))
        _check_choice("--precision", self.precision, get_args(Precision))
        _check_choice("--compile", self.compile, get_args(CompileChoice))
        self._check_engine()
        self._check_devices()
        if self.shard_range is not None and not 1 <= self.shard_range[0] <= self.shard_range[1]:
            number, of = self.shard_range
            raise InputError(f"--shard-range {number}/{of} must name a part of all, as 1/4 to 4/4 do of four")
        for option, value in (
            ("--limit", self.limit),
            ("--workers", self.workers),
            ("--shard-size", self.shard_size),
            ("--tokens-per-batch", self.tokens_per_batch),
            ("--top-salient", self.top_salient),
        ):
            _check_positive(option, value)
        if self.max_rejects is not None:
            highest = 1 if isinstance(self.max_rejects, float) else float("inf")
            if not 0 <= self.max_rejects <= highest:
                given = f"{self.max_rejects:.0%}" if highest == 1 else self.max_rejects
                raise InputError(f"--max-rejects {given} must be a count or a share up to 100%")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise InputError(f"--delimiter {self.delimiter!r} must be one character, as ; or \\t")
        self._check_vectors()
        self._check_shift()
        self._check_selection()
        if self.split == "none" and self.lang is not None:
            raise InputError("--lang cannot be used with --split none: leave one of them out")

    def _check_engine(self) -> None:
        _check_choice("--engine", self.engine, get_args(EngineName))
        if self.engine == "local":
            if self.address is not None:
                raise InputError("--address cannot be used with --engine local: leave it out, or take ray")
            return
        if self.devices is not None:
            raise InputError(
                "--devices cannot be used with --engine ray, which takes all GPUs of the cluster or all "
                "its CPUs: leave it out; --workers says how many"
            )
        if self.shard_range is not None:
            raise InputError("--shard-range cannot be used with --engine ray, which divides the work itself")
        if self.address is not None and not re.fullmatch(r"auto|(ray://)?[^\s:/]+:\d+", self.address):
            raise InputError(f"--address {self.address!r} must be auto, HOST:PORT or ray://HOST:PORT")

    def _check_devices(self) -> None:
        if self.devices is None:
            return
        given = ",".join(self.devices)
        for device in self.devices:
            if not re.fullmatch(r"cpu|cuda:\d+", device):
                raise InputError(f"--devices {given!r} must be cpu or GPUs such as cuda:0,cuda:1")
        if not given or len(set(self.devices)) != len(self.devices):
            raise InputError(
                f"--devices {given!r} must name devices, each once; --workers says how many work"
            )
        if "cpu" in self.devices and len(self.devices) > 1:
            raise InputError(f"--devices {given!r} mixes kinds, whose results differ: take cpu or GPUs")
        if self.workers is not None and self.workers < len(self.devices):
            raise InputError(f"--workers {self.workers} leaves some of --devices {given} without work")

    def _check_vectors(self) -> None:
        for kind in self.vectors:
            _check_choice("--vectors", kind, VECTOR_KINDS)
        if not self.vectors or len(set(self.vectors)) != len(self.vectors):
            raise InputError(f"--vectors {','.join(self.vectors)!r} must name one to three kinds, each once")
        if isinstance(self.layers, str):
            _check_choice("--layers", self.layers, get_args(AllLayers))
        elif self.layers is not None and (not self.layers or len(set(self.layers)) != len(self.layers)):
            raise InputError(f"--layers {','.join(map(str, self.layers))!r} must name layers, each once")
        if self.vectors == ("static",):
            self._check_static_only()
        if self.static is not None:
            _check_choice("--static", self.static, get_args(StaticKind))
            if self.vectors == ("contextual",):
                raise InputError("--static cannot be used with --vectors contextual: leave one of them out")

    def _check_static_only(self) -> None:
        if self.layers is not None:
            raise InputError("--layers cannot be used with --vectors static: static vectors have no layer")
        if self.precision != "auto":
            raise InputError("--precision cannot be used with --vectors static: they are always fp32")
        if self.compile == "on":
            raise InputError("--compile on cannot be used with --vectors static: no layer is run")
        if self.wants_salience:
            raise InputError("salience cannot be used with --vectors static: no layer's attention is run")

    @property
    def wants_salience(self) -> bool:
        """Whether some option asks for the salience of words."""
        options = (self.salience_layer, self.salience_head, self.top_salient)
        return self.salience or any(option is not None for option in options)

    def _check_selection(self) -> None:
        if self.sample is not None and not 0 < self.sample <= 1:
            raise InputError(f"--sample {self.sample} must be a share of the words, as 0.01 or 1%")
        if self.words is not None:
            if isinstance(self.words, str):
                raise InputError(f"--words {self.words!r} is one text: give a tuple of words")
            if not self.words:
                raise InputError("--words names no words: write one a line")
            if blank := [word for word in self.words if not word.strip()]:
                raise InputError(f"--words holds {blank[0]!r}, which is not a word: leave it out")

    def _check_shift(self) -> None:
        if self.shift is not None:
            _check_choice("--shift", self.shift, get_args(ShiftKind))
        given = {"--shift": self.shift, "--floor": self.floor, "--delta": self.delta}
        if "shift" not in self.vectors:
            for option, value in given.items():
                if value is not None:
                    raise InputError(f"{option} cannot be used without shift in --vectors")
        kind = self.shift or "log_ratio"
        if self.floor is not None and kind != "log_ratio":
            raise InputError(f"--floor belongs to --shift log_ratio and cannot be used with {kind}")
        if self.delta is not None and kind != "asinh":
            raise InputError(f"--delta belongs to --shift asinh and cannot be used with {kind}")
        if self.floor is not None and not 0 <= self.floor < float("inf"):
            raise InputError(f"--floor {self.floor} must be 0 or a positive number")
        if self.delta is not None and not 0 < self.delta < float("inf"):
            raise InputError(f"--delta {self.delta} must be a positive number")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is stored where not all is: occurrences of so many words, a share of all, so many of a sentence.

    ``None`` is what does not select; each selects by itself, and stored are those that all of them keep.
    """

    words: int | None
    sample: float | None
    top_salient: int | None

    @property
    def of_words(self) -> bool:
        """Whether what is kept depends on the word, so that rows are no random words of the text."""
        return self.words is not None or self.top_salient is not None

    def __str__(self) -> str:
        parts = []
        if (n := self.words) is not None:
            parts.append(f"occurrences of {n:,} word{'s' * (n > 1)}")
        if self.sample is not None:
            parts.append(f"a sample of {self.sample * 100:.10g}%")
        if (n := self.top_salient) is not None:
            parts.append(f"the {f'{n} ' if n > 1 else ''}most salient word{'s' * (n > 1)} of each sentence")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig:
    """Everything that decides which vectors a text gives, with nothing left open.

    ``layers`` are positive and in the order asked for; options without a meaning beside the others
    are ``None``. ``max_tokens`` is the longest window in tokens, special tokens included. ``compiled``
    says whether the model runs as a compiled program, which rounds differently. ``words`` are casefolded
    and sorted. Layers and heads count from 1; without a ``salience_head`` salience is the mean of all.
    """

    model: str
    revision: str | None
    model_type: str
    hidden_size: Positive
    n_layers: Positive
    max_tokens: Positive
    pad_id: Count
    layers: tuple[Positive, ...]
    vectors: tuple[VectorKind, ...]
    static: StaticKind | None
    shift: ShiftKind | None
    floor: float | None
    delta: float | None
    pool: Pooling
    keep_punctuation: bool
    salience_layer: Positive | None
    salience_head: Positive | None
    top_salient: Positive | None
    words: tuple[str, ...] | None
    sample: float | None
    split: SplitKind
    lang: str | None
    dtype: StoredType
    precision: Literal["fp32", "bf16", "fp16"]
    compiled: bool
    tokens_per_batch: Positive
    digests: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """sha256 over the canonical JSON of every field: equal fingerprints, comparable vectors."""
        return hashlib.sha256(canonical_json(self.as_dict()).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ResolvedConfig":
        """Return the configuration that `as_dict` made these fields of.

        Raises:
            msgspec.ValidationError: A field is missing or of another type.
        """
        return msgspec.convert(fields, cls)

    def contradiction(self) -> str | None:
        """Return what of a configuration that was read cannot be; ``None`` if nothing."""
        layers = (*self.layers, *([self.salience_layer] if self.salience_layer else ()))
        if (
            not self.vectors
            or len({*self.vectors}) < len(self.vectors)
            or bool(self.layers) == (self.vectors == ("static",))
        ):
            return "it names no vectors, or some twice, or none of their layers"
        if max(layers, default=1) > self.n_layers or len({*self.layers}) < len(self.layers):
            return "it names layers that the model does not have"
        if max(self.hidden_size, self.n_layers, self.max_tokens) > _MOST:
            return "it names a model larger than any"
        needed = {"log_ratio": self.floor, "asinh": self.delta, "difference": 1.0, None: 1.0}[self.shift]
        if needed is None or ("shift" in self.vectors) != (self.shift is not None):
            return "its shift is not defined"
        if not {"weights", "tokenizer", "model_config"} <= self.digests.keys():
            return "it names no checksums of its model"
        return None

    def meaning(self) -> dict[str, Any]:
        """The fields that decide what vectors mean: not those that only round them, or choose among them."""
        rounding = ("compiled", "tokens_per_batch")
        choosing = ("words", "sample", "top_salient", "salience_layer", "salience_head")
        return {name: value for name, value in self.as_dict().items() if name not in rounding + choosing}

    @property
    def highest_layer(self) -> int:
        """The last layer that is run; the first shows what goes into it, so one is run always."""
        return max(self.layers, default=1)

    @property
    def kept(self) -> Kept | None:
        """Which occurrences are stored; ``None`` where all are."""
        n_words = None if self.words is None else len(self.words)
        if n_words is None and self.sample is None and self.top_salient is None:
            return None
        return Kept(n_words, self.sample, self.top_salient)

    @property
    def kept_by_model(self) -> int | None:
        """How many rows of a sentence the model itself keeps, if it chooses: where a row is a whole word."""
        return None if self.pool == "none" else self.top_salient

    def of_queries(self, *, salient: bool) -> "ResolvedConfig":
        """The configuration for sentences of which every word is wanted, with or without its salience."""
        layer = (self.salience_layer or self.highest_layer) if salient else None
        head = self.salience_head if salient else None
        return replace(
            self, words=None, sample=None, top_salient=None, salience_layer=layer, salience_head=head
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the vector columns, in the order in which they are stored."""
        names = ["static"] if "static" in self.vectors else []
        for kind in ("contextual", "shift"):
            if kind in self.vectors:
                names += [f"{kind}_{layer}" for layer in self.layers]
        return tuple(names)

    def column(self, on: str | None = None, layer: int | None = None) -> str:
        """The name of the stored column for a kind of vector and a layer.

        Args:
            on: ``shift``, ``contextual``, ``static`` or a column's full name; ``None`` takes the first
                of the three that is stored.
            layer: A layer's number, negative from the end; ``None`` takes the first layer of the run.

        Raises:
            InputError: The store does not hold such a column.
        """
        if on is None:
            on = next(kind for kind in ("shift", "contextual", "static") if kind in self.vectors)
        name = on
        if layer is not None:
            if on == "static":
                raise InputError("--layer cannot be used with --on static: static vectors have no layer")
            name = f"{on}_{layer + self.n_layers + 1 if layer < 0 else layer}"
        elif on not in self.columns and self.layers:
            name = f"{on}_{self.layers[0]}"
        if name not in self.columns:
            raise InputError(f"the store holds no {name}: it has {', '.join(self.columns)}")
        return name
