"""Every supported family encodes as the slow oracle does, words included."""

import random

import numpy as np
import pytest

from ctxbatch.errors import InputError
from ctxbatch.run_config import RunConfig
from ctxbatch.text import text_tokenizer
from tests.helpers import oracle as slow
from tests.helpers.models import FAMILIES, TEXT, make_model
from tests.helpers.stores import arrow_digests, make_store, rows_of

HALF = 2**-11


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def stacked(rows, column):
    return np.stack([row[column] for row in rows])


def assert_equal_rows(store, oracle, *, layers, **options):
    """Compare a float32 store made in fp32 with the oracle, row by row."""
    found, floor = rows_of(store), store.config.floor
    expected, rejected = [], []
    for sentence in store.sentences.to_table().to_pylist():
        rows, lost = oracle.rows(sentence["text"], **options)
        expected += [(sentence, row) for row in rows]
        rejected += lost
    assert [(r["word_index"], r["char_start"], r["char_end"], r["n_pieces"]) for r in found] == [
        (row.word_index, row.char_start, row.char_end, row.n_pieces) for _, row in expected
    ]
    assert [(r["sentence_id"], r["word"]) for r in found] == [
        (sentence["sentence_id"], row.word) for sentence, row in expected
    ]
    static = np.stack([row.static for _, row in expected])
    np.testing.assert_allclose(stacked(found, "static"), static, atol=1e-4, rtol=1e-4)
    for layer in layers:
        contextual = np.stack([row.contextual[layer] for _, row in expected])
        np.testing.assert_allclose(stacked(found, f"contextual_{layer}"), contextual, atol=1e-4, rtol=1e-4)
        shifts = stacked(found, f"shift_{layer}")
        if floor is None:
            np.testing.assert_allclose(shifts, contextual - static, atol=2e-4, rtol=1e-4)
            continue
        ratios = np.stack([slow.log_ratio(c, s, floor) for c, s in zip(contextual, static, strict=True)])
        # Away from the floor and from zero, where a rounding cannot decide whether the ratio is defined.
        clear = (np.abs(contextual) > 2 * floor) & (np.abs(static) > 2 * floor)
        np.testing.assert_allclose(shifts[clear], ratios[clear], atol=2e-2, rtol=1e-3)
    return rejected


@pytest.mark.parametrize("family", FAMILIES)
def test_family_equals_oracle(family, tiny, oracle, text_file, tmp_path):
    config = RunConfig(
        model=str(tiny(family)),
        layers=(1, 3),
        shift="log_ratio",
        precision="fp32",
        dtype="float32",
        tokens_per_batch=90,
    )
    store = make_store(tmp_path / "out", [text_file], config)
    assert store.n_rows > 100
    assert_equal_rows(store, oracle(family), layers=(1, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_runs_in_bf16_close_to_fp32(family, tiny, text_file, tmp_path):
    stores = [
        make_store(
            tmp_path / precision,
            [text_file],
            RunConfig(model=str(tiny(family)), precision=precision, dtype="float32"),
        )
        for precision in ("fp32", "bf16")
    ]
    exact, rough = (np.concatenate(list(store.vectors("contextual"))) for store in stores)
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.mean() > 0.999
    static = [np.concatenate(list(store.vectors("static"))) for store in stores]
    np.testing.assert_array_equal(*static)  # static vectors are fp32 whatever the layers compute in


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("pool", ["first", "none"])
def test_pooling_equals_oracle(family, pool, tiny, oracle, text_file, tmp_path):
    config = RunConfig(model=str(tiny(family)), pool=pool, precision="fp32", dtype="float32")
    store = make_store(tmp_path / "out", [text_file], config)
    assert_equal_rows(store, oracle(family), layers=(2,), pool=pool)


def test_lookup_and_punctuation_equal_oracle(tiny, oracle, text_file, tmp_path):
    config = RunConfig(
        model=str(tiny()),
        static="lookup",
        keep_punctuation=True,
        precision="fp32",
        dtype="float32",
        layers=(3,),
        shift="log_ratio",
        floor=0.0,
    )
    store = make_store(tmp_path / "out", [text_file], config)
    assert any(row["word"] == "," for row in rows_of(store))
    assert_equal_rows(store, oracle(), layers=(3,), static="lookup", keep_punctuation=True)


def test_last_layer_of_modernbert_is_normed_and_others_are_not(tiny, oracle, text_file, tmp_path):
    config = RunConfig(
        model=str(tiny("modernbert")), layers=(2,), shift="log_ratio", precision="fp32", dtype="float32"
    )
    store = make_store(tmp_path / "out", [text_file], config)
    assert_equal_rows(store, oracle("modernbert"), layers=(2,))


def test_lookup_is_refused_where_its_width_differs(tiny, text_file, tmp_path):
    with pytest.raises(InputError, match="embeddings of 16 dimensions"):
        make_store(tmp_path / "out", [text_file], RunConfig(model=str(tiny("electra")), static="lookup"))


def test_word_longer_than_a_window_is_rejected_by_name_and_the_rest_stored(tiny, oracle, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(
        f"before it {'z' * 100} and after it\nnext {'q' * 25} line {'k' * 30} goes on {'j' * 37} so\n"
    )
    config = RunConfig(model=str(tiny()), precision="fp32", dtype="float32")
    store = make_store(tmp_path / "out", [path], config)
    rejected = assert_equal_rows(store, oracle(), layers=(2,))
    assert rejected
    from ctxbatch.store.rejects import rejects
    from ctxbatch.store.stats import totals

    named = list(rejects(store))
    assert [entry["word"][:40] for entry in named] == [word[:40] for word in rejected]
    assert named[0]["reason"] == "word of 100 wordpieces is longer than a window of 38"
    assert {entry["record"] for entry in named} <= {0, 1}
    counted = totals(store)
    assert counted.rejected_words == len(rejected)
    assert counted.rejected == 0
    assert counted.words == counted.rows + len(rejected)


def test_a_line_of_twenty_thousand_words_gives_every_word_once_from_the_right_window(tiny, oracle, tmp_path):
    chance = random.Random(4)
    words = chance.choices(["I", "want", "an", "and", "the", "in,", "bank"], [9, 9, 9, 9, 9, 3, 1], k=20_000)
    path = tmp_path / "long.txt"
    path.write_text(" ".join(words) + "\n", encoding="utf-8")
    config = RunConfig(model=str(tiny()), precision="fp32", dtype="float32", split="none")
    store = make_store(tmp_path / "out", [path], config)
    assert len(store.sentences.to_table()) == 1
    assert store.n_rows == 20_000
    assert assert_equal_rows(store, oracle(), layers=(2,)) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_tokenised_in_parts_as_the_whole_is(family, tiny, tmp_path, monkeypatch):
    path = tmp_path / "long.txt"
    path.write_text(TEXT.replace("\n", " ") * 3, encoding="utf-8")
    config = RunConfig(model=str(tiny(family)), split="none", vectors=("static",), static="lookup")
    if family == "electra":
        config = RunConfig(model=str(tiny(family)), split="none", vectors=("static",))
    whole = make_store(tmp_path / "whole", [path], config)
    encoded = []
    original = text_tokenizer.LongEncoding.of
    monkeypatch.setattr(text_tokenizer, "_PART_CHARACTERS", 30)
    monkeypatch.setattr(text_tokenizer.LongEncoding, "of", lambda parts: encoded.append(0) or original(parts))
    parts = make_store(tmp_path / "parts", [path], config)
    assert len(encoded) == 1
    assert arrow_digests(parts.path) == arrow_digests(whole.path)


def test_unsupported_family_is_refused_with_the_list(text_file, tmp_path):
    import transformers

    folder = tmp_path / "gpt"
    transformers.GPT2Model(
        transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10)
    ).save_pretrained(folder)
    with pytest.raises(
        InputError,
        match=r"is of type gpt2, which is not supported: use bert, distilbert, electra, modernbert",
    ):
        make_store(tmp_path / "out", [text_file], RunConfig(model=str(folder)))


def test_a_model_without_a_tokenizer_is_refused(text_file, tmp_path):
    folder = make_model(tmp_path / "model", "bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        make_store(tmp_path / "out", [text_file], RunConfig(model=str(folder)))


def test_weights_without_a_layer_are_refused(text_file, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_model(tmp_path / "model", "bert")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"its weights lack encoder.layer.1.output.dense.weight"):
        make_store(tmp_path / "out", [text_file], RunConfig(model=str(folder)))
