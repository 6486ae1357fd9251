"""Computes cosines by brute force, as a reference for every fast search."""

import numpy as np

from ctxbatch.search.queries import parse_query
from ctxbatch.search.searcher import Searcher
from ctxbatch.store.reader import Store

QUERIES = [
    "I want an [apple].",
    "The [bank] by the river",
    "the bank by the [river] was locked",
    "[Things] happen here",
    "Twenty-one, twenty-[two].",
    "nobody wanted what lay [inside]",
    "One two [three] four",
    "a [line] with emoji",
    "the middle of the [bank]",
    "[The] old door",
]


def cosines(store: Store, column: str, query: np.ndarray) -> np.ndarray:
    """Return the cosine of one vector with every stored vector, in float64."""
    vectors = np.concatenate(list(store.vectors(column))).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return vectors @ query / np.where(norms > 0, norms, 1)


def known(store: Store) -> np.ndarray:
    """Return which rows a search finds by default, those that the model knows: shape (rows,)."""
    return store.words.to_table(columns=["known"])["known"].to_numpy()


def query_vectors(searcher: Searcher, query: str) -> np.ndarray:
    """Return the vectors of a query's marked word: one, or one a wordpiece if rows are wordpieces."""
    ((_, word),) = searcher._vectors(searcher.column).encoder.encode([(0, parse_query(query))])
    return word.vectors_VD.astype(np.float64)
