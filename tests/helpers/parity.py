"""Compares a store with the oracle, value by value, allowing for the rounding of the stored type."""

import numpy as np

from ctxbatch.store.reader import Store
from tests.helpers import oracle as slow
from tests.helpers.oracle import Oracle
from tests.helpers.stores import rows_of

HALF_ULP = 2.0**-11  # relative rounding error of float16
HALF_SMALLEST = 2.0**-25  # absolute rounding error of subnormal float16


def compare(store: Store, oracle: Oracle) -> dict:
    """Compare an fp32 run stored in float16 with the oracle.

    Returns:
        The largest excess over 1e-4 + rounding of static and contextual values, the same for shifts away from
        the floor (both should be at most 0), and the numbers of rows and sentences compared.
    """
    config = store.config
    layer = config.layers[0]
    found = iter(rows_of(store))
    n_rows, excess, shift_excess = 0, -1.0, -1.0
    sentences = store.sentences.to_table().to_pylist()
    for sentence in sentences:
        expected, _ = oracle.rows(sentence["text"])
        for row in expected:
            got = next(found)
            n_rows += 1
            place = (
                sentence["sentence_id"],
                row.word_index,
                row.char_start,
                row.char_end,
                row.n_pieces,
                row.word,
            )
            fields = ("sentence_id", "word_index", "char_start", "char_end", "n_pieces", "word")
            assert tuple(got[name] for name in fields) == place
            contextual = row.contextual[layer]
            for name, value in (("static", row.static), (f"contextual_{layer}", contextual)):
                allowed = 1e-4 + np.maximum(np.abs(value) * HALF_ULP, HALF_SMALLEST)
                excess = max(excess, float((np.abs(got[name] - value) - allowed).max()))
            expected_shift = slow.log_ratio(contextual, row.static, config.floor)
            clear = (np.abs(np.abs(contextual) - config.floor) > 1e-4) & (
                np.abs(np.abs(row.static) - config.floor) > 1e-4
            )
            # An error of 1e-4 in c changes ln(c/s) by 1e-4/|c|, most near the floor.
            size = np.maximum(np.minimum(np.abs(contextual), np.abs(row.static)), config.floor)
            allowed = 2e-4 / size + np.abs(expected_shift) * HALF_ULP
            off = np.abs(got[f"shift_{layer}"] - expected_shift) - allowed
            shift_excess = max(shift_excess, float(off[clear].max()))
    assert next(found, None) is None, "the store holds rows that the oracle does not know"
    return {"rows": n_rows, "sentences": len(sentences), "excess": excess, "shift_excess": shift_excess}


def mean_cosine(exact: Store, rough: Store, on: str) -> float:
    """Return the mean cosine between the vectors of two runs over the same text."""
    a, b = (np.concatenate(list(store.vectors(on))).astype(np.float64) for store in (exact, rough))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1)[norms > 0] / norms[norms > 0]).mean())
