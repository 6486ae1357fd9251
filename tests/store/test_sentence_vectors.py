"""Vectors of sentences are what a slow reading of all rows gives."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from ctxbatch import InputError, RunConfig, StoreError
from ctxbatch.store import sentence_vectors, shard_writer
from tests.helpers.stores import make_store, rows_of

WAYS = ("mean", "salient")


def slow(store, by, vectors):
    """The sentence_ids and vectors of all sentences that have rows: one row after the other."""
    of_sentence = {}
    for row, vector in zip(rows_of(store), vectors, strict=True):
        words = of_sentence.setdefault(row["sentence_id"], {})
        words.setdefault(row["word_index"], []).append((row["salience"], vector))
    found = {}
    for sentence, words in of_sentence.items():
        if by == "salient":
            totals = {word: sum(np.float32(each) for each, _ in its) for word, its in words.items()}
            highest = min(word for word in totals if totals[word] == max(totals.values()))
            words = {highest: words[highest]}
        flat = [vector.astype(np.float64) for its in words.values() for _, vector in its]
        found[sentence] = sum(flat) / len(flat)
    return np.array([*found]), np.array([*found.values()])


def collected(store, *arguments, **options):
    ids, vectors = zip(*store.sentence_vectors(*arguments, **options), strict=True)
    return np.concatenate(ids), np.concatenate(vectors)


def agree(store, by, *arguments, **options):
    """Compare both for one kind of vector."""
    ids, found = collected(store, by, *arguments, **options)
    expected_ids, expected = slow(store, by, np.concatenate([*store.vectors(*arguments, **options)]))
    assert found.dtype == np.float32
    assert np.array_equal(ids, expected_ids)
    assert np.abs(found - expected).max() < 1e-6 * max(1, np.abs(expected).max())


@pytest.fixture
def small_blocks(monkeypatch):
    """Record batches, blocks of rows and of sentences that all cut through the text's sentences."""
    monkeypatch.setattr(shard_writer, "BATCH_ROWS", 5)
    monkeypatch.setattr(sentence_vectors, "_ROWS", 7)
    monkeypatch.setattr(sentence_vectors, "_SENTENCES", 3)


@pytest.fixture
def make(tiny, text, tmp_path):
    def make(**options):
        fields = {"model": str(tiny()), "precision": "fp32", "layers": (3, 1), "salience": True, **options}
        return make_store(tmp_path / "out", [text], RunConfig(**fields))

    return make


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("by", WAYS)
def test_every_sentence_with_rows_has_the_vector_of_the_oracle(by, pool, make):
    """Of stored and of computed vectors, over several shards and record batches."""
    store = make(pool=pool, shard_size=300, vectors=("static", "contextual"))
    batches = {shard: len(store.file(shard, "words.arrow")) for shard in store.commits}
    assert len(batches) > 1
    assert max(batches.values()) > 1
    sentences = store.sentences.to_table()["sentence_id"].to_numpy()
    ids, _ = collected(store, by, "static")
    assert set(sentences) > set(ids)  # some sentences have no word
    for kind in ("static", "contextual_3", "contextual_1", "difference_1", "log_ratio", "asinh_3@0.5"):
        agree(store, by, kind)
    agree(store, by, "asinh", -1, delta=0.3)
    agree(store, by, "log_ratio", 1, floor=0.01)


@pytest.mark.parametrize("by", WAYS)
def test_of_a_selection_only_the_stored_rows_count(by, make):
    store = make(top_salient=2, dtype="float32")
    assert store.n_rows < 100
    agree(store, by)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_are_in_order_and_bounded(make):
    store = make()
    blocks = [*store.sentence_vectors()]
    assert {len(ids) for ids, _ in blocks[:-1]} == {3}
    assert (np.diff(np.concatenate([ids for ids, _ in blocks])) > 0).all()
    assert {vectors.shape for _, vectors in blocks[:-1]} == {(3, 32)}


def test_of_equals_the_first_word_is_the_most_salient(make, monkeypatch):
    store = make(pool="none", dtype="float32")
    even = np.ones(store.n_rows, np.float32)
    n_pieces = Counter(row["word_index"] for row in rows_of(store) if row["sentence_id"] == 0)
    most = max(n_pieces.values())
    word = min(index for index, n in n_pieces.items() if n == most)
    assert list(n_pieces.values()).count(most) > 1
    replace_column(monkeypatch, store, "salience", even)
    _, found = collected(store, "salient", "static")
    mine = [row["static"] for row in rows_of(store) if (row["sentence_id"], row["word_index"]) == (0, word)]
    assert len(mine) == most
    assert found[0] == pytest.approx(np.mean(mine, axis=0), abs=1e-6)


def replace_column(monkeypatch, store, name, values):
    """Make every shard say that a column holds these values."""
    kind = type(store.file(0, "words.arrow"))
    column = kind.column

    def replaced(file, asked):
        return pa.chunked_array([values]) if asked == name else column(file, asked)

    monkeypatch.setattr(kind, "column", replaced)


def test_rows_that_are_not_in_order_are_damage(make, monkeypatch):
    store = make()
    ids = store.read(0, "words.arrow", "sentence_id").to_numpy()
    replace_column(monkeypatch, store, "sentence_id", ids[::-1])
    with pytest.raises(StoreError, match=r"words.arrow.*not in the order of sentences"):
        collected(store)


def test_a_store_without_salience_names_the_option(make):
    store = make(salience=False)
    with pytest.raises(InputError, match=r"holds no salience.*--salience"):
        store.sentence_vectors("salient")
    assert len(collected(store)[0])
    with pytest.raises(InputError, match="by='max' must be one of mean, salient"):
        store.sentence_vectors("max")
    with pytest.raises(InputError, match="the store holds no"):
        store.sentence_vectors("mean", "contextual", 2)


def test_a_store_without_rows_has_no_vectors_of_sentences(tiny, tmp_path):
    path = tmp_path / "marks.txt"
    path.write_text("--- *** ---\n")
    store = make_store(tmp_path / "out", [path], RunConfig(model=str(tiny()), salience=True))
    assert [*store.sentence_vectors("salient")] == []
