"""Makes queries that a store does not hold, as people type them, to tune and measure its indexes.

The neighbours of such queries are farther away than those of stored rows, so a search misses more of them.
Half of the sentences are the store's own, altered; the others are of another kind of text.
"""

import logging
from pathlib import Path

import numpy as np

from ctxbatch.arrays import Floats
from ctxbatch.errors import InputError, StoreError
from ctxbatch.model.hub import model_of_store
from ctxbatch.search.queries import MarkedSentence, QueryEncoder, QueryWord
from ctxbatch.store.moments import Standardiser
from ctxbatch.store.reader import Store
from ctxbatch.text.unicode_words import cells

log = logging.getLogger("ctxbatch")

# Sentences of software documentation.
_SENTENCES = Path(__file__).with_name("new_sentences.txt")
_ALTERED = 200
# The share of an altered sentence's words that are replaced.
_REPLACED = 0.25


def new_queries(
    store: Store,
    column: str,
    standardiser: Standardiser | None,
    model: str | None,
    random: np.random.Generator,
) -> Floats:
    """Return normalised vectors (Q, D) of words in sentences that are not in a store, in random order.

    Args:
        store: The store.
        column: The full name of the vectors.
        standardiser: What standardises them, if they are standardised.
        model: The path or name of the store's model, as in `ctxbatch.model.hub.model_of_store`. Without it
            there are no queries, and a message says so.
        random: Draws sentences and words.
    """
    dimension = store.config.hidden_size
    try:
        folder = model_of_store(store.config, store.path, model)
        phrases = sorted(store.config.words or ())
        encoder = QueryEncoder(store.config, column, folder, phrases, standardiser)
    except (InputError, StoreError) as error:
        log.warning("index on %s: it is tuned for stored rows, not for new sentences: %s", column, error)
        return np.zeros((0, dimension), np.float32)
    sentences = [*_altered(store, random), *_of_another_kind(random)]
    encoded = encoder.encode([*enumerate(sentences)])
    words = [word for _, word in encoded if isinstance(word, QueryWord)]
    vectors = [word.vectors_VD[:1] for word in words if word.known]
    queries_QD = np.concatenate([np.zeros((0, dimension), np.float32), *vectors])
    return queries_QD[random.permutation(len(queries_QD))]


def _altered(store: Store, random: np.random.Generator) -> list[MarkedSentence]:
    """Return sentences of the store with a row's word marked, others replaced, and the halves swapped."""
    n_rows = store.n_rows
    rows = store.rows(np.sort(random.choice(n_rows, min(n_rows, _ALTERED), replace=False)))
    others = store.words_at(np.sort(random.choice(n_rows, min(n_rows, 4 * _ALTERED), replace=False)))
    sentences = []
    for row in rows:
        before, after = row["text"][: row["char_start"]], row["text"][row["char_end"] :]
        before, after = (_replaced(part, others, random) for part in (before, after))
        if random.random() < 0.5:
            before, after = f"{after} ", f" {before}"
        end = len(before) + len(row["word"])
        sentences.append(MarkedSentence(before + row["word"] + after, ((len(before), end),)))
    return sentences


def _replaced(text: str, words: list[str], random: np.random.Generator) -> str:
    parts = [text[start:end] for start, end in cells(text)]
    return "".join(
        str(random.choice(words)) if part.isalnum() and random.random() < _REPLACED else part
        for part in parts
    )


def _of_another_kind(random: np.random.Generator) -> list[MarkedSentence]:
    """Return the sentences of the package's own text, a random word of each marked."""
    sentences = []
    for line in _SENTENCES.read_text(encoding="utf-8").splitlines():
        words = [(start, end) for start, end in cells(line) if line[start:end].isalnum()]
        sentences.append(MarkedSentence(line, (words[int(random.integers(len(words)))],)))
    return sentences
