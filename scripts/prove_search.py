"""Compare searches of a store with brute force over its stored vectors.

    python scripts/prove_search.py OUT [--queries 10] [-k 10]

Queries are sentences of the store itself with a word changed, and one word marked. A hit counts if its
true cosine is within 1e-6 of the k-th best or above, since texts repeat. Prints JSON.
"""

import argparse
import json
import random
import sys

import numpy as np

import ctxbatch
from ctxbatch.queries import parse_query
from ctxbatch.search import Searcher
from ctxbatch.store import Store


def main() -> int:
    """Run the proof; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    store = ctxbatch.open(options.out)
    searcher = store.searcher()
    queries = make_queries(store, options.queries, options.seed)
    vectors = np.stack([encode(searcher, query) for query in queries])
    every = brute_force(store, searcher.column, vectors)
    rows = store.row_ids()
    recalls, largest = [], 0.0
    for query, cosines in zip(queries, every, strict=True):
        hits = searcher.search(query, options.k)
        worst = np.partition(cosines, -options.k)[-options.k]
        true = cosines[np.searchsorted(rows, [hit.row_id for hit in hits])]
        recalls.append(float((true >= worst - 1e-6).sum()) / options.k)
        largest = max(largest, float(np.abs(true - [hit.score for hit in hits]).max()))
        print(f"{recalls[-1]:.2f}  {query}")
    facts = {
        "rows": len(rows),
        "indexed": not searcher.unindexed,
        "recall": float(np.mean(recalls)),
        "score_error": largest,
    }
    print(json.dumps(facts))
    return 0 if facts["recall"] >= 0.95 and largest <= 1e-3 else 1


def encode(searcher: Searcher, query: str) -> np.ndarray:
    """The first vector of a query's word."""
    ((_, word),) = searcher._encode([(0, parse_query(query))])
    return word.vectors[0].astype(np.float64)


def make_queries(store: Store, n: int, seed: int) -> list[str]:
    """Sentences of the store with their last word changed and another word marked."""
    chance = random.Random(seed)
    sentences = [
        text for text in store.sentences.to_table(columns=["text"])["text"].to_pylist() if text.count(" ") > 6
    ]
    queries = []
    for text in chance.sample(sentences, n):
        words = text.replace("[", "(").replace("]", ")").split()
        at = chance.randrange(1, len(words) - 2)
        bare = words[at].strip(".,;:!?'\"()-")
        if not bare.isalnum():
            at, bare = 0, words[0].strip(".,;:!?'\"()-")
        words[at] = words[at].replace(bare, f"[{bare}]", 1)
        queries.append(" ".join([*words[:-1], "tomorrow."]))
    return queries


def brute_force(store: Store, column: str, queries: np.ndarray) -> np.ndarray:
    """Cosines of every query with every row, in float64: (queries, rows)."""
    parts = []
    for block in store.vectors(column):
        vectors = block.astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        parts.append(
            queries @ vectors.T / np.where(norms > 0, norms, 1) / np.linalg.norm(queries, axis=1)[:, None]
        )
    return np.concatenate(parts, axis=1)


if __name__ == "__main__":
    sys.exit(main())
