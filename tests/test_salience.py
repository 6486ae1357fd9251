"""Salience is the column sum of the model's own attention, and chooses the word that nobody marked."""

import numpy as np
import pytest
import torch
import transformers
from models import FAMILIES, PLAIN_TEXT
from stores import make_store

from ctxbatch import InputError, RunConfig
from ctxbatch.batching import BatchMaker
from ctxbatch.readers import Record
from ctxbatch.resolving import read_tokenizer, resolve
from ctxbatch.salience import Salience
from ctxbatch.segment import Sentence

SHOWN = [family for family in FAMILIES if family != "mpnet"]


def eager_sums(model_folder, input_ids, layer):
    """Attention received by each token of one unpadded window: mean over heads, summed over rows."""
    model = transformers.AutoModel.from_pretrained(model_folder, attn_implementation="eager").eval()
    with torch.no_grad():
        attentions = model(torch.tensor(input_ids)[None], output_attentions=True).attentions
    return attentions[layer - 1][0].mean(0).sum(0).numpy()


@pytest.mark.parametrize("family", SHOWN)
@pytest.mark.parametrize("layer", [1, 3])
def test_salience_is_the_sum_of_eager_attention_batched_and_padded(family, layer, tiny):
    folder = tiny(family)
    config = resolve(RunConfig(model=str(folder), precision="fp32", layers=(layer,)), "cpu")
    maker, salience = BatchMaker(read_tokenizer(config), config), Salience(config)
    texts = [line for line in PLAIN_TEXT.splitlines() if line.strip()]
    sentences = [Sentence(Record(0, n, None, None, text), 0, text) for n, text in enumerate(texts)]
    compared = padded = 0
    for buffer in maker.buffers(sentences):
        for batch in maker.batches(buffer, budget=200):
            found = salience.of(batch)
            padded += int((batch.lengths_B < batch.input_ids_BT.shape[1]).any())
            width = batch.input_ids_BT.shape[1]
            ends = np.cumsum(batch.n_pieces_N)
            sums = [
                eager_sums(folder, ids[:n], layer)
                for ids, n in zip(batch.input_ids_BT, batch.lengths_B, strict=True)
            ]
            for row, end in enumerate(ends):
                pieces = batch.positions_M[end - batch.n_pieces_N[row] : end]
                expected = sum(sums[piece // width][piece % width] for piece in pieces)
                assert abs(expected - found[row]) < 1e-5 * max(1, expected)
                compared += 1
    assert compared > 50
    assert padded


def test_without_a_mark_the_most_salient_word_is_searched_for(tiny, tmp_path):
    (tmp_path / "a.txt").write_text(PLAIN_TEXT)
    folder = tiny()
    config = RunConfig(model=str(folder), pool="none", keep_punctuation=False)
    searcher = make_store(tmp_path / "out", [tmp_path / "a.txt"], config).searcher()
    sentence = "Nobody wanted the unbelievableness of it."
    (answer,) = searcher.ask([sentence], 3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(sentence)
    sums = eager_sums(folder, encoded["input_ids"], 3)
    of_word = {}
    for piece, (word, value) in enumerate(zip(encoded.word_ids(), sums, strict=True)):
        if word is not None:
            start, end = encoded.word_to_chars(word)
            if sentence[start:end].isalnum():
                of_word[start] = of_word.get(start, 0) + value
        assert piece < 100
    assert answer.salient
    assert answer.char_start == max(of_word, key=of_word.__getitem__)
    marked = f"{sentence[: answer.char_start]}[{answer.word}]{sentence[answer.char_end :]}"
    assert [hit.row_id for hit in answer.hits] == [hit.row_id for hit in searcher.search(marked, 3)]
    with pytest.raises(InputError, match=r"no word is marked in '\?!', and it has no word"):
        searcher.search("?!")


def test_a_family_that_hides_its_attention_needs_a_mark(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("one two three\n")
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny("mpnet"))))
    with pytest.raises(InputError, match="models of the family mpnet do not show which is salient: mark"):
        store.searcher().search("one two")
    assert store.searcher().search("one [two]", 1)[0].word
