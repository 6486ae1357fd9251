"""Options are checked, none is ignored, and the fingerprint covers what changes bytes and nothing else."""

import dataclasses

import pytest

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.model import resolve
from ctxbatch.model.graphs import ConversionError
from ctxbatch.run_config import OPTIONS, RunConfig
from tests.helpers.models import make_model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "max"}, r"--pool 'max' is not one of mean, first, none"),
        ({"shift": "cosine"}, r"--shift 'cosine' is not one of log_ratio, asinh, difference"),
        ({"dtype": "int4"}, r"--dtype 'int4' is not one of"),
        ({"precision": "fp8"}, r"--precision 'fp8' is not one of"),
        (
            {"vectors": ("static", "static")},
            r"--vectors 'static,static' must name one to three kinds, each once",
        ),
        ({"vectors": ("statik",)}, r"--vectors 'statik' is not one of static, contextual, shift"),
        ({"layers": (2, 2)}, r"--layers '2,2' must name layers, each once"),
        ({"limit": 0}, r"--limit 0 is too small"),
        ({"workers": -1}, r"--workers -1 is too small"),
        (
            {"shift": "asinh", "floor": 0.1},
            r"--floor belongs to log_ratio and cannot be used with asinh",
        ),
        ({"shift": "log_ratio", "delta": 0.1}, r"--delta belongs to asinh and cannot be used with log_ratio"),
        ({"floor": -1.0}, r"--floor -1.0 must be a number from 0 to"),
        ({"floor": float("nan")}, r"--floor nan must be"),
        ({"shift": "asinh", "delta": 0.0}, r"--delta 0.0 must be a number from 1e-09 to"),
        ({"delta": 0.0}, r"--delta 0.0 must be a number from 1e-09 to"),
        (
            {"vectors": ("contextual",), "shift": "asinh"},
            r"--shift cannot be used without shift in --vectors",
        ),
        (
            {"vectors": ("contextual",), "static": "lookup"},
            r"--static cannot be used with --vectors contextual",
        ),
        ({"vectors": ("static",), "layers": (1,)}, r"--layers cannot be used with --vectors static"),
        ({"vectors": ("static",), "precision": "bf16"}, r"--precision cannot be used with --vectors static"),
        ({"split": "none", "lang": "en"}, r"--lang cannot be used with --split none"),
    ],
)
def test_a_wrong_option_is_refused_with_value_and_remedy(options, message):
    with pytest.raises(InputError, match=message):
        RunConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (4,)}, r"--layers 4: .* has layers 1 to 3 \(or -3 to -1\)"),
        ({"layers": (0,)}, r"--layers 0: "),
        ({"layers": (3, -1)}, r"--layers 3,-1 names a layer of .* twice"),
        ({"lang": "english"}, r"--lang 'english' is unknown"),
        ({"precision": "fp16"}, r"--precision fp16 needs a GPU"),
        ({"revision": "main"}, r"--revision main cannot be used"),
        ({"delta": 0.1}, r"--delta belongs to asinh and cannot be used with difference"),
    ],
)
def test_an_option_that_the_model_or_machine_cannot_meet_is_refused(options, message, tiny):
    with pytest.raises(InputError, match=message):
        resolve.resolve(RunConfig(model=str(tiny()), **options), "cpu")


def test_resolving_leaves_nothing_open(tiny):
    config = resolve.resolve(
        RunConfig(model=str(tiny()), layers=(-1, 1), vectors=("shift", "static"), shift="log_ratio"), "cpu"
    )
    assert config.layers == (3, 1)
    assert config.vectors == ("static", "shift")
    assert config.columns == ("static", "shift_3", "shift_1")
    assert config.precision in ("fp32", "bf16")
    assert (config.floor, config.delta, config.lang) == (1e-3, None, "en")
    assert set(config.digests) == {"weights", "tokenizer", "model_config"}
    assert ResolvedConfig.from_dict(config.as_dict()) == config


@pytest.mark.parametrize(("depth", "layer"), [(1, 1), (2, 1), (3, 2), (6, 4), (12, 8), (22, 15), (24, 16)])
def test_a_run_stores_the_layer_at_two_thirds_of_the_depth(depth, layer, tmp_path, monkeypatch):
    model = make_model(tmp_path / "model", "bert", num_hidden_layers=depth)

    def fail(_model):
        raise ConversionError("which layers are stored follows without graphs, and 24 layers take seconds")

    monkeypatch.setattr(resolve, "find_graphs", fail)
    config = resolve.resolve(RunConfig(model=str(model)), "cpu")
    assert (config.layers, config.shift) == ((layer,), "difference")
    every = resolve.resolve(RunConfig(model=str(model), layers="all"), "cpu")
    assert every.layers == (layer, *(each for each in range(depth, 0, -1) if each != layer))
    assert every.column() == f"shift_{layer}"
    assert every.column("contextual") == f"contextual_{layer}"


CHANGES = [
    {"layers": (3,)},
    {"vectors": ("shift",)},
    {"static": "lookup"},
    {"shift": "asinh"},
    {"shift": "log_ratio"},
    {"shift": "log_ratio", "floor": 0.01},
    {"pool": "first"},
    {"keep_punctuation": True},
    {"split": "none"},
    {"lang": "de"},
    {"dtype": "float32"},
    {"tokens_per_batch": 100},
    {"salience": True},
    {"salience_layer": 1},
    {"salience_head": 1},
    {"top_salient": 1},
    {"words": ("a",)},
    {"sample": 0.5},
]


def test_the_fingerprint_covers_what_changes_bytes_and_nothing_else(tiny):
    def fingerprint(**options):
        return resolve.resolve(RunConfig(model=str(tiny()), **options), "cpu").fingerprint

    base = fingerprint()
    assert len({base, *(fingerprint(**change) for change in CHANGES)}) == len(CHANGES) + 1
    for same in (
        {"workers": 3},
        {"engine": "ray"},
        {"index": False},
        {"layers": (2,)},
        {"shift": "difference"},
    ):
        assert fingerprint(**same) == base
    assert fingerprint(shift="log_ratio", floor=1e-3) == fingerprint(shift="log_ratio")


def test_every_option_of_the_configuration_reaches_the_resolved_one_or_the_plan():
    resolved = {field.name for field in dataclasses.fields(ResolvedConfig)}
    plan = {
        "record",
        "format",
        "quoting",
        "escape",
        "header",
        "text_path",
        "tokens_field",
        "span_field",
        "keep_field",
        "text_field",
        "id_field",
        "encoding",
        "errors",
        "delimiter",
        "limit",
        "shard_size",
    }
    process = {
        "engine",
        "address",
        "devices",
        "workers",
        "shard_range",
        "append",
        "skip_changed",
        "exclude",
        "index",
        "force",
        "max_rejects",
    }
    resolved |= {"salience"}  # which turns on the salience layer
    resolved -= {"compiled", "runtime", "sentence_rules", "word_rule"}
    assert {option.name for option in OPTIONS} <= resolved | plan | process


@pytest.mark.parametrize(
    ("on", "layer", "column"),
    [
        (None, None, "shift_3"),
        ("contextual", None, "contextual_3"),
        ("shift", 1, "shift_1"),
        ("shift", -3, "shift_1"),
        ("contextual", -1, "contextual_3"),
        ("static", None, "static"),
        ("shift_1", None, "shift_1"),
    ],
)
def test_columns_are_found_by_kind_and_layer(on, layer, column, tiny):
    config = resolve.resolve(RunConfig(model=str(tiny()), layers=(3, 1)), "cpu")
    assert config.column(on, layer) == column


def test_a_column_that_is_not_stored_is_refused_with_those_that_are(tiny):
    config = resolve.resolve(RunConfig(model=str(tiny()), vectors=("shift",)), "cpu")
    for on, layer in (("contextual", None), ("shift", 3), ("shift", 0), ("nonsense", None)):
        with pytest.raises(InputError, match="it has shift_2"):
            config.column(on, layer)
    with pytest.raises(InputError, match="--layer cannot be used with --on shift_2, which names its layer"):
        config.column("shift_2", 2)
    with pytest.raises(InputError, match="static vectors have no layer"):
        config.column("static", 3)
