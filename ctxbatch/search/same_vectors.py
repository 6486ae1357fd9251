"""Checks that several stores hold vectors that can be compared."""

from typing import Any

from ctxbatch.errors import InputError, StoreError
from ctxbatch.store.reader import Store


def name_in(store: Store, identity: str) -> str:
    """Return the full name of vectors in a store.

    Raises:
        InputError: The store has none of this identity.
    """
    try:
        return store.config.column(identity)
    except InputError as error:
        raise InputError(f"{store.path}: {error}") from None


def _meaning(store: Store, identity: str) -> dict[str, Any]:
    """Return what has to be equal in two stores whose rows are compared on these vectors.

    Not what else they hold: other kinds of vectors, other layers, and what only those need.
    """
    meaning = store.config.meaning()
    others = ["vectors", "layers", "shift", "floor", "delta"]
    if identity.startswith("contextual"):
        others.append("static")
    return {name: value for name, value in meaning.items() if name not in others}


def check_comparable(one: Store, other: Store, identity: str) -> None:
    """Check that vectors of two stores can be compared.

    Raises:
        StoreError: They are of different configurations.
    """
    first, second = _meaning(one, identity), _meaning(other, identity)
    if first == second:
        return
    name = next(name for name in first if first[name] != second[name])
    if name == "word_rule":
        how = f"their words were found by {_word_rule(one)} and by {_word_rule(other)}"
    else:
        how = f"{name.replace('_', ' ')}: {first[name]} and {second[name]}"
    raise StoreError(f"{one.path} and {other.path} cannot be searched together: {how}")


def _word_rule(store: Store) -> str:
    rule = store.config.word_rule
    return "the tokenizer" if rule is None else f"rule {rule} of Unicode's word boundaries"
