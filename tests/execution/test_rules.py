"""A store is finished by the rules for sentences and words that it was begun with, or by none."""

import contextlib
import shutil
from dataclasses import replace

import pytest

import ctxbatch
from ctxbatch import RunConfig, StoreError
from ctxbatch.execution.engines import LocalEngine
from ctxbatch.execution.repair import repair_store
from ctxbatch.files import write_json
from ctxbatch.model import resolve
from ctxbatch.sealed import read_json
from ctxbatch.store.stats import totals
from ctxbatch.text import unicode_words
from ctxbatch.text.sentence_rules import RULES
from ctxbatch.text.unicode_words import RULE
from tests.helpers.stores import arrow_digests


@contextlib.contextmanager
def resolved_as_before(monkeypatch, **fields):
    """Have configurations resolved as by a version of before, which had other values or no such fields."""
    resolve_here = LocalEngine.resolve
    with monkeypatch.context() as before:
        before.setattr(LocalEngine, "resolve", lambda *given: replace(resolve_here(*given), **fields))
        yield


def test_a_store_of_before_the_rules_for_sentences_is_finished_without_them(tiny, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("I saw Ms. Smith. She left.\n" * 20)
    config = RunConfig(model=str(tiny()), shard_size=100, index=False)
    with resolved_as_before(monkeypatch, sentence_rules=None):
        ctxbatch.run(text, tmp_path / "old", config)
    store = ctxbatch.open(tmp_path / "old")
    assert "sentence_rules" not in store.config.as_dict()
    assert store.sentences.count_rows() == 60
    digests = arrow_digests(tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "shards" / "000001")
    ctxbatch.run(text, tmp_path / "old", config)
    assert arrow_digests(tmp_path / "old") == digests
    ctxbatch.run(text, tmp_path / "new", config)
    new = ctxbatch.open(tmp_path / "new")
    assert (new.config.sentence_rules, new.sentences.count_rows()) == (RULES, 40)
    assert new.config.meaning() == store.config.meaning()  # so that they are searched together


def test_a_store_of_before_windows_shared_sequences_is_finished_without_sharing(tiny, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{'a word ' * (n % 9)}and more.\n" for n in range(60)))
    config = RunConfig(model=str(tiny()), shard_size=1000, index=False)
    with resolved_as_before(monkeypatch, shared_sequences=False):
        ctxbatch.run(text, tmp_path / "old", config)
    digests, padding = arrow_digests(tmp_path / "old"), totals(ctxbatch.open(tmp_path / "old")).padding
    shutil.rmtree(tmp_path / "old" / "shards" / "000001")
    ctxbatch.run(text, tmp_path / "old", config)
    assert arrow_digests(tmp_path / "old") == digests
    ctxbatch.run(text, tmp_path / "new", config)
    old, new = (ctxbatch.open(tmp_path / name) for name in ("old", "new"))
    assert totals(new).padding < padding
    assert "shared_sequences" not in old.config.as_dict()
    assert new.config.meaning() == old.config.meaning()  # so that they are searched together


def test_a_store_of_before_unicodes_word_rule_is_finished_with_the_words_of_the_tokenizer(
    tiny, cli, tmp_path, monkeypatch
):
    text = tmp_path / "text.txt"
    text.write_text("I don't want soft\u00adware [SEP] here.\n" * 20)
    resolve_here = LocalEngine.resolve

    def resolve_as_before(engine, config):
        resolved = resolve_here(engine, config)
        versions = {name: resolved.versions[name] for name in ("sentencex", "tokenizers")}
        return replace(resolved, word_rule=None, versions=versions, words=("don", "soft\u00adware", "t"))

    config = RunConfig(model=str(tiny()), shard_size=100, index=False, words=("DON", "t", "soft\u00adware"))
    with monkeypatch.context() as before_the_rule:
        before_the_rule.setattr(LocalEngine, "resolve", resolve_as_before)
        ctxbatch.run(text, tmp_path / "old", config)
    store = ctxbatch.open(tmp_path / "old")
    assert "word_rule" not in store.config.as_dict()
    assert "known" not in store.words.schema.names
    assert set(store.words.to_table()["word"].to_pylist()) == {"don", "t", "soft\u00adware"}
    digests = arrow_digests(tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "shards" / "000001")
    report = ctxbatch.run(text, tmp_path / "old", config)
    assert arrow_digests(tmp_path / "old") == digests
    assert report.totals.word_rule == "tokenizer"
    assert "word rule              the model's tokenizer" in cli("stats", tmp_path / "old").stdout
    ctxbatch.run(text, tmp_path / "new", replace(config, words=("don't",)))
    new = ctxbatch.open(tmp_path / "new")
    assert (new.config.word_rule, new.words.count_rows()) == (RULE, 20)
    assert totals(new).word_rule == "unicode"


def test_words_of_a_newer_rule_are_neither_made_nor_searched(tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("I want an apple.\n")
    config = RunConfig(model=str(tiny()), index=False)
    ctxbatch.run(text, tmp_path / "out", config)
    manifest = ctxbatch.open(tmp_path / "out").manifest
    newer = replace(manifest, config=replace(manifest.config, word_rule=RULE + 1))
    for path in (tmp_path / "out").glob("shards/*/shard.json"):
        record = read_json(path)
        write_json(path, record | {"fingerprint": newer.config.fingerprint})
    newer.write(tmp_path / "out")
    store = ctxbatch.open(tmp_path / "out")
    assert len(store.commits) == 1
    said = f"words are those of word rule {RULE + 1}, and this program has {RULE}: install a newer ctxbatch"
    with pytest.raises(StoreError, match=said):
        ctxbatch.searcher(store).search("I want an [apple].")
    shutil.rmtree(tmp_path / "out" / "shards" / "000000")
    with pytest.raises(StoreError, match=said):
        repair_store(tmp_path / "out", quiet=True)
    with pytest.raises(StoreError, match=f"was made with word rule {RULE + 1}, but this command"):
        ctxbatch.run(text, tmp_path / "out", config)


def test_the_fit_of_a_resumed_store_is_that_of_the_shards_that_tell_it(tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("I want an unbelievable apple.\n" * 30)
    ctxbatch.run(text, tmp_path / "out", RunConfig(model=str(tiny()), shard_size=200, index=False))
    whole = totals(ctxbatch.open(tmp_path / "out")).fit
    for path in sorted((tmp_path / "out").glob("shards/*/shard.json"))[1:]:
        record = read_json(path)
        told = ("unknown_pieces", "long_words", "characters", "bare_characters", "control_tokens")
        record["counts"] = {name: n for name, n in record["counts"].items() if name not in told}
        write_json(path, record)
    found = totals(ctxbatch.open(tmp_path / "out")).fit
    assert whole["long_words"] == pytest.approx(0.2)
    assert found == pytest.approx(whole)


def test_a_machine_with_another_icu_makes_no_shard_and_is_named(tiny, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("One line.\n")
    # The workers are processes of their own, which have the ICU that is installed.
    monkeypatch.setattr(resolve, "versions", lambda: {**unicode_words.versions(), "icu": "1.0"})
    with pytest.raises(StoreError, match=r"finds words by icu \d.*, and the store's were found by icu 1\.0"):
        ctxbatch.run(text, tmp_path / "out", RunConfig(model=str(tiny()), index=False))
    assert not ctxbatch.open(tmp_path / "out").commits


def test_a_store_made_with_other_rules_for_sentences_is_not_resumed(tiny, text, tmp_path, monkeypatch):
    config = RunConfig(model=str(tiny()), index=False)
    with monkeypatch.context() as later:
        later.setattr("ctxbatch.model.resolve.RULES", RULES + 1)
        ctxbatch.run(text, tmp_path / "out", config)
    with pytest.raises(StoreError, match=f"was made with sentence rules {RULES + 1}, but this command has"):
        ctxbatch.run(text, tmp_path / "out", config)
