"""Decides how a run resumes a store: what it takes from the store, and which options and sources it refuses.

An option that is not given takes the store's value; one that is given must be the store's.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ctxbatch.choices import (
    DEFAULT_DELTA,
    DEFAULT_ENCODING,
    DEFAULT_FLOOR,
    DEFAULT_ID_FIELD,
    DEFAULT_LANGUAGE,
    DEFAULT_SHIFT,
    DEFAULT_STATIC,
    DEFAULT_TEXT_FIELD,
    VECTOR_KINDS,
    default_layer,
)
from ctxbatch.config import INT8_LAYERS, ResolvedConfig
from ctxbatch.corpus.fields import same_fields
from ctxbatch.corpus.sources import Reading
from ctxbatch.errors import StoreError
from ctxbatch.model.hub import find_stored_model, stored_name
from ctxbatch.run_config import OPTIONS, RunConfig
from ctxbatch.store.location import StoreLocation
from ctxbatch.store.manifest import Manifest
from ctxbatch.text.unicode_words import versions as rule_versions
from ctxbatch.text.word_key import word_key

log = logging.getLogger("ctxbatch")
_OPTIONS = tuple(option.name for option in OPTIONS)
_OF_READING = {field.name for field in fields(Reading)}
# Their defaults depend on the machine.
_OF_PLACE = ("precision", "tokens_per_batch")
_SALIENCE = ("salience_layer", "salience_head", "top_salient")
# Their values in a store are what was given.
_PLAIN = (
    *("vectors", "static", "shift", "floor", "delta", "pool", "keep_punctuation", "sample", "top_salient"),
    *("split", "dtype", "precision"),
)
_SHOWN_OF_LIST = 12


# --- what a run takes from the store --------------------------------------------------------------


def with_stored_options(config: RunConfig, manifest: Manifest, location: StoreLocation) -> RunConfig:
    """Return the options of a run with those of a store in place of those that are not given.

    Without the options that only say how sources are read, which `reading_as_stored` takes, and without
    those whose defaults depend on the machine, which `check_options` takes.

    Raises:
        StoreError: An option that is given is not the store's; or the model is not given, and where the
            store says it is, it is not safe to load.
        InputError: An option that is given cannot be used with the store's others.
    """
    stored, given = manifest.config, config.given
    _check_given(location.out, stored, config)
    taken = {
        name: value
        for name, value in _special_options(manifest).items()
        if name not in given and name not in _OF_READING
    }
    if "model" in taken:
        remedy = _remedy(location.out, stored.model)
        find_stored_model(stored.model, stored.revision, location.folder, remedy)
    is_its_model = taken.get("model", config.model) == stored.model
    if is_its_model and stored.revision is not None and "revision" not in given:
        taken["revision"] = stored.revision  # the hub may have a newer one by now
    if config.layers == "all" and len(stored.layers) == stored.n_layers:
        taken["layers"] = stored.layers  # older stores have them in another order
    return replace(config, **taken)


def _remedy(out: Path | str, model: str) -> str:
    """Return what to do about a store whose model is not where the store says."""
    load = "" if Path(model).is_absolute() else f"give --model {model} to load it; "
    return f"{load}`ctxbatch verify {out} --repair --model M` finishes the store with its model at M"


def reading_as_stored(reading: Reading, stored: Reading, given: Collection[str]) -> Reading:
    """Return how sources are read, with what a store says in place of what is not given."""
    names = _OF_READING.intersection(_OPTIONS).difference(given) | {"tapered"}
    if same_fields(reading.keep_field, stored.keep_field):  # the types are found in the text
        names.add("keep_field")
    return replace(reading, **{name: getattr(stored, name) for name in names})


def _config_as_stored(here: ResolvedConfig, stored: ResolvedConfig, given: Collection[str]) -> ResolvedConfig:
    """Return a resolved configuration with what a store says in place of what this machine decides."""
    config = here
    if "precision" not in given:
        config = replace(config, precision=stored.precision)
    if config.runtime == stored.runtime:  # the same kind of device; perhaps another GPU, another torch
        budget = config.tokens_per_batch if "tokens_per_batch" in given else stored.tokens_per_batch
        config = replace(config, packed=stored.packed, tokens_per_batch=budget)
    if stored.sentence_rules is None:  # it is finished with the sentences that it was begun with
        config = replace(config, sentence_rules=None)
    if stored.word_rule is None:  # and with the words
        config = _with_tokenizer_words(config, stored)
    digests = config.digests
    if config.precision == "int8" == stored.precision:
        digests = {**digests, INT8_LAYERS: stored.digests[INT8_LAYERS]}
    return replace(
        config,
        shared_sequences=stored.shared_sequences,
        compiled=stored.compiled,
        runtime=stored.runtime,
        digests=digests,
    )


def _tell_taken(out: Path | str, manifest: Manifest, here: ResolvedConfig, given: Collection[str]) -> None:
    """Say which options a run takes from a store where today's defaults are others."""
    taken, defaults = _special_options(manifest), _defaults(manifest.config)
    for name in _OF_PLACE:
        value, defaults[name] = getattr(manifest.config, name), getattr(here, name)
        if value != defaults[name]:
            taken[name] = value
    shown = [_option(name, taken[name], defaults[name]) for name in _OPTIONS if name in taken.keys() - given]
    if shown:
        log.info("taken from %s: %s", out, ", ".join(shown))


def _special_options(manifest: Manifest) -> dict[str, Any]:
    """Return the options of a store whose values are not what they are today by default."""
    stored, reading, defaults = manifest.config, manifest.reading, _defaults(manifest.config)
    values = {**{field.name: getattr(stored, field.name) for field in fields(stored)}, **asdict(reading)}
    if reading.tapered:  # as only shards of the default size are
        del values["shard_size"]
    for name in (*_OF_PLACE, "revision"):
        del values[name]
    named = [name for name in _OPTIONS if name in values]
    found = {name: values[name] for name in named if values[name] not in (None, (), defaults[name])}
    if stored.salience_layer is not None and found.keys().isdisjoint(_SALIENCE):
        found["salience"] = True
    return found


def _defaults(stored: ResolvedConfig) -> dict[str, Any]:
    """Return what options are today where they are not given, with a store's model."""
    return {
        **{option.name: option.default for option in OPTIONS},
        "layers": (default_layer(stored.n_layers),),
        "static": DEFAULT_STATIC,
        "shift": DEFAULT_SHIFT,
        "floor": DEFAULT_FLOOR,
        "delta": DEFAULT_DELTA,
        "salience_layer": stored.highest_layer,
        "lang": DEFAULT_LANGUAGE,
        "text_field": DEFAULT_TEXT_FIELD,
        "id_field": DEFAULT_ID_FIELD,
        "encoding": DEFAULT_ENCODING,
    }


def _option(name: str, value: object, default: object) -> str:
    """Return an option as a command line has it, and its default if that is a value."""
    has_value = default not in (None, ()) and not isinstance(value, bool)
    return f"{_typed(name, value)}{f' (the default is {_shown(default)})' if has_value else ''}"


def _with_tokenizer_words(config: ResolvedConfig, stored: ResolvedConfig) -> ResolvedConfig:
    """Return the configuration for a store of before Unicode's rule, whose words are the tokenizer's."""
    versions = {name: version for name, version in config.versions.items() if name not in rule_versions()}
    words = config.words
    if words is not None and stored.words is not None and {*map(word_key, stored.words)} == {*words}:
        words = stored.words
    return replace(config, word_rule=None, versions=versions, words=words)


# --- what is refused ------------------------------------------------------------------------------


def _check_given(out: Path | str, stored: ResolvedConfig, config: RunConfig) -> None:
    """Refuse options that plainly are not the store's, before the model is looked for.

    `check_options` compares the others, whose values depend on the model, the machine or the sources.

    Raises:
        StoreError: One of them is not.
    """
    made = {name: getattr(stored, name) for name in _PLAIN}
    # What depends on the model differs in any case where the store has none.
    made |= {name: None for name in ("layers", "words", "lang", *_SALIENCE) if not getattr(stored, name)}
    made |= {"model": stored.model, "salience": stored.salience_layer is not None or None}
    asked = {name: getattr(config, name) for name in made if name in config.given}
    if "model" in asked:
        asked["model"] = stored_name(config.model)
    if "vectors" in asked:
        asked["vectors"] = tuple(kind for kind in VECTOR_KINDS if kind in config.vectors)
    if not config.salience:  # but some option that turns it on
        asked.pop("salience", None)
    _refuse_difference(out, {name: made[name] for name in asked}, asked, config.given)


def check_options(
    out: Path | str,
    manifest: Manifest,
    here: ResolvedConfig,
    reading: Reading,
    given: Collection[str],
) -> None:
    """Refuse to resume a store with other options, naming what differs; else say what is taken from it.

    Args:
        out: The store's name.
        manifest: Its manifest.
        here: The configuration as it was resolved on this machine.
        reading: How the sources would be read.
        given: The names of the options that were given.

    Raises:
        StoreError: Something differs.
    """
    resolved = _config_as_stored(here, manifest.config, given)
    reading = reading_as_stored(reading, manifest.reading, given)
    stored = _flat({**manifest.config.as_dict(), **asdict(manifest.reading)})
    asked = _flat({**resolved.as_dict(), **asdict(reading)})
    _refuse_difference(out, stored, asked, given)
    _tell_taken(out, manifest, here, given)


def _refuse_difference(
    out: Path | str, stored: Mapping[str, Any], asked: Mapping[str, Any], given: Collection[str]
) -> None:
    """Refuse what is asked for if it differs from what is stored, naming both values of one difference."""
    different = [name for name in stored.keys() | asked.keys() if stored.get(name) != asked.get(name)]
    if not different:
        return
    # What was typed rather than what follows from it, such as another default or a digest.
    name = min(
        different,
        key=lambda n: (
            n not in given,
            n not in _OPTIONS,
            n == "salience_layer",
            None in (stored.get(n), asked.get(n)),
            n,
        ),
    )
    shown, made, said = _shown_name(name), stored.get(name), asked.get(name)
    none = "without", "no"
    if name == "words" and made and said:  # long lists are told apart by what only one of them names
        made, said, none = sorted({*made} - {*said}), sorted({*said} - {*made}), ("with fewer", "fewer")
    made, said = _typed(name, made), _typed(name, said)
    made = f"with {made}" if made else f"{none[0]} {shown}"
    said = said or f"{none[1]} {shown}"
    remedy = "use the same options to resume, or another -o"
    if name == "model":
        repair = f"ctxbatch verify {out} --repair --model {asked[name]}"
        remedy += f"; if that is its model in another place, `{repair}` finishes the store"
    raise StoreError(f"{out} was made {made}, but this command has {said}: {remedy}")


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} of {key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def _typed(name: str, value: object) -> str:
    """Return an option with its value as a command line has it; nothing if it has none."""
    if isinstance(value, bool):
        without = "--no-header" if name == "header" else ""
        return _shown_name(name) if value else without
    return f"{_shown_name(name)} {shown}" if (shown := _shown(value)) else ""


def _shown_name(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name in _OPTIONS else name.replace("_", " ")


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        rest = f",… ({len(value)})" if len(value) > _SHOWN_OF_LIST else ""
        return ",".join(map(str, value[:_SHOWN_OF_LIST])) + rest
    return "" if value is None else str(value).replace("\t", "\\t")
