"""An index is made of parts, one a shard: they are coded once, whatever stops it, and grow with it."""

import hashlib
import itertools
import shutil
from dataclasses import replace

import faiss
import numpy as np
import pytest

import ctxbatch
from ctxbatch import StoreError
from ctxbatch.execution.repair import find_damage, repair_store
from ctxbatch.files import write_json
from ctxbatch.sealed import read_json
from ctxbatch.search import index_build
from ctxbatch.search.exact import exact, normalised
from ctxbatch.search.index import IndexOptions
from ctxbatch.search.index_files import facts_path, open_index
from ctxbatch.search.index_parts import Codebook, find_codebook, sampled_shards
from ctxbatch.store.reader import Store
from tests.helpers.many_shards import COLUMN, index_digests, is_killed, set_all, write


def test_merged_parts_are_the_index_to_which_all_rows_are_added(in_parts):
    store = Store(in_parts)
    codebook = find_codebook(store, COLUMN)
    added = faiss.clone_index(codebook.empty)
    for vectors in store.vectors("shift"):
        added.add(normalised(vectors))
    merged = codebook.merged(store, store.commits)
    np.testing.assert_array_equal(faiss.serialize_index(merged), faiss.serialize_index(added))
    assert (in_parts / "index" / f"{COLUMN}.faiss").read_bytes() == faiss.serialize_index(added).tobytes()


def test_a_codebook_is_trained_on_shards_from_all_over_the_store(in_parts):
    n_shards = len(Store(in_parts).manifest.shards)
    shards = sampled_shards(n_shards)
    assert [int(shard) for shard in find_codebook(Store(in_parts), COLUMN).facts.built_from] == shards
    assert len(shards) == 16 < n_shards
    assert max(b - a for a, b in itertools.pairwise([*shards, n_shards])) <= 2


def test_a_build_that_is_killed_goes_on_and_changes_no_byte(unindexed, in_parts, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(unindexed, out)
    # Two a file: at the facts of the codebook, a part, the table of words, the facts of the index.
    for at in (3, 12, 34, 7):
        assert is_killed(out, at)
        assert ctxbatch.searcher(out).search("the [bank] of the river")
    assert not is_killed(out, 0)
    for path in (out / "index").rglob(".*.tmp"):  # what a run removes
        path.unlink()
    assert index_digests(out) == index_digests(in_parts)


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "another shard's", "list"])
def test_a_damaged_part_is_named_and_made_again_alone(harm, in_parts, tmp_path, cli):
    out = shutil.copytree(in_parts, tmp_path / "out")
    part = out / "index" / f"{COLUMN}.parts" / "000003.codes"
    content = part.read_bytes()
    if harm == "changed":
        part.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif harm == "cut":
        part.write_bytes(content[:-1])
    elif harm == "gone":
        part.unlink()
    elif harm == "another shard's":
        shutil.copy(part.with_name("000004.codes"), part)
    else:  # a list that the codebook does not have, with a checksum that fits
        body = content[:32] + b"\xff" + content[33:-32]
        part.write_bytes(body + hashlib.sha256(body).digest())
    found = [damage.text for damage in find_damage(out)]
    assert len(found) == 1
    assert found[0].startswith(f"{part} is missing or damaged; make it again with `ctxbatch verify ")
    assert cli("verify", out).returncode == 3
    before = {path: path.stat().st_mtime_ns for path in (out / "index").rglob("*") if path.is_file()}
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(in_parts)
    assert {path for path, at in before.items() if path.stat().st_mtime_ns != at} <= {part}
    assert not list(find_damage(out))


def test_a_damaged_index_is_made_again_from_its_parts_without_tuning(in_parts, tmp_path, monkeypatch):
    out = shutil.copytree(in_parts, tmp_path / "out")
    path = out / "index" / f"{COLUMN}.faiss"
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr(index_build, "tune_index", None)
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(in_parts)


@pytest.mark.parametrize("gone", ["codebook.f32", "codebook.json"])
@pytest.mark.usefixtures("small_indexed")
def test_a_codebook_that_is_gone_is_taken_out_of_the_index(gone, in_parts, tmp_path):
    out = shutil.copytree(in_parts, tmp_path / "out")
    (out / "index" / f"{COLUMN}.parts" / gone).unlink()
    assert "codebook.f32 is missing or damaged" in next(find_damage(out)).text
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(in_parts)


@pytest.mark.usefixtures("small_indexed")
def test_an_index_that_grows_finds_as_much_as_one_built_anew(many_shards, in_parts, tmp_path):
    _, config = many_shards
    out = tmp_path / "out"
    shutil.copytree(in_parts, out)
    more = write(tmp_path / "more.txt", 700, seed=1)
    parts = out / "index" / f"{COLUMN}.parts"
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    report = ctxbatch.run([more], out, replace(config, append=True))
    store = Store(out)
    assert report.index.rows == store.n_rows > Store(in_parts).n_rows
    assert {name: (parts / name).read_bytes() for name in before} == before
    assert len(list(parts.glob("*.codes"))) == len(store.commits)
    rng = np.random.default_rng(0)
    queries = normalised(store.column(COLUMN).take(rng.choice(store.n_rows, 400, replace=False)))
    right = exact(store.column(COLUMN), queries, 10, None)[1]

    def recall():
        found = open_index(store, COLUMN).nearest(queries, 10, None, "few")[1]
        return np.mean(found >= right[:, -1:] - 2e-6)

    grown = recall()
    index_build.build(store, COLUMN)
    assert grown > recall() - 0.01


@pytest.mark.usefixtures("small_indexed")
def test_growth_that_is_killed_goes_on_and_changes_no_byte(many_shards, in_parts, tmp_path, caplog):
    _, config = many_shards
    more = write(tmp_path / "more.txt", 100, seed=1)
    outs = [tmp_path / "right", tmp_path / "killed"]
    for out in outs:
        shutil.copytree(in_parts, out)
        ctxbatch.run([more], out, replace(config, append=True, index=False))
    index_build.ensure(Store(outs[0]), COLUMN)

    def write_or_stop(path, content):
        if path == facts_path(outs[1], COLUMN):  # the new file is there, and the old facts
            raise KeyboardInterrupt
        write_json(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_build, "write_json", write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            index_build.ensure(Store(outs[1]), COLUMN)
    assert open_index(Store(outs[1]), COLUMN) is None  # a search reads all rows
    assert "is missing, so the search reads all rows" in caplog.text
    index_build.ensure(Store(outs[1]), COLUMN)
    assert index_digests(outs[1]) == index_digests(outs[0])


@pytest.mark.usefixtures("small_indexed")
def test_what_stands_in_the_way_of_parts_is_removed(in_parts, tmp_path):
    out = shutil.copytree(in_parts, tmp_path / "out")
    parts = out / "index" / f"{COLUMN}.parts"
    (parts / "000003.codes").unlink()
    (parts / "000003.codes" / "more").mkdir(parents=True)
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(in_parts)
    shutil.rmtree(parts)
    parts.write_text("a file")
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(in_parts)


def test_a_crafted_index_names_no_other_place_for_its_codebook(in_parts, tmp_path):
    out = shutil.copytree(in_parts, tmp_path / "out")
    path = facts_path(out, COLUMN)
    facts = {name: value for name, value in read_json(path).items() if name != "checksum"}
    write_json(path, {**facts, "codebook": {**facts["codebook"], "column": f"{tmp_path}/evil"}})
    (out / "index" / f"{COLUMN}.parts" / "codebook.f32").unlink()
    with pytest.raises(StoreError, match="it names a codebook of the column"):
        open_index(Store(out), COLUMN)
    repair_store(out)
    assert not list(tmp_path.glob("evil*"))


def test_codes_of_other_means_are_made_again(many_shards, unindexed, tmp_path):
    """Rows that are appended change the means and deviations by which vectors are standardised."""
    _, config = many_shards
    out = shutil.copytree(unindexed, tmp_path / "out")
    column = f"{COLUMN}-standardised"
    with pytest.MonkeyPatch.context() as patch:
        set_all(patch)
        index_build.build(Store(out), column)
        before = find_codebook(Store(out), column).facts
        more = write(tmp_path / "more.txt", 100, seed=1)
        ctxbatch.run([more], out, replace(config, append=True, index=False))
        index_build.ensure(Store(out), column)
        assert find_codebook(Store(out), column).facts == before
        index_build.build(Store(out), column)
    after = find_codebook(Store(out), column).facts
    assert after.standardiser != before.standardiser
    assert after.sha256 != before.sha256
    assert not list(find_damage(out))


@pytest.mark.usefixtures("small_indexed")
@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("factory", [None, "IVF8,Flat"])
def test_no_index_is_made_of_damaged_vectors(factory, sampled, unindexed, in_parts, tmp_path):
    out = shutil.copytree(unindexed, tmp_path / "out")
    n_shards = len(Store(out).manifest.shards)
    shard = next(each for each in range(1, n_shards) if (each in sampled_shards(n_shards)) == sampled)
    words = out / "shards" / f"{shard:06d}" / "words.arrow"
    content = bytearray(words.read_bytes())
    vectors = np.ascontiguousarray(Store(out).column("contextual_2", None, [shard]).take(np.arange(1)))
    content[content.index(vectors.tobytes()) + 1] ^= 0x40
    words.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{words} is damaged: .*; make it again with `ctxbatch verify"):
        index_build.build(Store(out), COLUMN, IndexOptions(factory=factory))
    assert not facts_path(out, COLUMN).exists()
    assert repair_store(out).shards == (shard,)
    if factory is None:
        index_build.build(Store(out), COLUMN)
        assert index_digests(out) == index_digests(in_parts)


@pytest.mark.usefixtures("small_indexed")
def test_an_index_of_another_kind_has_no_parts(in_parts, tmp_path):
    out = shutil.copytree(in_parts, tmp_path / "out")
    index_build.build(Store(out), COLUMN, IndexOptions(factory="IVF16,Flat"))
    assert not (out / "index" / f"{COLUMN}.parts").exists()
    assert not list(find_damage(out))


@pytest.mark.usefixtures("small_indexed")
def test_a_build_with_other_options_that_is_stopped_leaves_the_index_that_is_there(
    in_parts, tmp_path, monkeypatch
):
    out = shutil.copytree(in_parts, tmp_path / "out")
    monkeypatch.setattr(Codebook, "ensure", stop)
    for options in (IndexOptions(memory=40 << 20), IndexOptions(factory="IVF16,Flat")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index_build, "tune_index", stop)
            with pytest.raises(KeyboardInterrupt):
                index_build.build(Store(out), COLUMN, options)
        assert not list(find_damage(out))
        assert open_index(Store(out), COLUMN) is not None


def stop(*_, **__):
    raise KeyboardInterrupt
