"""The default index codes residuals in balanced axes, finds more by it, and is refused if damaged."""

import json

import faiss
import numpy as np
import pytest

from ctxbatch import RunConfig, StoreError
from ctxbatch.files import write_json
from ctxbatch.sealed import file_digest, read_json
from ctxbatch.search import index_build, index_choice, index_training
from ctxbatch.search.exact import normalised
from ctxbatch.search.index import Effort, IndexOptions, Proposer, ivf_in
from ctxbatch.search.index_files import open_index
from ctxbatch.search.index_training import balanced_axes, train
from tests.helpers.stores import make_store

PIECES, DIMENSION = 8, 32


@pytest.fixture(scope="module")
def rows_ND():
    """Rows in clusters, whose residuals vary in a few directions more than in others."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((20, DIMENSION)) * 2
    spread = random.standard_normal((DIMENSION, DIMENSION)) * np.geomspace(1, 0.05, DIMENSION)
    rows = centres[random.integers(20, size=4000)] + random.standard_normal((4000, DIMENSION)) @ spread.T
    return normalised(rows.astype(np.float32))


def proposer_of(factory, rows_ND):
    index = faiss.index_factory(DIMENSION, factory, faiss.METRIC_INNER_PRODUCT)
    train(index, rows_ND)
    index.add(rows_ND)
    return Proposer(index)


def proposed(proposer, queries_QD, depth):
    found = {}

    def take(first, estimates_QC, positions_QC):
        for at, (scores, positions) in enumerate(zip(estimates_QC, positions_QC, strict=True), first):
            found[at] = scores, positions

    proposer.propose(queries_QD, Effort(2.0, depth, 2.0), depth, None, take)
    return [np.stack(each) for each in zip(*(found[at] for at in sorted(found)), strict=True)]


def test_axes_are_orthonormal_and_share_the_variance_evenly(rows_ND):
    axes_DD = balanced_axes(rows_ND, PIECES)
    np.testing.assert_allclose(axes_DD @ axes_DD.T, np.eye(DIMENSION), atol=1e-5)
    logs = np.log(((rows_ND @ axes_DD.T) ** 2).mean(axis=0))
    in_pieces = logs.reshape(PIECES, -1).sum(axis=1)
    in_order = np.sort(logs).reshape(PIECES, -1).sum(axis=1)
    assert np.ptp(in_pieces) < np.ptp(in_order) / 3
    moments = rows_ND @ axes_DD.T
    moments = moments.T @ moments / len(rows_ND)
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-5)
    for rows in (np.zeros((50, 7), np.float32), rows_ND[:1]):
        assert np.isfinite(balanced_axes(rows, 1)).all()


def test_it_proposes_more_of_the_nearest_rows_than_plain_codes(rows_ND):
    queries_QD = normalised(rows_ND[::40] + np.float32(0.05))
    true_QN = queries_QD @ rows_ND.T
    nearest_QK = np.argsort(-true_QN, axis=1)[:, :10]
    recalls = []
    for factory in ("IVF16,PQ8x4fs", "OPQ8_32,IVF16,PQ8x4fsr"):
        estimates_QC, positions_QC = proposed(proposer_of(factory, rows_ND), queries_QD, 40)
        both = zip(nearest_QK, positions_QC, strict=True)
        recalls.append(np.mean([np.isin(nearest, positions).mean() for nearest, positions in both]))
        errors = np.abs(estimates_QC - np.take_along_axis(true_QN, positions_QC.astype(np.int64), 1))
        assert errors.mean() < 0.12
    assert recalls[1] > recalls[0] + 0.02


def test_the_default_index_is_rotated_and_refused_if_damaged(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    (tmp_path / "a.txt").write_text("".join(f"I want {n} cards of bank {n % 7}.\n" for n in range(150)))
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny())))
    index_build.build(store, "shift_2")
    path = store.path / "index" / "shift_2.json"
    pieces = index_choice.choices(store.n_rows, 32)[0].factory
    assert json.loads(path.read_text())["factory"] == pieces
    index = faiss.read_index(str(path.with_suffix(".faiss")))
    assert isinstance(index, faiss.IndexPreTransform)
    assert ivf_in(index).ntotal == store.n_rows
    assert open_index(store, "shift_2") is not None
    others = {
        "it holds no IVF index": faiss.IndexPreTransform(faiss.PCAMatrix(32, 8), faiss.IndexFlat(8)),
        "its rotation is none": faiss.IndexPreTransform(faiss.OPQMatrix(32, 8), ivf_in(index)),
    }
    for why, other in others.items():
        other.ntotal = store.n_rows
        file = path.with_suffix(".faiss")
        faiss.write_index(other, str(file))
        facts = {**read_json(path), "bytes": file.stat().st_size, "sha256": file_digest(file)}
        facts.pop("checksum", None)
        write_json(path, facts)
        with pytest.raises(StoreError, match=rf"shift_2.faiss is damaged \({why}\); rebuild it with"):
            open_index(store, "shift_2")


def test_every_dimension_and_memory_has_a_default_index(rows_ND):
    for dimension in (1, 2, 7, 30):
        rows = normalised(rows_ND[:1500, :dimension] + np.float32(0.01))
        index, _ = index_choice.begin(len(rows), dimension, IndexOptions())
        train(index, rows)
        index.add(rows)
        assert ivf_in(index).ntotal == len(rows)


def test_with_many_lists_a_graph_codes_nearly_all_rows_alike(rows_ND, monkeypatch):
    factory = f"OPQ{PIECES}_{DIMENSION},IVF64,PQ{PIECES}x4fsr"
    index = faiss.index_factory(DIMENSION, factory, faiss.METRIC_INNER_PRODUCT)
    train(index, rows_ND)
    assert index_training.coder_of(index) is index
    monkeypatch.setattr(index_training, "_LISTS_WITH_GRAPH", 64)
    coders = [index_training.coder_of(index) for _ in range(2)]
    codes, *with_graph = (each.sa_encode(rows_ND) for each in (index, *coders))
    np.testing.assert_array_equal(*with_graph)
    assert np.mean(np.all(codes == with_graph[0], axis=1)) > 0.97
    before = faiss.serialize_index(index)
    del coders
    np.testing.assert_array_equal(faiss.serialize_index(index), before)
