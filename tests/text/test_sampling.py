"""What --words, --sample and --top-salient keep is what picking rows from a store of all words keeps."""

import errno
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctxbatch
from ctxbatch import InputError, ResourceError, RunConfig
from ctxbatch.cli.main import app
from ctxbatch.corpus.records import Record
from ctxbatch.model import unbatch
from ctxbatch.model.resolve import read_tokenizer, resolve
from ctxbatch.text import batching
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.sentences import Sentence
from ctxbatch.text.word_key import word_key
from tests.helpers.models import FAMILIES, TEXT
from tests.helpers.stores import arrow_digests, make_store, rows_of

PLACE = ("sentence_id", "word_index", "char_start", "char_end", "n_pieces", "word")


def options(model: Path, **given: object) -> RunConfig:
    return RunConfig(model=str(model), precision="fp32", **given)  # type: ignore[arg-type]


def places(rows: list[dict]) -> list[tuple]:
    return [tuple(row[name] for name in PLACE) for row in rows]


def most_salient(rows: list[dict], k: int) -> list[dict]:
    """The rows of the k words of each sentence that receive most attention; of equals the first."""
    of_word: dict[tuple, float] = {}
    for row in rows:
        word = (row["sentence_id"], row["word_index"])
        of_word[word] = of_word.get(word, np.float32(0)) + np.float32(row["salience"])
    kept = set()
    for sentence in {sentence for sentence, _ in of_word}:
        mine = [word for word in of_word if word[0] == sentence]
        kept |= set(sorted(mine, key=lambda word: (-of_word[word], word[1]))[:k])
    return [row for row in rows if (row["sentence_id"], row["word_index"]) in kept]


@pytest.fixture(scope="module")
def all_words(tiny, tmp_path_factory):
    """A function that returns options, and a store of all words with its rows, made once."""
    folder = tmp_path_factory.mktemp("all_words")
    (folder / "text.txt").write_text(TEXT)

    @cache
    def made(family, pool, budget):
        config = options(
            tiny(family), pool=pool, tokens_per_batch=budget, layers=(3, 1), salience_layer=2, dtype="float32"
        )
        out = folder / f"{family}-{pool}-{budget}"
        whole = make_store(out, [folder / "text.txt"], replace(config, salience=True))
        return config, whole, rows_of(whole)

    return made


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mpnet"])
@pytest.mark.parametrize(
    ("pool", "k", "budget"),
    [("mean", 1, 100), ("mean", 3, 100), ("mean", 1000, 2000), ("first", 3, 100), ("none", 3, 100)],
)
def test_top_salient_keeps_the_rows_that_ranking_all_rows_would(
    k, budget, pool, family, all_words, text, tmp_path
):
    """The text has sentences of several windows, whose words meet in different batches."""
    config, whole, everything = all_words(family, pool, budget)
    store = make_store(tmp_path / "top", [text], replace(config, top_salient=k))
    expected, found = most_salient(everything, k), rows_of(store)
    assert places(found) == places(expected)
    assert len(found) < len(everything) or k == 1000
    for name in ("static", "contextual_3", "contextual_1", "salience"):
        assert max(np.abs(a[name] - b[name]).max() for a, b in zip(found, expected, strict=True)) < 1e-4
    assert store.commits[0].counts == replace(whole.commits[0].counts, rows=len(found))


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("selection", [{"words": ("one", "i", "seven")}, {"sample": 0.4}, {"top_salient": 3}])
def test_sentences_larger_than_a_buffer_are_no_exception(selection, pool, tiny, tmp_path, monkeypatch):
    path = tmp_path / "long.txt"
    path.write_text("one two three four five six seven I want " * 60 + "\nI want an apple\n")
    config = options(tiny(), pool=pool, salience=True, dtype="float32", tokens_per_batch=100)
    everything = rows_of(make_store(tmp_path / "all", [path], config))
    whole = make_store(tmp_path / "whole", [path], replace(config, **selection))
    monkeypatch.setattr(batching, "BUFFER_PIECES", 100)
    store = make_store(tmp_path / "parts", [path], replace(config, **selection))
    found = rows_of(store)
    assert places(found) == places(rows_of(whole))
    assert set(places(found)) < set(places(everything))
    same = dict(zip(places(everything), everything, strict=True))
    for row in found:
        assert (
            np.abs(row["contextual_2"] - same[tuple(row[name] for name in PLACE)]["contextual_2"]).max()
            < 1e-4
        )


def test_one_text_is_no_list_of_words():
    with pytest.raises(InputError, match="--words 'want' is one string: give a tuple of words"):
        RunConfig(words="want")  # type: ignore[arg-type]


def test_words_keeps_occurrences_in_any_case_and_reads_no_other_sentence(tiny, text, tmp_path):
    wanted = ("i", "WANT", "zoe\u0308", "漢字", "absent")
    config = options(tiny())
    everything = make_store(tmp_path / "all", [text], config)
    store = make_store(tmp_path / "some", [text], replace(config, words=wanted))
    targets = {word_key(word) for word in wanted}
    expected = [row for row in rows_of(everything) if word_key(row["word"]) in targets]
    assert places(rows_of(store)) == places(expected)
    assert {row["word"] for row in expected} == {"I", "want", "Zoë", "漢字"}
    all_sentences, sentences = (each.sentences.to_table().to_pylist() for each in (everything, store))
    held = {row["sentence_id"] for row in expected}
    for before, after in zip(all_sentences, sentences, strict=True):
        if before["sentence_id"] not in held:
            before |= {"n_words": None, "n_pieces": None}
        assert after == before
    read = [sentence for sentence in sentences if sentence["n_words"] is not None]
    counts = store.commits[0].counts
    assert counts.wordpieces == sum(sentence["n_pieces"] for sentence in read)
    assert counts.tokens < everything.commits[0].counts.tokens / 3
    assert counts.rejected_words == 0  # the word that is too long for a window is none of these


def test_words_in_no_sentence_leave_a_store_without_rows(tiny, text, tmp_path, cli):
    (tmp_path / "words").write_text("zebra\n")
    out = tmp_path / "out"
    done = cli("run", text, "-o", out, "--model", tiny(), "--words", tmp_path / "words", "-q")
    assert done.returncode == 0
    assert done.stderr.endswith(
        f"ctxbatch: {out} has no rows: none of its 13 sentences has occurrences of 1 word\n"
    )
    assert cli("verify", out).returncode == 0
    stats = json.loads(cli("stats", out, "--json").stdout)
    assert (stats["rows"], stats["sentences"], stats["words"]) == (0, 13, None)
    assert stats["selection"] == {"words": 1, "sample": None, "top_salient": None}
    for command in (["search", out, "a [want]"], ["layers", out], ["senses", out, "want"]):
        failed = cli(*command)
        assert failed.returncode in (2, 3, 4)
        assert failed.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def by_tokenizer(tiny):
    """A function that returns the options of a family whose tokenizer cuts the words, and its tokenizer."""

    @cache
    def read(family):
        config = replace(resolve(options(tiny(family), keep_punctuation=True), "cpu"), word_rule=None)
        return config, read_tokenizer(config)

    return read


LETTERS = st.text(alphabet="abTé\u0301ß漢字иЙ19'\u2019-. \u00ad_²K", max_size=40)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(LETTERS, min_size=1, max_size=6), data=st.data())
def test_no_occurrence_of_a_tokenizers_word_is_missed_by_looking_at_characters_first(
    family, texts, data, by_tokenizer
):
    config, tokenizer = by_tokenizer(family)
    sentences = [Sentence(Record(0, n, None, None, text), 0, text) for n, text in enumerate(texts)]

    def found(words: tuple[str, ...] | None) -> list[tuple[int, int, str]]:
        maker = BatchMaker(tokenizer, replace(config, words=words))
        (buffer,) = maker.buffers(sentences)
        starts = buffer.rows.char_start_N.tolist()
        return [
            (number, start, buffer.words[row])
            for row, (number, start) in enumerate(zip(buffer.rows.sentence_N.tolist(), starts, strict=True))
        ]

    every = found(None)
    words = sorted({word.casefold() for _, _, word in every})
    chosen = set(data.draw(st.lists(st.sampled_from(words), max_size=3))) if words else set()
    expected = [each for each in every if each[2].casefold() in chosen]
    assert found((*sorted(chosen), "absent")) == expected


def test_contractions_that_byte_level_tokenizers_cut_are_found(tiny):
    config = replace(resolve(options(tiny("roberta"), words=("ally", "'re")), "cpu"), word_rule=None)
    maker = BatchMaker(read_tokenizer(config), config)
    (buffer,) = maker.buffers([Sentence(Record(0, 0, None, None, "it'really is"), 0, "it'really is")])
    assert [buffer.words[row] for row in range(len(buffer.rows))] == ["'re", "ally"]


def test_a_sentence_with_a_word_only_inside_others_is_not_tokenised(tiny):
    config = resolve(options(tiny(), words=("ark",)), "cpu")
    maker = BatchMaker(read_tokenizer(config), config)
    texts = ["the dark arks embark", "An ARK, built", "arkark"]
    (buffer,) = maker.buffers([Sentence(Record(0, n, None, None, t), 0, t) for n, t in enumerate(texts)])
    assert buffer.read_S.tolist() == [False, True, False]
    assert [buffer.words[row] for row in range(len(buffer.rows))] == ["ARK"]


def test_a_sample_has_its_rate_agrees_between_runs_and_holds_every_smaller_one(tiny, tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("one two three four five. six seven eight nine ten.\n" * 400)
    config = RunConfig(model=str(tiny()), vectors=("static",))
    stores = {
        rate: make_store(tmp_path / f"{rate}", [path], replace(config, sample=rate))
        for rate in (0.05, 0.3, 1.0)
    }
    kept = {rate: set(places(rows_of(store))) for rate, store in stores.items()}
    for rate in (0.05, 0.3):
        error = 4 * (rate * (1 - rate) / 4000) ** 0.5
        assert abs(len(kept[rate]) / 4000 - rate) < error
    assert kept[0.05] < kept[0.3] < kept[1.0]
    assert len(kept[1.0]) == 4000
    again = make_store(tmp_path / "shards", [path], replace(config, sample=0.3, shard_size=5000))
    assert len(again.commits) > 1
    assert [row["word"] for row in rows_of(again)] == [row["word"] for row in rows_of(stores[0.3])]


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_selections_keep_together_what_each_of_them_keeps(pool, tiny, text, tmp_path):
    config = options(tiny(), pool=pool, tokens_per_batch=100)
    words = ("i", "an", "want", "two", "twenty", "the", "seven", "at")
    alone = {
        name: {row["row"] for row in _numbered(make_store(tmp_path / name, [text], replace(config, **given)))}
        for name, given in {
            "words": {"words": words},
            "sample": {"sample": 0.7},
            "top": {"top_salient": 8},
        }.items()
    }
    store = make_store(tmp_path / "together", [text], replace(config, words=words, sample=0.7, top_salient=8))
    together = {row["row"] for row in _numbered(store)}
    assert together == alone["words"] & alone["sample"] & alone["top"]
    assert together
    assert all(together < kept for kept in alone.values())


def _numbered(store) -> list[dict]:
    return [{**row, "row": tuple(row[name] for name in PLACE)} for row in rows_of(store)]


def test_layers_stored_together_are_the_bits_of_layers_stored_one_by_one(tiny, text, tmp_path):
    for family in ("bert", "modernbert"):
        config = options(tiny(family), tokens_per_batch=100)
        together = make_store(tmp_path / family / "all", [text], replace(config, layers="all"))
        assert together.config.layers == (2, 3, 1)
        assert together.config.column() == "shift_2"
        for layer in (1, 2, 3):
            alone = make_store(tmp_path / family / f"{layer}", [text], replace(config, layers=(layer,)))
            for name in alone.config.columns:
                one, other = (np.concatenate(list(store.vectors(name))) for store in (together, alone))
                assert np.array_equal(one, other), (family, name)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_vectors_that_wait_on_the_disk_are_the_same_bytes(dtype, tiny, text, tmp_path, monkeypatch):
    config = options(tiny(), layers="all", salience=True, dtype=dtype)
    make_store(tmp_path / "memory", [text], config)
    monkeypatch.setattr(unbatch, "IN_MEMORY", 1000)
    make_store(tmp_path / "disk", [text], config)
    assert arrow_digests(tmp_path / "memory") == arrow_digests(tmp_path / "disk")
    names = sorted(path.name for path in (tmp_path / "disk").rglob("*"))
    assert names == [
        "000000",
        "manifest.json",
        "moments.npy",
        "rejects.jsonl",
        "sentences.arrow",
        "shard.json",
        "shards",
        "words.arrow",
    ]

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unbatch.os, "posix_fallocate", no_room)
    with pytest.raises(ResourceError, match=r"the disk of .* is full: make room"):
        make_store(tmp_path / "full", [text], config)


def test_runs_with_selections_give_the_same_bytes_however_they_are_run(tiny, text, tmp_path, cli):
    (tmp_path / "words").write_text("\ufeffWant\n\n  i \nan\nI\n")
    given = ["--words", tmp_path / "words", "--sample", "90%", "--top-salient", "4", "--layers", "all"]
    (tmp_path / "more.txt").write_text(TEXT[:600])
    inputs = [text, tmp_path / "more.txt"]
    command = ["run", *inputs, "--model", tiny(), *given, "--shard-size", "200", "--no-index", "-q"]
    digests = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}"
        done = cli(*command, "-o", out, "--workers", workers)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
        assert cli("verify", out).returncode == 0
        digests.append(arrow_digests(out))
    assert digests[0] == digests[1]
    assert len(digests[0]) > 4
    (tmp_path / "words").write_text("i\nwant\n")
    refused = cli(*command, "-o", tmp_path / "1")
    assert refused.returncode == 2
    assert "was made with --words an, but this command has fewer --words: use the same" in refused.stderr
    stats = cli("stats", tmp_path / "1").stdout
    assert "occurrences of 3 words and a sample of 90% and the 4 most salient words of each" in stats


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"words": "missing"}, "--words missing cannot be read: No such file or directory"),
        ({"words": "empty"}, "--words empty holds no words: write one per line"),
        ({"words": "bytes"}, "--words bytes cannot be read: it is not UTF-8"),
        ({"sample": "0"}, "--sample 0.0 must be a share of the words, such as 0.01 or 1%"),
        ({"sample": "200%"}, "--sample 2.0 must be a share of the words, such as 0.01 or 1%"),
        ({"sample": "few"}, "--sample 'few' must be a share, such as 0.01 or 1%"),
        ({"top_salient": 0}, "--top-salient 0 is too small: it must be 1 or more"),
        ({"layers": "every"}, "--layers 'every' must be all, or layer numbers such as -1 or 2,4,6"),
        ({"layers": "2,2"}, "--layers '2,2' must name layers, each once"),
        ({"layers": "3,-1"}, "--layers 3,-1 names a layer of "),
    ],
)
def test_selections_that_make_no_sense_are_refused(given, message, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n \n")
    Path("bytes").write_bytes(b"\xff\n")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    with pytest.raises(InputError) as refused:
        _, bound, _ = app.parse_args(["run", "a.txt", "-o", "out", "--model", str(tiny()), *options])
        resolve(bound.arguments["options"], "cpu")
    assert str(refused.value).startswith(message)


def test_words_of_marks_alone_are_refused_in_one_line(tiny, text, tmp_path, cli):
    (tmp_path / "marks").write_text("!\n...\n")
    given = ["--model", tiny(), "--words", tmp_path / "marks"]
    done = cli("run", text, "-o", tmp_path / "out", *given)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "ctxbatch: 2 of 2 --words have no letter or digit: '!', '...'; give other words"
    )
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_words_that_cannot_be_found_or_that_the_model_does_not_know_are_named(tiny, text, tmp_path, cli):
    (tmp_path / "words").write_text("want an\nI\n!\nжизнь\n\u00ad\n")
    command = ["run", text, "-o", tmp_path / "out", "--model", tiny(), "--words", tmp_path / "words", "-q"]
    done = cli(*command)
    assert done.returncode == 0
    assert "1 of 4 --words have no letter or digit: '!'; without --keep-punctuation" in done.stderr
    assert "1 of 4 --words are unknown to " in done.stderr
    assert ": 'жизнь'; their vectors are those of any unknown text" in done.stderr
    found = {row["word"] for row in rows_of(ctxbatch.open(tmp_path / "out"))}
    assert found == {"I", "want an"}


def test_a_plan_counts_what_a_selection_leaves(tiny, text, tmp_path, cli):
    (tmp_path / "words").write_text("want\n")
    words = ["--words", tmp_path / "words"]
    selections = ([], 145), (["--top-salient", "1"], 12), (words, 3), ([*words, "--top-salient", "2"], 2)
    for arguments, rows in selections:
        done = cli("plan", text, "-o", tmp_path / "out", "--model", tiny(), *arguments)
        assert done.returncode == 0
        assert re.search(rf"^words .* {rows} rows$", done.stdout, re.M)
