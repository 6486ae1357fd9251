"""Windows without padding: what packing promises, with a slow attention in place of a GPU's."""

import importlib
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.mpnet.modeling_mpnet import create_position_ids_from_input_ids

import ctxbatch
from ctxbatch.errors import StoreError
from ctxbatch.execution.engines import LocalEngine
from ctxbatch.model import packing
from ctxbatch.model.encoder import Encoder
from ctxbatch.model.resolve import resolve
from ctxbatch.run_config import RunConfig
from tests.helpers.fake_gpu import PACKED_FAMILIES, batches_of, packing_encoder
from tests.helpers.stores import arrow_digests

needs_attention = pytest.mark.skipif(not packing.is_in_torch(), reason="torch before 2.11")


def attend_slowly(query, key, value, ends, _ends, longest, _longest, *, scale, window_size=(-1, -1)):
    """Attend window by window, each with a matrix of scores."""
    found = torch.full_like(query, torch.nan)
    for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert end - begin <= longest
        places = torch.arange(end - begin)
        scores = torch.einsum("qhe,khe->hqk", query[begin:end], key[begin:end]) * scale
        if window_size != (-1, -1):
            left, right = window_size
            distance = places[None, :] - places[:, None]
            scores = scores.masked_fill((distance < -left) | (distance > right), -torch.inf)
        found[begin:end] = torch.einsum("hqk,khe->qhe", scores.softmax(2), value[begin:end])
    return found


def attend_short_ones_slowly(query, key, value, _bias, *given, scale):
    """Attend as torch's function for short windows is asked to: without dropout, and without a mask."""
    bounds, rest = given[:4], given[4:]
    assert rest == (0.0, 0)
    assert bounds[2] <= packing.SHORT
    return attend_slowly(query[0], key[0], value[0], *bounds, scale=scale)[None], None


@needs_attention
@pytest.mark.parametrize("family", PACKED_FAMILIES)
@pytest.mark.parametrize(("pool", "short"), [("mean", 0), ("mean", 9), ("first", 12), ("none", 64)])
def test_packed_windows_give_the_vectors_of_padded_ones(family, pool, short, tiny, monkeypatch):
    varlen = importlib.import_module("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", attend_slowly)
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", attend_short_ones_slowly)
    monkeypatch.setattr(packing, "SHORT", short)
    given = {"precision": "fp32", "dtype": "float32", "layers": "all", "shift": "difference", "pool": pool}
    config = replace(resolve(RunConfig(model=str(tiny(family)), **given), "cpu"), shared_sequences=False)
    batches = batches_of(config)
    assert any((batch.lengths_V < batch.input_ids_BT.shape[1]).any() for batch in batches)
    padded, packed = Encoder(config, "cpu"), packing_encoder(config)
    for one, other in zip(padded.encode(batches), packed.encode(batches), strict=True):
        assert np.abs(one.vectors_CRD - other.vectors_CRD).max() < 5e-4
        assert (one.finite_R == other.finite_R).all()


@needs_attention
def test_torchs_attention_takes_what_it_is_given():
    """The tests put a slow one in its place, and torch 2.10 has one of other arguments."""
    real = inspect.signature(importlib.import_module("torch.nn.attention.varlen").varlen_attn)
    query = key = value = ends = torch.zeros(1)
    real.bind(query, key, value, ends, ends, 1, 1, scale=1.0, window_size=(-1, -1))


@pytest.mark.parametrize(("version", "is_in"), [("2.6.0", False), ("2.10.0+cu130", False), ("2.11.0", True)])
def test_windows_are_packed_with_a_torch_whose_attention_takes_a_scale(version, is_in, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert packing.runs_on("cuda:0") is is_in


@needs_attention
@pytest.mark.parametrize(("capability", "runs"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_windows_are_packed_on_gpus_from_ampere_on(capability, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert packing.runs_on("cuda:0") is runs
    assert not packing.runs_on("cpu")


@pytest.mark.parametrize("short", [0, 9, 64])
def test_packed_tokens_are_those_of_the_windows_in_order(short, tiny, monkeypatch):
    monkeypatch.setattr(packing, "SHORT", short)
    config = replace(resolve(RunConfig(model=str(tiny())), "cpu"), shared_sequences=False)
    for batch in batches_of(config):
        packed = packing.pack(batch)
        windows = [ids[:length] for ids, length in zip(batch.input_ids_BT, batch.lengths_V, strict=True)]
        assert (packed.ids_S == np.concatenate(windows)).all()
        assert (packed.places_S == np.concatenate([np.arange(len(each)) for each in windows])).all()
        assert (np.concatenate([np.diff(part.ends) for part in packed.parts]) == batch.lengths_V).all()
        assert [part.longest > short for part in packed.parts] in ([True], [True, False], [False])
        bounds = [0, *(part.tokens.stop for part in packed.parts)]
        assert [part.tokens.start for part in packed.parts] == bounds[:-1]
        assert bounds[-1] == len(packed.ids_S)
        assert (packed.ids_S[packed.positions_M] == batch.input_ids_BT.ravel()[batch.positions_M]).all()


def test_positions_leave_out_the_padding_token_also_where_text_holds_it():
    windows = [np.array(ids) for ids in ([0, 5, 1, 6, 2], [0, 1, 2])]
    places_S = np.concatenate([np.arange(len(each)) for each in windows])
    packed = packing.Packed(np.concatenate(windows), places_S, [], np.zeros(0, int))
    ids = [torch.tensor(each)[None] for each in windows]
    expected = torch.cat([create_position_ids_from_input_ids(each, 1)[0] for each in ids])
    assert packed.positions(1).tolist() == expected.tolist()
    assert packed.positions(None).tolist() == places_S.tolist()


@pytest.mark.parametrize("budget", [60, 100, 1000])
def test_packed_batches_are_of_nearly_equal_size_whatever_their_padding(budget, tiny):
    config = replace(resolve(RunConfig(model=str(tiny())), "cpu"), packed=True)
    batches = batches_of(config, budget)
    sizes = [int(batch.lengths_V.sum()) for batch in batches]
    longest = max(int(batch.lengths_V.max()) for batch in batches)
    assert max(sizes) < budget + longest
    assert max(sizes) - min(sizes) < 2 * longest
    assert len(sizes) >= sum(sizes) / budget


def test_a_store_that_was_started_packed_is_finished_where_windows_cannot_be_packed(
    tiny, text, tmp_path, monkeypatch
):
    resolve_here = LocalEngine.resolve

    def resolve_packed(engine, config):
        return replace(resolve_here(engine, config), packed=True, tokens_per_batch=70)

    config = RunConfig(model=str(tiny()), shard_size=300, index=False)
    with monkeypatch.context() as on_a_newer_gpu:
        on_a_newer_gpu.setattr(LocalEngine, "resolve", resolve_packed)
        ctxbatch.run(text, tmp_path / "out", config)
    before = arrow_digests(tmp_path / "out")
    for file in (tmp_path / "out" / "shards" / "000001").iterdir():
        file.unlink()
    ctxbatch.run(text, tmp_path / "out", config)
    assert arrow_digests(tmp_path / "out") == before
    with pytest.raises(StoreError, match="was made with --tokens-per-batch 70"):
        ctxbatch.run(text, tmp_path / "out", replace(config, tokens_per_batch=80))
