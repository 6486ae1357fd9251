"""Words sit at their offsets, in order, none missing and none twice, for every kind of tokenizer."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxbatch.corpus.records import Record
from ctxbatch.model import resolve
from ctxbatch.run_config import RunConfig
from ctxbatch.text import batching
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.sentences import Sentence

KINDS = ("bert", "roberta", "xlm-roberta", "modernbert")
characters = st.sampled_from("aeTn'.,- \t\u00a0é汉字😀\u200d\u0301קПz1[]<>▁Ġ\x00\x1c")


@pytest.fixture(scope="module")
def maker(tiny):
    made = {}

    def get(family, **options) -> BatchMaker:
        key = (family, *options.items())
        if key not in made:
            config = resolve.resolve(RunConfig(model=str(tiny(family)), **options), "cpu")
            made[key] = BatchMaker(resolve.read_tokenizer(config), config)
        return made[key]

    return get


def sentences(*texts):
    return [Sentence(Record(0, n, 0, None, text), 0, text) for n, text in enumerate(texts) if text.strip()]


@pytest.mark.parametrize("family", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(texts=st.lists(st.text(characters, max_size=40).map(str.strip), min_size=1, max_size=4))
def test_words_equal_the_oracles_for_any_text(family, texts, maker, oracle):
    given_texts = sentences(*texts)
    found = [[] for _ in given_texts]
    for buffer in maker(family, keep_punctuation=True).buffers(given_texts):
        rows = buffer.rows
        for row in range(len(rows)):
            sentence = int(rows.sentence_N[row])
            start, end = int(rows.char_start_N[row]), int(rows.char_end_N[row])
            assert buffer.words[row] == given_texts[sentence].text[start:end]
            found[sentence].append((int(rows.word_index_N[row]), start, end, int(rows.n_pieces_N[row])))
    for sentence, got in zip(given_texts, found, strict=True):
        expected, _ = oracle(family).rows(sentence.text, keep_punctuation=True)
        assert got == [(r.word_index, r.char_start, r.char_end, r.n_pieces) for r in expected]


@pytest.mark.parametrize("family", KINDS)
def test_batches_hold_every_row_once_within_the_budget(family, maker):
    make = maker(family, tokens_per_batch=64)
    texts = sentences(*(" ".join(["Word", "unbelievable", "x"] * n) for n in (1, 9, 3, 30, 2, 2, 14)))
    (buffer,) = make.buffers(texts)
    seen = []
    for batch in make.batches(buffer):
        assert batch.input_ids_BT.size <= 64 or len(batch.lengths_V) == 1
        assert batch.n_pieces_N.sum() == len(batch.positions_M)
        seen += batch.rows_N.tolist()
    assert sorted(seen) == list(range(len(buffer.rows)))


@pytest.mark.parametrize("family", KINDS)
def test_a_batch_is_the_same_windows_whether_they_share_sequences_or_not(family, maker):
    make = maker(family)
    texts = sentences(*(" ".join(["Word", "unbelievable", "x"] * n) for n in (1, 9, *(1, 2, 3) * 9)))
    (buffer,) = make.buffers(texts)
    batches = list(make.batches(buffer))
    assert any(len(batch.lengths_V) > len(batch.input_ids_BT) for batch in batches)
    for batch in batches:
        alone = batch.separated(0)
        assert alone.input_ids_BT.shape == (len(batch.lengths_V), batch.lengths_V.max())
        assert sorted(map(tuple, windows_of(batch))) == sorted(map(tuple, windows_of(alone)))
        for each in (batch, alone):
            ids_S, places_S = each.input_ids_BT.ravel(), each.place_BT.ravel()
            window_M = each.window_BT.ravel()[each.positions_M]
            assert (window_M == np.repeat(window_M[each.first_N], each.n_pieces_N)).all()
            assert (ids_S[each.positions_M] == buffer.ids_P[pieces_of(buffer, each.rows_N)]).all()
            first_M = each.positions_M[each.first_N]
            assert (places_S[first_M] == buffer.rows.piece_N[each.rows_N] + len(make._prefix)).all()


def windows_of(batch):
    """Return the token ids of each window, found by its tokens' numbers and places."""
    for number, length in enumerate(batch.lengths_V):
        is_its_BT = batch.window_BT == number
        assert (batch.place_BT[is_its_BT] == np.arange(length)).all()
        yield batch.input_ids_BT[is_its_BT]


def pieces_of(buffer, rows_N):
    """Return the wordpieces of rows, row after row."""
    rows = buffer.rows.take(rows_N)
    begin_N = buffer.window_start_W[rows.window_N] + rows.piece_N
    return np.concatenate([np.arange(b, b + n) for b, n in zip(begin_N, rows.n_pieces_N, strict=True)])


def test_a_sentence_larger_than_a_buffer_gives_the_same_rows_in_several(maker, monkeypatch):
    make = maker("bert")
    text = sentences("short one", " ".join(f"w{n}" for n in range(900)), "and the last")
    (whole,) = make.buffers(text)
    monkeypatch.setattr(batching, "BUFFER_PIECES", 500)
    parts = list(make.buffers(text))
    assert len(parts) > 3
    found, carried = [], 0
    for part in parts:
        for row in range(len(part.rows)):
            sentence = int(part.rows.sentence_N[row]) + carried
            found.append((sentence, part.words[row], int(part.rows.char_start_N[row])))
        carried += len(part.sentences)
    rows = whole.rows
    assert found == [
        (int(rows.sentence_N[n]), whole.words[n], int(rows.char_start_N[n])) for n in range(len(rows))
    ]
    assert sum(int(part.n_words_S.sum()) for part in parts) == len(rows)


def test_truncation_stored_in_a_tokenizer_is_cleared(tiny, tmp_path):
    import shutil

    from tokenizers import Tokenizer

    folder = tmp_path / "model"
    shutil.copytree(tiny("bert"), folder)
    path = Path(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))
    config = resolve.resolve(RunConfig(model=str(folder)), "cpu")
    make = BatchMaker(resolve.read_tokenizer(config), config)
    (buffer,) = make.buffers(sentences("one two three four five six seven eight"))
    assert len(buffer.rows) == 8


def test_the_limit_is_the_smaller_of_tokenizer_and_positions(tiny, tmp_path):
    import shutil

    from tests.helpers.models import set_tokenizer_option

    folder = tmp_path / "model"
    shutil.copytree(tiny("roberta"), folder)
    assert resolve.resolve(RunConfig(model=str(folder)), "cpu").max_tokens == 40
    set_tokenizer_option(folder, "model_max_length", 17)
    assert resolve.resolve(RunConfig(model=str(folder)), "cpu").max_tokens == 17
