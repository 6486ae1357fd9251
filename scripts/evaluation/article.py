"""Measure what Vasiliev's article on BERT embeddings reports: what a shift tells apart, and a salient word.

    python -m scripts.evaluation.article [--model FOLDER] [--token-type 1]

Three sentences, I want an apple / an orange / an adventure, and the word *want* in each: cosines of its
contextual vectors and of its shifts at every layer, on the first ten dimensions, as in the article, and on
all. log_ratio/0 is the article's own rule, without a floor. And the salient word of the first sentence, by
the attention that words receive at layer 1, head 12. The article uses bert-base-uncased with every token
type 1. Without --model that model is taken if it is on this machine, and all-MiniLM-L6-v2 otherwise; nothing
is downloaded. Prints a table, and a last line of JSON.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: models are looked up, never downloaded

from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR
from ctxbatch.errors import InputError
from ctxbatch.model.hub import ModelFolder, find_model
from scripts.benchmarks import measuring
from scripts.command_line import Parser, positive, run, say
from scripts.evaluation.marked_words import MarkedWords, cosines, encode, shift

_SENTENCES = ("I want an apple.", "I want an orange.", "I want an adventure.")
_WANT = (2, 6)
_COMPARED = {"apple-orange": (0, 1), "apple-adventure": (0, 2), "orange-adventure": (1, 2)}
_ARTICLES_MODELS = ("bert-base-uncased", "google-bert/bert-base-uncased")
_OTHERWISE = "all-MiniLM-L6-v2"
_FIRST_TEN = slice(10)
_KINDS: dict[str, tuple[str, dict[str, float]]] = {
    "log_ratio/0": ("log_ratio", {"floor": 0.0}),
    f"log_ratio/{DEFAULT_FLOOR:g}": ("log_ratio", {"floor": DEFAULT_FLOOR}),
    "asinh": ("asinh", {"delta": DEFAULT_DELTA}),
    "difference": ("difference", {}),
}
_PUBLISHED = {"contextual": (0.987, 0.898, 0.887), "log_ratio/0": (0.964, 0.417, 0.346)}
_PUBLISHED_LAYER, _PUBLISHED_SALIENT = "12*", "want"


def main() -> int:
    """Run the reproduction; returns the exit status."""
    options = parse()
    folder = choose_model(options.model)
    with tempfile.TemporaryDirectory(prefix="ctxbatch-article-") as work:
        model = folder.name
        if options.token_type:
            model = str(with_token_type_1(folder, Path(work) / "model"))
        wanted = salience_options(options, folder)
        found = encode(_SENTENCES, Path(work), model, precision="fp32", workers=1, **wanted)
        rows = list(compare(found))
        salience = read_salience(found) if wanted else None
    report(options, folder, rows, salience)
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("--model", help="a folder, or the name of a model that is on this machine")
    parser.add_argument("--token-type", type=int, choices=(0, 1), default=0, help="of all tokens")
    parser.add_argument("--salience-layer", type=positive, default=1, help="whose attention is taken")
    parser.add_argument("--salience-head", type=positive, default=12, help="of that layer")
    return parser.parse_args()


# --- the model ------------------------------------------------------------------------------------


def choose_model(name: str | None) -> ModelFolder:
    """Return the model that was asked for, or the article's, or another if that is not here.

    Raises:
        InputError: It is not on this machine.
    """
    if name is not None:
        return find_model(name, None)
    for candidate in _ARTICLES_MODELS:
        try:
            return find_model(candidate, None)
        except InputError:
            continue
    say(f"{_ARTICLES_MODELS[0]}, the article's model, is not on this machine: {_OTHERWISE} takes its place")
    return find_model(_OTHERWISE, None)


def with_token_type_1(folder: ModelFolder, copy: Path) -> Path:
    """Return a copy of a model to which every token is of type 1: its embedding replaces that of type 0.

    Raises:
        InputError: The model knows no second token type.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    copy.mkdir()
    for path in folder.path.iterdir():
        if path.is_file():
            (copy / path.name).symlink_to(path.resolve())
    for path in folder.loaded:
        with safe_open(path, "pt") as opened:
            names = [name for name in opened.keys() if name.endswith("token_type_embeddings.weight")]  # noqa: SIM118 (it is no mapping)
            notes = opened.metadata()
        if names:
            tensors = load_file(path)
            types = tensors[names[0]]
            if len(types) > 1:
                types[0] = types[1]
                (copy / path.name).unlink()
                save_file(tensors, copy / path.name, notes)
                return copy
    raise InputError(f"--token-type 1: {folder.name} has no second token type; leave the option out")


# --- salience -------------------------------------------------------------------------------------


def salience_options(options: argparse.Namespace, folder: ModelFolder) -> dict[str, int]:
    """Return the options that store the salience of words; none if the family hides its attention."""
    from ctxbatch.model.resolve import FAMILIES

    family = FAMILIES.get(json.loads((folder.path / "config.json").read_text())["model_type"])
    if family and not family.shows_attention:
        return {}
    return {"salience_layer": options.salience_layer, "salience_head": options.salience_head}


def read_salience(found: MarkedWords) -> list[tuple[str, float]]:
    """Return the words of the first sentence, each with its salience."""
    words = found.store.words.to_table(columns=["word", "salience"])
    chosen = words.take(found.rows(0, (0, len(_SENTENCES[0]))))
    return list(zip(chosen["word"].to_pylist(), chosen["salience"].to_pylist(), strict=True))


# --- the figures ----------------------------------------------------------------------------------


def compare(found: MarkedWords) -> Iterator[dict[str, Any]]:
    """Yield the cosines of the word's vectors in the three sentences, layer by layer and kind by kind."""
    places = [found.rows(number, _WANT) for number in range(len(_SENTENCES))]
    if not all(map(len, places)):
        raise InputError(f"{found.store.config.model}: its tokenizer finds no word at 'want'")
    static = found.vectors("static", places)
    first, second = zip(*_COMPARED.values(), strict=True)
    for layer in sorted(found.store.config.layers):
        contextual = found.vectors(f"contextual_{layer}", places)
        vectors = {"contextual": contextual}
        for kind, (name, parameters) in _KINDS.items():
            vectors[kind] = shift(name, contextual, static, **parameters)
        for kind, values in vectors.items():
            left, right = values[list(first)], values[list(second)]
            yield {
                "layer": layer,
                "kind": kind,
                "first_ten": cosines(left[:, _FIRST_TEN], right[:, _FIRST_TEN]).round(6).tolist(),
                "all": cosines(left, right).round(6).tolist(),
            }


def report(
    options: argparse.Namespace,
    folder: ModelFolder,
    rows: list[dict[str, Any]],
    salience: list[tuple[str, float]] | None,
) -> None:
    """Print the table, the salient word and the line of JSON."""
    print(f"{folder.name}, token type {options.token_type}: cosines of 'want' in two sentences each\n")
    lines = [[str(row["layer"]), row["kind"], shown(row["first_ten"]), shown(row["all"])] for row in rows]
    published = [[_PUBLISHED_LAYER, kind, shown(values), "-"] for kind, values in _PUBLISHED.items()]
    print(measuring.table(["layer", "kind", "first ten dimensions", "all dimensions"], [*lines, *published]))
    print(f"three cosines each: {', '.join(_COMPARED)}\n* as published, for bert-base-uncased\n")
    where = f"layer {options.salience_layer}, head {options.salience_head}"
    salient = max(salience, key=lambda each: each[1])[0] if salience else None
    if salience:
        named = ", ".join(f"{word} {value:.3f}" for word, value in salience)
        print(f"salient word at {where}: {salient} ({named}); published: {_PUBLISHED_SALIENT}")
    else:
        print(f"salient word at {where}: the model hides its attention; published: {_PUBLISHED_SALIENT}")
    facts = {
        "model": folder.name,
        "token_type": options.token_type,
        "compared": list(_COMPARED),
        "rows": rows,
    }
    print(json.dumps({**facts, "published": _PUBLISHED, "salient": salient, "salience": salience}))


def shown(values: Sequence[float]) -> str:
    """Cosines in one cell, aligned whatever their signs."""
    return " ".join(f"{value:6.3f}" for value in values)


if __name__ == "__main__":
    sys.exit(run(main))
