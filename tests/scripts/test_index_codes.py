"""The indexes of the benchmark of codes find what brute force finds, however vectors are turned."""

import dataclasses

import faiss
import numpy as np
import pytest

from ctxbatch.search.exact import Selection, normalised
from ctxbatch.store.columns import StoredColumn
from scripts.benchmarks.index_recipes import RECIPES, Builder

SOME = ["today", "centred", "random", "balanced-3", "weighted", "spilled-48", "rabitq", "rabitq-320"]


@pytest.fixture(scope="module")
def rows():
    """Vectors of a few directions that count, some noise, and a mean that is not zero."""
    random = np.random.default_rng(1)
    scales = np.linspace(1, 0.05, 48)
    return (random.normal(size=(4_000, 48)) * scales + 0.3).astype(np.float16)


@pytest.fixture(autouse=True)
def one_thread():
    """FAISS's threads wait for each other in a loop, for long if the cores are busy."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.mark.parametrize("name", SOME)
def test_every_list_proposes_the_nearest_rows(name, rows):
    column = StoredColumn([rows], 48, np.float16)
    vectors = normalised(rows)
    built = Builder(column, vectors[:200]).build(dataclasses.replace(RECIPES[name], lists=16))
    queries = vectors[::100]
    cosines = queries @ vectors.T
    best = np.argsort(-cosines, axis=1)[:, :10]
    proposed = built.propose(queries, built.n_lists, 600)
    found = np.mean([np.isin(wanted, row).mean() for wanted, row in zip(best, proposed, strict=True)])
    assert found >= 0.95
    chosen = Selection(np.arange(len(rows)) % 2 == 0)
    assert (built.propose(queries, built.n_lists, 600, chosen) % 2 <= 0).all()
    # No list but the nearest: fewer rows, all of them from it.
    few = built.propose(queries, 1, len(rows))
    assert 0 < np.count_nonzero(few >= 0) < len(queries) * len(rows) / 4
