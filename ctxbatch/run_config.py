"""Defines and validates the options of a run (`RunConfig`), for the command line and for Python.

Each field is an option: its type and annotation say how the command line reads it, its docstring is the help.
Reads no file except that of ``--words``, and imports no model code.
"""

import re
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Annotated, get_args

from cyclopts import Group, Parameter

from ctxbatch.choices import (
    DEFAULT_DELTA,
    DEFAULT_ENCODING,
    DEFAULT_FLOOR,
    DEFAULT_LANGUAGE,
    DEFAULT_MODEL,
    DEFAULT_SHIFT,
    DEFAULT_STATIC,
    DEFAULT_TEXT_FIELD,
    VECTOR_KINDS,
    AllLayers,
    DecodeErrors,
    EngineName,
    FormatName,
    Pooling,
    Precision,
    Quoting,
    RecordKind,
    ShiftKind,
    SplitKind,
    StaticKind,
    StoredType,
    VectorKind,
)
from ctxbatch.errors import InputError
from ctxbatch.formulas import ShiftFormula, check_stored
from ctxbatch.option_values import (
    character,
    check_choice,
    check_count_or_share,
    check_positive,
    count_or_auto,
    count_or_share,
    layer_numbers,
    names,
    option,
    part,
    share,
    size_or_auto,
    words_of_file,
)

_VECTORS = Group("Model and vectors", sort_key=2)
_WORDS = Group("Which words are stored", sort_key=3)
_INPUT = Group("Reading the input", sort_key=4)
_COMPUTING = Group("Computing", sort_key=5)
_STORE = Group("The store", sort_key=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The options of ``ctxbatch run``, named as on the command line.

    ``None`` means "not given": the default applies, or the value of the store that a run resumes. So does a
    value that is the default, unless ``explicit`` names the option: the command line knows what was typed,
    Python does not. An option that cannot take effect, such as ``floor`` with the asinh shift, is
    an error.

    ``max_rejects`` is a number of records as an ``int``, or a share of them as a ``float``. ``words`` are
    the words themselves; the command line reads them from a file. An occurrence is stored if ``words``,
    ``sample`` and ``top_salient`` all keep it. ``shard_range`` is (i, n) for the i-th of n parts of a run,
    i from 1.

    Raises:
        InputError: An option is out of range, or cannot be used with the others.
    """

    model: Annotated[str, option(_VECTORS, "NAME")] = DEFAULT_MODEL
    """A local folder, a model in an installed package, or a name on the Hugging Face hub."""

    revision: Annotated[str | None, option(_VECTORS, "R")] = None
    """Branch, tag or commit of the model on the hub."""

    layers: Annotated[
        tuple[int, ...] | AllLayers | None,
        option(_VECTORS, "all|N[,N...]", read=layer_numbers, default="at two thirds of the depth"),
    ] = None
    """Layers to store, from 1 up or from -1 (the last) down. Search uses the first; with all, the default."""

    vectors: Annotated[
        tuple[VectorKind, ...],
        option(_VECTORS, "KIND[,KIND...]", read=names, default=",".join(VECTOR_KINDS)),
    ] = VECTOR_KINDS
    """Kinds of vectors to store."""

    static: Annotated[StaticKind | None, option(_VECTORS, default=DEFAULT_STATIC)] = None
    """Static vectors: the embedding layer's output, or the raw row of the embedding matrix."""

    shift: Annotated[ShiftKind | None, option(_VECTORS, default=DEFAULT_SHIFT)] = None
    """How to compare contextual with static vectors."""

    floor: Annotated[float | None, option(_VECTORS, "X", default=str(DEFAULT_FLOOR))] = None
    """For log_ratio: treat smaller values as zero."""

    delta: Annotated[float | None, option(_VECTORS, "X", default=str(DEFAULT_DELTA))] = None
    """For asinh: the value where it turns from linear to logarithmic."""

    pool: Annotated[Pooling, option(_VECTORS)] = "mean"
    """Vector of a word with several wordpieces: their mean, the first one, or one row per piece."""

    keep_punctuation: Annotated[bool, option(_WORDS)] = False
    """Also store words without a letter or digit."""

    words: Annotated[tuple[str, ...] | None, option(_WORDS, "FILE", read=words_of_file)] = None
    """Store only occurrences of the words in a file, one per line, such as don't or New York; any case."""

    sample: Annotated[float | None, option(_WORDS, "RATE", read=share)] = None
    """Store only this share of the occurrences, such as 0.01 or 1%; every run draws the same ones."""

    salience: Annotated[bool, option(_WORDS)] = False
    """Also store how much attention each word receives."""

    salience_layer: Annotated[int | None, option(_WORDS, "N", default="the highest layer run")] = None
    """Layer whose attention counts; turns --salience on."""

    salience_head: Annotated[int | None, option(_WORDS, "N", default="the mean of all heads")] = None
    """Attention head that counts; turns --salience on."""

    top_salient: Annotated[int | None, option(_WORDS, "K")] = None
    """Store only the K most salient words of each sentence; turns --salience on."""

    record: Annotated[RecordKind, option(_INPUT)] = "auto"
    """What is one record of a text file; auto: a paragraph if the text looks hard-wrapped, else a line."""

    split: Annotated[SplitKind, option(_INPUT)] = "sentence"
    """Split records into sentences, or take them whole."""

    lang: Annotated[str | None, option(_INPUT, "CODE", default=DEFAULT_LANGUAGE)] = None
    """Language of the text, for sentence splitting."""

    exclude: Annotated[tuple[str, ...], option(_INPUT, "PATTERN", default="none")] = ()
    """Leave out files and folders whose path, or its end, matches, such as '*.bak'; may be repeated."""

    format: Annotated[FormatName | None, option(_INPUT, default="by suffix")] = None
    """Format of all inputs; overrides their suffixes."""

    text_field: Annotated[str | None, option(_INPUT, "NAME", default=DEFAULT_TEXT_FIELD)] = None
    """Field or column with the text; dots lead into nested fields, as in meta.body."""

    id_field: Annotated[str | None, option(_INPUT, "NAME", default="id, if there is one")] = None
    """Field or column with the document's id."""

    tokens_field: Annotated[str | None, option(_INPUT, "NAME")] = None
    """Field with a list of words, in place of a text: they are the words that are stored."""

    span_field: Annotated[
        tuple[str, ...], option(_INPUT, "NAME[,NAME]", read=names, default="every word is stored")
    ] = ()
    """Field with places in the text, such as 12:17, or two fields, start and end: only these are stored."""

    keep_field: Annotated[tuple[str, ...], option(_INPUT, "NAME", default="none")] = ()
    """Field to keep for each sentence, also an attribute of XML; may be repeated. NAME:string keeps text."""

    text_path: Annotated[
        str | None, option(_INPUT, "PATH[,PATH...]", default="p and l; of TEI also ab and u in the body")
    ] = None
    """Elements of XML whose text is a record, such as body/p: a p anywhere in a body."""

    encoding: Annotated[str | None, option(_INPUT, "NAME", default=DEFAULT_ENCODING)] = None
    """Encoding of text without a byte order mark."""

    errors: Annotated[DecodeErrors, option(_INPUT)] = "strict"
    """For bytes that cannot be decoded: reject the record, or replace them by U+FFFD."""

    delimiter: Annotated[
        str | None, option(_INPUT, "CHAR", read=character, default="a comma, in .tsv a tab")
    ] = None
    r"""Character between the fields of CSV; \t is a tab."""

    quoting: Annotated[Quoting, option(_INPUT)] = "auto"
    """Quotes of CSV and TSV: they enclose fields (csv), or are text (none); auto decides by a sample."""

    escape: Annotated[str | None, option(_INPUT, "CHAR", read=character)] = None
    r"""Character of CSV that takes from the next one its special meaning, such as \."""

    header: Annotated[bool, Parameter(group=_INPUT, name="--header", negative="--no-header")] = True
    """Whether the first row of CSV names the columns; if not, name them by number, as in --text-field 2."""

    max_rejects: Annotated[int | float | None, option(_INPUT, "N|SHARE", read=count_or_share)] = None
    """Stop when more than this number or share of the records is rejected, such as 100 or 1%."""

    limit: Annotated[int | None, option(_INPUT, "RECORDS")] = None
    """Stop after this many records."""

    precision: Annotated[Precision, option(_COMPUTING)] = "auto"
    """Arithmetic of the model; auto measures once whether bf16 or fp32 is faster; int8 is fastest on CPUs."""

    devices: Annotated[
        tuple[str, ...] | None, option(_COMPUTING, "D[,D...]", read=names, default="all GPUs, else cpu")
    ] = None
    """cpu, or GPUs such as cuda:0,cuda:1."""

    workers: Annotated[int | None, option(_COMPUTING, "N", read=count_or_auto, default="auto")] = None
    """Worker processes; auto is up to 8 per GPU, or one per physical CPU core."""

    tokens_per_batch: Annotated[int | None, option(_COMPUTING, "N", read=count_or_auto, default="auto")] = (
        None
    )
    """Tokens per batch, with padding unless packed; auto depends on the kind of device."""

    engine: Annotated[EngineName, option(_COMPUTING)] = "local"
    """Run on this machine, or on a Ray cluster."""

    address: Annotated[str | None, option(_COMPUTING, "auto|HOST:PORT|ray://HOST:PORT", default="auto")] = (
        None
    )
    """The Ray cluster: auto (the one of this machine), its head, or its Ray Client server."""

    shard_range: Annotated[tuple[int, int] | None, option(_COMPUTING, "I/N", read=part)] = None
    """Run only part I of N, counted from 1. Other machines can run the other parts at the same time."""

    dtype: Annotated[StoredType, option(_STORE)] = "float16"
    """Type of the stored vectors; int8 has a scale per row, and is not the model's --precision int8."""

    shard_size: Annotated[int | None, option(_STORE, "BYTES", read=size_or_auto, default="auto")] = None
    """Input per shard, such as 4MB (1 MB is 1024 x 1024 bytes); auto depends on the size of the corpus."""

    append: Annotated[bool, option(_STORE)] = False
    """Add the inputs that the store does not have yet; begin the store if there is none."""

    skip_changed: Annotated[bool, option(_STORE)] = False
    """With --append, leave alone the rows of inputs whose text has changed."""

    index: Annotated[bool, Parameter(group=_STORE, name="--index", negative="--no-index")] = True
    """Build the search index at the end."""

    force: Annotated[bool, option(_STORE)] = False
    """Start even if the disk seems too small for the result, or int8 keeps too few neighbours."""

    explicit: Annotated[frozenset[str], Parameter(parse=False)] = field(
        default=frozenset(), compare=False, repr=False
    )
    """No option itself, but the names of options that are given, also those whose values are the defaults."""

    def __post_init__(self) -> None:
        check_choice("--pool", self.pool, get_args(Pooling))
        check_choice("--record", self.record, get_args(RecordKind))
        check_choice("--quoting", self.quoting, get_args(Quoting))
        check_choice("--split", self.split, get_args(SplitKind))
        if self.format is not None:
            check_choice("--format", self.format, get_args(FormatName))
        check_choice("--errors", self.errors, get_args(DecodeErrors))
        check_choice("--dtype", self.dtype, get_args(StoredType))
        check_choice("--precision", self.precision, get_args(Precision))
        self._check_engine()
        self._check_devices()
        if self.shard_range is not None and not 1 <= self.shard_range[0] <= self.shard_range[1]:
            number, of = self.shard_range
            raise InputError(f"--shard-range {number}/{of} must be I/N with I from 1 to N, such as 2/4")
        if self.skip_changed and not self.append:
            raise InputError("--skip-changed says what --append does with changed inputs: give both")
        self._check_exclude()
        check_positive("--limit", self.limit)
        check_positive("--workers", self.workers)
        check_positive("--shard-size", self.shard_size)
        check_positive("--tokens-per-batch", self.tokens_per_batch)
        check_positive("--top-salient", self.top_salient)
        check_count_or_share("--max-rejects", self.max_rejects)
        if self.escape is not None and (len(self.escape) != 1 or self.escape in '"\r\n\t'):
            raise InputError(f"--escape {self.escape!r} must be one character, such as \\")
        if self.escape is not None and self.escape == self.delimiter:
            raise InputError(f"--escape {self.escape!r} is also the --delimiter: name another one")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise InputError(f"--delimiter {self.delimiter!r} must be one character, such as ; or \\t")
        self._check_vectors()
        self._check_shift()
        self._check_selection()
        if self.split == "none" and self.lang is not None:
            raise InputError("--lang cannot be used with --split none: leave one of them out")

    def _check_exclude(self) -> None:
        patterns = self.exclude
        if not isinstance(patterns, tuple | list) or not all(isinstance(each, str) for each in patterns):
            raise InputError(f"--exclude {patterns!r} is no tuple of strings: give one, as ('*.bak',)")
        for pattern in patterns:
            if not PurePath(pattern).parts:
                raise InputError(f"--exclude {pattern!r} matches no path: give a pattern such as '*.bak'")

    def _check_engine(self) -> None:
        check_choice("--engine", self.engine, get_args(EngineName))
        if self.engine == "local":
            if self.address is not None:
                raise InputError("--address cannot be used with --engine local: leave it out, or use ray")
            return
        if self.devices is not None:
            raise InputError(
                "--devices cannot be used with --engine ray, which uses all GPUs of the cluster or all "
                "its CPUs: leave it out; --workers sets their number"
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
                f"--devices {given!r} must name each device once; --workers sets the number of workers"
            )
        if "cpu" in self.devices and len(self.devices) > 1:
            raise InputError(f"--devices {given!r} mixes cpu and GPUs, whose results differ: use one kind")
        if self.workers is not None and self.workers < len(self.devices):
            raise InputError(f"--workers {self.workers} is below the number of --devices {given}: raise it")

    def _check_vectors(self) -> None:
        for kind in self.vectors:
            check_choice("--vectors", kind, VECTOR_KINDS)
        if not self.vectors or len(set(self.vectors)) != len(self.vectors):
            raise InputError(f"--vectors {','.join(self.vectors)!r} must name one to three kinds, each once")
        if isinstance(self.layers, str):
            check_choice("--layers", self.layers, get_args(AllLayers))
        elif self.layers is not None and (not self.layers or len(set(self.layers)) != len(self.layers)):
            raise InputError(f"--layers {','.join(map(str, self.layers))!r} must name layers, each once")
        if self.vectors == ("static",):
            self._check_static_only()
        if self.static is not None:
            check_choice("--static", self.static, get_args(StaticKind))
            if self.vectors == ("contextual",):
                raise InputError("--static cannot be used with --vectors contextual: leave one of them out")

    def _check_static_only(self) -> None:
        if self.layers is not None:
            raise InputError("--layers cannot be used with --vectors static: static vectors have no layer")
        if self.precision != "auto":
            raise InputError("--precision cannot be used with --vectors static: they are always fp32")
        if self.wants_salience:
            raise InputError("salience cannot be used with --vectors static: no attention is computed")

    @property
    def given(self) -> frozenset[str]:
        """The names of the given options: `explicit` ones with a value, and all not as by default."""
        names = {each.name for each in OPTIONS if getattr(self, each.name) != each.default}
        names |= {name for name in self.explicit if getattr(self, name, None) is not None}
        if self.precision == "auto":  # not the value of any store
            names -= {"precision"}
        return frozenset(names | {"salience"} if self.wants_salience else names)

    @property
    def wants_salience(self) -> bool:
        """True if some option asks for the salience of words."""
        options = (self.salience_layer, self.salience_head, self.top_salient)
        return self.salience or any(option is not None for option in options)

    def _check_selection(self) -> None:
        if self.sample is not None and not 0 < self.sample <= 1:
            raise InputError(f"--sample {self.sample} must be a share of the words, such as 0.01 or 1%")
        if self.words is not None:
            if isinstance(self.words, str):
                raise InputError(f"--words {self.words!r} is one string: give a tuple of words")
            if not self.words:
                raise InputError("--words holds no words: write one per line")
            if blank := [word for word in self.words if not word.strip()]:
                raise InputError(f"--words holds {blank[0]!r}, which is not a word: leave it out")

    def _check_shift(self) -> None:
        if self.shift is not None:
            check_choice("--shift", self.shift, get_args(ShiftKind))
        given = {"--shift": self.shift, "--floor": self.floor, "--delta": self.delta}
        if "shift" not in self.vectors:
            for option, value in given.items():
                if value is not None:
                    raise InputError(f"{option} cannot be used without shift in --vectors")
        if self.shift is not None:
            ShiftFormula.of(self.shift, floor=self.floor, delta=self.delta)  # which checks them
            check_stored(self.shift, self.dtype)
            return
        # Each by itself: a store that is resumed says which shift they belong to, else `resolve` does.
        if self.floor is not None:
            ShiftFormula.of("log_ratio", floor=self.floor)
        if self.delta is not None:
            ShiftFormula.of("asinh", delta=self.delta)


OPTIONS = tuple(each for each in fields(RunConfig) if each.name != "explicit")
