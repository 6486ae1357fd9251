"""On real weights (all-MiniLM-L6-v2) the store equals the oracle, and bf16 is close to fp32."""

from pathlib import Path

import pytest

import ctxbatch
from ctxbatch import Filters, RunConfig
from ctxbatch.model.hub import find_model
from tests.helpers.oracle import Oracle
from tests.helpers.parity import compare, mean_cosine
from tests.helpers.stores import make_store

MODEL = "all-MiniLM-L6-v2"
TEXT = Path(__file__).parents[2] / "scripts" / "demo" / "devils-dictionary.txt"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return {
        precision: make_store(
            folder / precision,
            [TEXT],
            RunConfig(
                model=MODEL,
                layers=(-1,),
                shift="log_ratio",
                precision=precision,
                record="paragraph",
                limit=40,
            ),
        )
        for precision in ("fp32", "bf16")
    }


def test_every_stored_value_lies_within_rounding_of_the_oracle(stores):
    found = compare(stores["fp32"], Oracle(find_model(MODEL, None).path))
    assert found["rows"] > 1000
    assert found["excess"] <= 0
    assert found["shift_excess"] <= 0


def test_bf16_is_close_to_fp32(stores):
    assert mean_cosine(stores["fp32"], stores["bf16"], "contextual") >= 0.9995
    assert mean_cosine(stores["fp32"], stores["bf16"], "shift") >= 0.97


def test_nearest_contexts_of_a_word_are_of_that_word_and_of_related_ones(stores):
    store = stores["fp32"]
    found = ctxbatch.searcher(store, "shift").search("This [book] was written long ago.", 5)
    assert {hit.word.casefold() for hit in found} <= {"book", "books"}
    others = ctxbatch.searcher(store, "contextual").search(
        "This [book] was written long ago.", 5, Filters(other_words=True)
    )
    assert {hit.word.casefold() for hit in others} & {
        "volume",
        "work",
        "books",
        "dictionary",
        "pages",
        "copy",
    }
