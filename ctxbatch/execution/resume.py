"""Checks that a run may resume a store: with the same options, and sources of the same text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.records import Reader, place_of
from ctxbatch.corpus.source_files import real_place
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.errors import StoreError
from ctxbatch.run_config import RunConfig
from ctxbatch.store.manifest import Manifest
from ctxbatch.text.unicode_words import versions as rule_versions
from ctxbatch.text.word_key import word_key

_SHOWN_OF_LIST = 12


def check_options(out: Path | str, manifest: Manifest, resolved: ResolvedConfig, reading: Reading) -> None:
    """Refuse another configuration than the store's, naming what differs.

    Raises:
        StoreError: Something does.
    """
    options = {field.name for field in fields(RunConfig)}
    stored = _flat({**manifest.config.as_dict(), **asdict(manifest.reading)})
    asked = _flat({**resolved.as_dict(), **asdict(reading)})
    different = [name for name in stored.keys() | asked.keys() if stored.get(name) != asked.get(name)]
    if not different:
        return
    # What was typed rather than what follows from it, such as another default or a digest.
    name = min(
        different,
        key=lambda n: (n not in options, n == "salience_layer", None in (stored.get(n), asked.get(n)), n),
    )
    shown = f"--{name.replace('_', '-')}" if name in options else name.replace("_", " ")
    made, said = stored.get(name), asked.get(name)
    none = "without", "no"
    if name == "words" and made and said:  # long lists are told apart by what only one of them names
        made, said, none = sorted({*made} - {*said}), sorted({*said} - {*made}), ("with fewer", "fewer")
    made, said = _shown(made), _shown(said)
    made = f"with {shown} {made}" if made else f"{none[0]} {shown}"
    said = f"{shown} {said}" if said else f"{none[1]} {shown}"
    raise StoreError(
        f"{out} was made {made}, but this command has {said}: use the same options to resume, or another -o"
    )


def with_tokenizer_words(config: ResolvedConfig, stored: ResolvedConfig) -> ResolvedConfig:
    """Return the configuration for a store of before Unicode's rule, whose words are the tokenizer's."""
    versions = {name: version for name, version in config.versions.items() if name not in rule_versions()}
    words = config.words
    if words is not None and stored.words is not None and {*map(word_key, stored.words)} == {*words}:
        words = stored.words
    return replace(config, word_rule=None, versions=versions, words=words)


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} of {key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        rest = f",… ({len(value)})" if len(value) > _SHOWN_OF_LIST else ""
        return ",".join(map(str, value[:_SHOWN_OF_LIST])) + rest
    return "" if value is None else str(value)


def check_sources(out: Path | str, manifest: Manifest, sources: Sequence[Source]) -> None:
    """Refuse other sources than those of the plan; a new time alone is no other source.

    Raises:
        StoreError: They are others, or their text is.
    """
    another = "use the same inputs to resume, or another -o"
    stored, asked = [s.path for s in manifest.sources], [s.path for s in sources]
    places = {real_place(path): path for path in stored}
    for path in asked:
        if path not in stored and (as_before := places.get(real_place(path))):
            raise StoreError(f"{out} knows {path} as {as_before}: use that name to resume")
        if path not in stored:
            raise StoreError(f"{path} is not a source of {out}, which has {len(stored)}: {another}")
    if stored != asked:
        missing = [path for path in stored if path not in asked]
        if missing:
            raise StoreError(
                f"{missing[0]} is a source of {out}, but this command does not name it: {another}"
            )
        raise StoreError(f"the inputs are in another order than when {out} was made: {another}")
    for number, (old, new) in enumerate(zip(manifest.sources, sources, strict=True)):
        if old.size != new.size:
            raise StoreError(
                f"{new.path} has {new.size} bytes now, but had {old.size} when {out} was planned: {another}"
            )
        if old.mtime_ns != new.mtime_ns:
            _check_bytes(out, manifest, number)


def _check_bytes(out: Path | str, manifest: Manifest, number: int) -> None:
    source = manifest.sources[number]
    reader = Reader(manifest.sources, manifest.reading)
    for spec in manifest.shards:
        for segment in spec.segments:
            if segment.source == number and not reader.is_unchanged(segment):
                raise StoreError(
                    f"{source.path} has changed in {place_of(source, segment)} since {out} was planned: "
                    "restore it, or use another -o"
                )
    reader.close()
