"""Defines `ResolvedConfig`, all that decides which vectors a text gives, and its fingerprint.

Reads no file and imports no model code.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import msgspec

from ctxbatch.choices import (
    DEFAULT_SHIFT,
    Arithmetic,
    Pooling,
    Runtime,
    ShiftKind,
    SplitKind,
    StaticKind,
    StoredType,
    VectorKind,
)
from ctxbatch.errors import InputError
from ctxbatch.formulas import (
    SHIFT_KINDS,
    ComputedShift,
    ShiftFormula,
    check_stored,
    kind_and_layer,
    plain,
    standardised,
)
from ctxbatch.sealed import Count, Positive, canonical_json

# No model has more dimensions, layers or positions than this.
_MAX_SIZE = 1 << 20
# The checksum of the int8 layers that a store keeps, among the digests of its model.
INT8_LAYERS = "int8_layers"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Kept:
    """A selection of occurrences: those that all of its criteria keep. ``None`` is a criterion not set.

    ``words`` is the number of chosen words, ``sample`` a share of all words, ``top_salient`` a number of
    words per sentence.
    """

    words: int | None
    sample: float | None
    top_salient: int | None

    @property
    def of_words(self) -> bool:
        """True if the selection depends on the word, so that rows are not a random sample of the text."""
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

    ``layers`` are positive; search goes by the first. An option that cannot take effect is ``None``.
    ``max_tokens`` is the longest window in tokens, special tokens included. ``words`` are sorted keys, as
    `ctxbatch.text.word_key` has them. Layers and heads count from 1; without a ``salience_head``, salience is
    the mean over all heads.
    ``runtime`` is what runs the model. ``compiled`` is true in stores of versions that compiled models.
    ``packed`` says that windows are packed without padding, and batches are counted without it;
    ``shared_sequences`` that several windows may share a sequence of a padded batch.
    ``sentence_rules`` is the version of the rules that correct sentencex; ``None`` if none do. ``word_rule``
    is that of `ctxbatch.text.unicode_words`; ``None`` if words are the tokenizer's.
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
    precision: Arithmetic
    tokens_per_batch: Positive
    runtime: Runtime = "torch"
    compiled: bool = False
    packed: bool = False
    shared_sequences: bool = False
    sentence_rules: Positive | None = None
    word_rule: Positive | None = None
    digests: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the canonical JSON of all fields. Equal fingerprints mean comparable vectors."""
        return hashlib.sha256(canonical_json(self.as_dict()).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        if self.runtime == "torch":  # which stores of versions that had no other do not name
            del fields["runtime"]
        for layout in ("packed", "shared_sequences"):
            if not fields[layout]:
                del fields[layout]
        for rule in ("sentence_rules", "word_rule"):
            if fields[rule] is None:
                del fields[rule]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ResolvedConfig":
        """Return the configuration from the output of `as_dict`.

        Raises:
            msgspec.ValidationError: A field is missing or of another type.
        """
        return msgspec.convert(fields, cls)

    @property
    def value_type(self) -> Literal["float16", "float32"]:
        """The type of vectors that encoders hand over and readers give: float32 if int8 is stored."""
        return "float32" if self.dtype == "int8" else self.dtype

    @property
    def batch_bytes(self) -> int:
        """The bytes of a batch's vectors, if each of its tokens is a row."""
        value_bytes = 2 if self.value_type == "float16" else 4
        return self.tokens_per_batch * len(self.columns) * self.hidden_size * value_bytes

    def contradiction(self) -> str | None:
        """Return why a configuration that was read is invalid, or ``None``."""
        layers = (*self.layers, *([self.salience_layer] if self.salience_layer else ()))
        if (
            not self.vectors
            or len({*self.vectors}) < len(self.vectors)
            or bool(self.layers) == (self.vectors == ("static",))
        ):
            return "its vectors are missing, repeated or do not fit its layers"
        if max(layers, default=1) > self.n_layers or len({*self.layers}) < len(self.layers):
            return "its layers are repeated or not in the model"
        if max(self.hidden_size, self.n_layers, self.max_tokens) > _MAX_SIZE:
            return "its model has an impossible size"
        needed = {"log_ratio": self.floor, "asinh": self.delta, "difference": 1.0, None: 1.0}[self.shift]
        if needed is None or ("shift" in self.vectors) != (self.shift is not None):
            return "its shift is incomplete or does not fit its vectors"
        if not {"weights", "tokenizer", "model_config"} <= self.digests.keys():
            return "it lacks checksums of its model"
        if (self.precision == "int8") != bool(_SHA256.fullmatch(self.digests.get(INT8_LAYERS, ""))):
            return "its int8 layers have no checksum, or are none"
        if self.shared_sequences and self.runtime != "openvino":
            return "its windows share sequences, which only those of OpenVINO do"
        return None

    def meaning(self) -> dict[str, Any]:
        """Return the fields that define the vectors, without those that only round or select them.

        Nor the rules for sentences: they move so few boundaries that stores with and without them compare.
        Nor the versions of libraries. But which rule finds words: rows of others are of other words.
        """
        layout = ("packed", "shared_sequences", "tokens_per_batch")
        rounding = (*layout, "compiled", "runtime", "sentence_rules", "versions")
        choosing = ("words", "sample", "top_salient", "salience_layer", "salience_head")
        fields = {name: value for name, value in self.as_dict().items() if name not in rounding + choosing}
        fields["digests"].pop(INT8_LAYERS, None)  # two quantisations of a model differ by roundings
        return {"word_rule": self.word_rule, **fields}

    @property
    def highest_layer(self) -> int:
        """The last layer to run. Layer 1 always runs, because its input holds the static vectors."""
        return max(self.layers, default=1)

    @property
    def kept(self) -> Kept | None:
        """The selection of occurrences to store, or ``None`` for all."""
        n_words = None if self.words is None else len(self.words)
        if n_words is None and self.sample is None and self.top_salient is None:
            return None
        return Kept(n_words, self.sample, self.top_salient)

    @property
    def kept_by_model(self) -> int | None:
        """The number of rows the model keeps per sentence; ``None`` if it keeps all, or rows are pieces."""
        return None if self.pool == "none" else self.top_salient

    def of_queries(self, *, salient: bool) -> "ResolvedConfig":
        """Return the configuration for queries, which need every word, with or without its salience.

        Queries are encoded on a CPU, in the arithmetic of the store; in fp32 if that is fp16, which needs a
        GPU, or int8, whose model is in the store.
        """
        layer = (self.salience_layer or self.highest_layer) if salient else None
        head = self.salience_head if salient else None
        return replace(
            self,
            words=None,
            sample=None,
            top_salient=None,
            salience_layer=layer,
            salience_head=head,
            precision=self.precision if self.precision in ("fp32", "bf16") else "fp32",
            runtime="openvino",
            compiled=False,
            packed=False,
            shared_sequences=False,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the vector columns, in stored order."""
        names = ["static"] if "static" in self.vectors else []
        for kind in ("contextual", "shift"):
            if kind in self.vectors:
                names += [f"{kind}_{layer}" for layer in self.layers]
        return tuple(names)

    @property
    def formula(self) -> ShiftFormula | None:
        """The formula of the stored shift, or ``None``."""
        if self.shift is None:
            return None
        return ShiftFormula(self.shift, {"log_ratio": self.floor, "asinh": self.delta}.get(self.shift))

    def column(
        self,
        on: str | None = None,
        layer: int | None = None,
        *,
        delta: float | None = None,
        floor: float | None = None,
        standardise: bool = False,
    ) -> str:
        """Return the full name of a kind of vector at a layer, stored or computed.

        Args:
            on: ``static``, ``contextual``, ``shift`` (the one that is stored, or else the default), a shift
                by name (``log_ratio``, ``asinh``, ``difference``), any of these with its layer, such as
                ``asinh_6``, or a full name, such as ``asinh_6@0.1``; ``None`` takes the first of shift,
                contextual and static that is stored.
            layer: A layer's number, negative from the end; ``None`` takes the first layer of the run.
            delta: Of asinh; by default the stored shift's, or else `DEFAULT_DELTA`.
            floor: Of log_ratio; by default the stored shift's, or else `DEFAULT_FLOOR`.
            standardise: Of standardised vectors, whose full names, such as ``asinh_6@0.1-standardised``, say
                so themselves.

        Raises:
            InputError: The store neither holds such vectors nor has what they are computed from.
        """
        if on is None:
            on = self.kind_of_search(among_other_words=False)
        if standardise or plain(on) != on:
            if plain(plain(on)) != plain(on):
                raise self._lacks(on)
            return standardised(self.column(plain(on), layer, delta=delta, floor=floor))
        if "@" in on:
            if (layer, delta, floor) != (None, None, None):
                raise InputError(f"--layer, --delta and --floor cannot be used with --on {on}: it names all")
            try:
                return self._shift_column(ComputedShift.parse(on), on)
            except ValueError:
                raise self._lacks(on) from None
        kind, number = self._kind_and_layer(on, layer)
        if number is not None and (kind == "shift" or kind in SHIFT_KINDS):
            shift_kind = SHIFT_KINDS.get(kind) or self.shift or DEFAULT_SHIFT
            formula = ShiftFormula.of(shift_kind, floor=floor, delta=delta, own=self.formula)
            return self._shift_column(ComputedShift(formula, number), f"{kind}_{number}")
        if delta is not None or floor is not None:
            raise InputError(f"--delta and --floor belong to shifts and cannot be used with --on {on}")
        name = kind if number is None else f"{kind}_{number}"
        if name not in self.columns:
            raise self._lacks(name)
        return name

    def _kind_and_layer(self, on: str, layer: int | None) -> tuple[str, int | None]:
        """Return the kind of vector that a user names, and its layer if it has one."""
        if on == "static":
            if layer is not None:
                raise InputError("--layer cannot be used with --on static: static vectors have no layer")
            return on, None
        kind, number = kind_and_layer(on)
        if number is not None:
            if layer is not None:
                raise InputError(f"--layer cannot be used with --on {on}, which names its layer")
            return kind, number
        if layer is not None:
            return on, layer + self.n_layers + 1 if layer < 0 else layer
        return on, self.layers[0] if self.layers else None

    def identity(self, name: str) -> str:
        """Return the full name by which every store knows the vectors that this one calls ``name``.

        A stored shift, such as ``shift_6``, is the shift of its formula, such as ``asinh_6@0.1``.
        """
        kind, layer = kind_and_layer(plain(name))
        if kind != "shift" or layer is None or self.formula is None:
            return name
        shift = ComputedShift(self.formula, layer).name
        return shift if plain(name) == name else standardised(shift)

    def kind_of_search(self, *, among_other_words: bool) -> VectorKind:
        """Return the kind of vector that a search goes by if none is named.

        Among other words that is the contextual vector if it is stored: it finds them better, as
        ``scripts/evaluation/senses.py`` measures.
        """
        if among_other_words and "contextual" in self.vectors:
            return "contextual"
        kinds: tuple[VectorKind, ...] = ("shift", "contextual", "static")
        return next(kind for kind in kinds if kind in self.vectors)

    def has_column(self, name: str) -> bool:
        """Return True if this is the full name of stored vectors, or of a shift that can be computed."""
        try:
            return self.column(name) == name
        except InputError:
            return False

    def _shift_column(self, shift: ComputedShift, asked: str) -> str:
        """Return the name of a shift at a layer: of the stored one if it is that, else of a computed one."""
        check_stored(shift.formula.kind, self.dtype)
        if shift.formula == self.formula and f"shift_{shift.layer}" in self.columns:
            return f"shift_{shift.layer}"
        if {"static", f"contextual_{shift.layer}"} <= {*self.columns}:
            shift.formula.check()
            return shift.name
        hint = "; a shift is computed where static vectors and contextual ones of its layer are stored"
        raise self._lacks(asked, hint)

    def _lacks(self, name: str, hint: str = "") -> InputError:
        kinds = ", ".join(("shift", "contextual", "static", *SHIFT_KINDS))
        have = f"it has {', '.join(self.columns)}{hint}; name one, or one of {kinds}"
        return InputError(f"the store holds no {name}: {have}")

    def with_shift(self, formula: ShiftFormula) -> "ResolvedConfig":
        """Return the configuration that stores another shift of the same layers, and nothing else."""
        floor, delta = (formula.parameters.get(name) for name in ("floor", "delta"))
        return replace(self, vectors=("shift",), shift=formula.kind, floor=floor, delta=delta)
