"""Prove that searches of a store, with and without filters, find what brute force over its vectors finds.

    python -m scripts.checks.search OUT [--queries 10] [-k 10] [--combinations 20]

Queries are sentences of the store itself with a word changed, and one word marked. Every query is asked as it
is and with random combinations of filters: words, sources, documents, scores, distinct hits. A hit counts if
its true cosine is within 2e-6 of the k-th best that fulfils the conditions, since texts repeat. Fewer hits
than brute force finds are a failure, whatever the recall. Says each combination on standard error, and
prints JSON.
"""

import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import ctxbatch
from ctxbatch import Filters
from ctxbatch.search.queries import parse_query
from ctxbatch.search.searcher import Searcher
from ctxbatch.store.reader import Store
from ctxbatch.text.word_key import word_key
from scripts.command_line import Parser, positive, run, say


def main() -> int:
    """Run the proof; returns the exit status."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("out", help="a store")
    parser.add_argument("--queries", type=positive, default=10, help="sentences of the store")
    parser.add_argument("-k", type=positive, default=10, help="hits of a query")
    parser.add_argument("--combinations", type=positive, default=20, help="of filters")
    parser.add_seed()
    options = parser.parse_args()
    store = ctxbatch.open(options.out)
    searcher = ctxbatch.searcher(store)
    queries = make_queries(store, options.queries, options.seed)
    vectors = np.stack([encode(searcher, query) for query in queries])
    every = brute_force(store, searcher.column, vectors)
    rows = Rows(store)
    chance = random.Random(options.seed)
    chosen = [Filters(), *(draw(chance, rows) for _ in range(options.combinations))]
    results = []
    for filters in chosen:
        result = compare(searcher, rows, queries, every, filters, options.k)
        given = {name: value for name, value in asdict(filters).items() if value}
        say(f"recall {result['recall']:.3f}, {result['missing']} missing  {given or 'no filter'}")
        results.append(result)
    facts = {
        "rows": len(rows.words),
        "indexed": not searcher.unindexed(),
        "recall": results[0]["recall"],
        "filtered_recall": float(np.mean([result["recall"] for result in results[1:]])),
        "missing": sum(result["missing"] for result in results),
        "wrong": sum(result["wrong"] for result in results),
        "score_error": max(result["score_error"] for result in results),
    }
    print(json.dumps(facts))
    found = min(facts["recall"], facts["filtered_recall"]) >= 0.95 and not facts["missing"]
    return 0 if found and not facts["wrong"] and facts["score_error"] <= 1e-3 else 1


def encode(searcher: Searcher, query: str) -> np.ndarray:
    """Return the first vector of a query's word."""
    ((_, word),) = searcher._encode([(0, parse_query(query))])
    return word.vectors_VD[0].astype(np.float64)


def make_queries(store: Store, n: int, seed: int) -> list[str]:
    """Sentences of the store with their last word changed and another word marked."""
    chance = random.Random(seed)
    sentences = [
        text for text in store.sentences.to_table(columns=["text"])["text"].to_pylist() if text.count(" ") > 6
    ]
    queries = []
    for text in chance.sample(sentences, min(n, len(sentences))):
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


class Rows:
    """What filters look at, of every row: word, whether it is known, sentence, source and document."""

    def __init__(self, store: Store) -> None:
        words = store.words.to_table(columns=["row_id", "word", "sentence_id", "known"])
        sentences = store.sentences.to_table(columns=["sentence_id", "source", "doc_id"])
        self.ids = words["row_id"].to_numpy()
        self.words = np.array([word_key(word) for word in words["word"].to_pylist()])
        self.known = words["known"].to_numpy()
        self.sentences = words["sentence_id"].to_numpy()
        place = np.searchsorted(sentences["sentence_id"].to_numpy(), self.sentences)
        self.sources = np.array(sentences["source"].to_pylist())[place]
        self.docs = np.array([doc or "" for doc in sentences["doc_id"].to_pylist()])[place]


def draw(chance: random.Random, rows: Rows) -> Filters:
    """Return a random combination of filters, most of them absent."""

    def some(values: np.ndarray, n: int) -> tuple[str, ...]:
        return tuple({str(chance.choice(values)) for _ in range(n)})

    given: dict[str, Any] = {}
    kind = chance.choice(["same_word", "other_words", "words", None, None])
    if kind == "words":
        given["words"] = some(rows.words, 3)
    elif kind:
        given[kind] = True
    if chance.random() < 0.3:
        given["exclude_words"] = some(rows.words, 2)
    if chance.random() < 0.4:
        given["sources"] = tuple(Path(source).name for source in some(rows.sources, 2))
    if chance.random() < 0.3 and rows.docs[0]:
        given["docs"] = some(rows.docs, 2)
    if chance.random() < 0.2:
        given["min_score"] = 0.25
    if chance.random() < 0.3:
        given["unknown"] = True
    given["distinct"] = chance.choice(["sentence", "word", None, None])
    return Filters(**given)


def allowed(rows: Rows, filters: Filters, word: str) -> np.ndarray:
    """Which rows fulfil the conditions on words and places."""
    mask = np.ones(len(rows.words), np.bool_) if filters.unknown else rows.known.copy()
    if filters.same_word or filters.other_words:
        mask &= (rows.words == word) == filters.same_word
    if filters.words:
        mask &= np.isin(rows.words, [word_key(each) for each in filters.words])
    mask &= ~np.isin(rows.words, [word_key(each) for each in filters.exclude_words])
    if filters.sources:
        names, of_row = np.unique(rows.sources, return_inverse=True)
        mask &= np.array([Path(name).name in filters.sources for name in names])[of_row]
    if filters.docs:
        mask &= np.isin(rows.docs, filters.docs)
    return mask


def compare(
    searcher: Searcher, rows: Rows, queries: list[str], every: np.ndarray, filters: Filters, k: int
) -> dict[str, Any]:
    """Recall of one combination over all queries, hits missing, hits that should not be, error of scores."""
    good = wanted = missing = wrong = 0
    error = 0.0
    for query, cosines in zip(queries, every, strict=True):
        (answer,) = searcher.ask([query], k, filters)
        at = np.searchsorted(rows.ids, [hit.row_id for hit in answer.hits])
        mask = allowed(rows, filters, word_key(answer.word))
        wrong += int((~mask[at]).sum())
        best = ranked(rows, np.where(mask, cosines, -np.inf), filters, k)
        wanted += len(best)
        if filters.min_score is None:  # near the bar, what an index does not find is not missing
            missing += max(0, len(best) - len(at))
        if len(at):
            good += min(len(best), int((cosines[at] >= best[-1] - 2e-6).sum()) if len(best) else 0)
            error = max(error, float(np.abs(cosines[at] - [hit.score for hit in answer.hits]).max()))
    return {"recall": good / max(1, wanted), "missing": missing, "wrong": wrong, "score_error": error}


def ranked(rows: Rows, cosines: np.ndarray, filters: Filters, k: int) -> list[float]:
    """Return the best k cosines, distinct where they have to be."""
    keys = {"sentence": rows.sentences, "word": rows.words, None: rows.ids}[filters.distinct]
    seen: set[Any] = set()
    best: list[float] = []
    for number in np.argsort(-cosines, kind="stable"):
        if len(best) == k or cosines[number] < (filters.min_score or -1.0):
            break
        if keys[number] not in seen:
            seen.add(keys[number])
            best.append(float(cosines[number]))
    return best


if __name__ == "__main__":
    sys.exit(run(main))
