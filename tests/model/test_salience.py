"""Salience is the column sum of the model's own attention, and chooses the word that nobody marked."""

from dataclasses import replace

import numpy as np
import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig
from ctxbatch.model.resolve import resolve
from tests.helpers.models import FAMILIES, PLAIN_TEXT
from tests.helpers.oracle import Oracle
from tests.helpers.stores import make_store

SHOWN = [family for family in FAMILIES if family != "mpnet"]


def expected_rows(store, oracle: Oracle, **options: object) -> list:
    """What the oracle says of every sentence of a store, row after row."""
    texts = store.sentences.to_table()["text"].to_pylist()
    return [row for text in texts for row in oracle.rows(text, **options)[0]]


@pytest.mark.parametrize("family", SHOWN)
@pytest.mark.parametrize(("layer", "head"), [(1, None), (3, None), (2, 4)])
def test_salience_is_the_sum_of_eager_attention_batched_and_padded(
    family, layer, head, tiny, oracle, text, tmp_path
):
    """In batches of several lengths, and in sentences of several windows."""
    config = RunConfig(
        model=str(tiny(family)),
        layers=(-1,),
        precision="fp32",
        salience_layer=layer,
        salience_head=head,
        tokens_per_batch=200,
    )
    text.write_text(text.read_text() + "".join(f"{'word ' * n}\n" for n in (1, 2, 3, 5, 7)))
    store = make_store(tmp_path / "out", [text], config)
    found = np.array(store.words.to_table()["salience"])
    expected = np.array([row.salience(layer, head) for row in expected_rows(store, oracle(family))])
    assert len(found) > 100
    assert np.abs(found - expected).max() < 1e-5 * max(1, expected.max())
    commit = store.commits[0].counts
    assert commit.slots > commit.tokens > commit.wordpieces + 2 * commit.sentences


def test_salience_of_wordpieces_adds_up_to_that_of_their_word(tiny, oracle, text, tmp_path):
    config = RunConfig(model=str(tiny()), layers=(-1,), precision="fp32", salience=True, pool="none")
    store = make_store(tmp_path / "pieces", [text], config)
    found = np.array(store.words.to_table()["salience"])
    expected = [row.salience(3) for row in expected_rows(store, oracle(), pool="none")]
    assert np.abs(found - expected).max() < 1e-5 * max(expected)
    whole = make_store(tmp_path / "words", [text], replace(config, pool="first"))
    columns = ["sentence_id", "word_index", "salience"]
    frames = [each.words.to_table(columns=columns).to_pandas() for each in (store, whole)]
    sums, words = (frame.groupby(["sentence_id", "word_index"])["salience"].sum() for frame in frames)
    assert (sums - words).abs().max() < 1e-4


def test_vectors_are_the_same_bits_with_salience_and_without(tiny, text, tmp_path):
    config = RunConfig(model=str(tiny()), precision="fp32", layers=(2, 3))
    with_it = make_store(tmp_path / "a", [text], replace(config, salience=True))
    without = make_store(tmp_path / "b", [text], config)
    for column in without.config.columns:
        one, other = (np.concatenate(list(store.vectors(column))) for store in (with_it, without))
        assert np.array_equal(one, other)
    assert without.words.to_table()["salience"].null_count == without.n_rows
    assert with_it.words.to_table()["salience"].null_count == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"salience_layer": 3, "layers": (1, 2)}, "--salience-layer 3 lies above 2, the highest layer"),
        ({"salience_layer": 9}, r"--salience-layer 9: .* has layers 1 to 3 \(or -3 to -1\)"),
        ({"salience_head": 5}, r"--salience-head 5: .* has heads 1 to 4 \(or -4 to -1\)"),
        ({"salience": True, "vectors": ("static",)}, "salience cannot be used with --vectors static"),
        ({"top_salient": 0}, "--top-salient 0 is too small"),
    ],
)
def test_salience_that_cannot_be_had_is_refused(options, message, tiny):
    with pytest.raises(InputError, match=message):
        resolve(RunConfig(model=str(tiny()), **options), "cpu")


def test_a_family_that_hides_its_attention_is_refused(tiny):
    with pytest.raises(InputError, match="is a mpnet model, which gives no attention: leave out --salience"):
        resolve(RunConfig(model=str(tiny("mpnet")), top_salient=1), "cpu")


def test_without_a_mark_the_most_salient_word_is_searched_for(tiny, oracle, tmp_path):
    (tmp_path / "a.txt").write_text(PLAIN_TEXT)
    folder = tiny()
    config = RunConfig(model=str(folder), pool="none", keep_punctuation=False)
    searcher = ctxbatch.searcher(make_store(tmp_path / "out", [tmp_path / "a.txt"], config))
    sentence = "Nobody wanted the unbelievableness of it."
    (answer,) = searcher.ask([sentence], 3)
    rows, _ = oracle().rows(sentence)
    assert answer.salient
    assert answer.char_start == max(rows, key=lambda row: row.salience(2)).char_start
    marked = f"{sentence[: answer.char_start]}[{answer.word}]{sentence[answer.char_end :]}"
    assert [hit.row_id for hit in answer.hits] == [hit.row_id for hit in searcher.search(marked, 3)]
    with pytest.raises(InputError, match=r"no word is marked in '\?!', and it contains no word"):
        searcher.search("?!")


def test_a_family_that_hides_its_attention_needs_a_mark(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("one two three\n")
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny("mpnet"))))
    with pytest.raises(InputError, match="models of the family mpnet do not show which word is salient"):
        ctxbatch.searcher(store).search("one two")
    assert ctxbatch.searcher(store).search("one [two]", 1)[0].word
