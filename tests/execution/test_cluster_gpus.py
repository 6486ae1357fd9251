"""On a Ray cluster with GPUs several workers share each, as on one machine."""

import pytest
import torch
from ray.cluster_utils import Cluster

import ctxbatch
from ctxbatch import InputError, RunConfig
from ctxbatch.execution import engines, ray_cluster, run_plan
from ctxbatch.execution.engines import RayEngine, workers_on_each_gpu
from ctxbatch.execution.ray_cluster import Share, connected, places
from ctxbatch.execution.ray_pool import RayPool
from ctxbatch.execution.ray_worker import workers_here
from tests.helpers.stores import arrow_digests


@pytest.fixture(scope="module")
def cluster():
    """Two nodes that are said to have a GPU each, one of them with fewer CPUs, and a head that leads them."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for n_cpus in (2, 3):
        cluster.add_node(num_cpus=n_cpus, num_gpus=1)
    yield cluster
    cluster.shutdown()


class CpuEngine(RayEngine):
    """Computes on CPUs in the places that GPUs give."""

    def __init__(self, workers: int | None = None) -> None:
        super().__init__(workers)
        assert self._device == "cuda:0"
        self._device = "cpu"


def ask(function, *arguments, share):
    """Have room for four workers on a GPU, whatever machine this is."""
    found = ray_cluster.ask_node(function, *arguments, share=share)
    assert found >= 1 if function is workers_here else found.model
    return 4 if function is workers_here else found


@pytest.mark.parametrize(
    ("nodes", "n_workers", "expected"),
    [
        ([(16, 1)], 90, 8),
        ([(16, 1)], 5, 5),
        ([(16, 4)], 90, 4),
        ([(16, 4)], 7, 1),  # two on one GPU would be none on another
        ([(16, 4)], 3, 1),
        ([(64, 8), (64, 8)], 86, 5),
        ([(16, 2), (64, 1)], 90, 8),
        ([(0, 1), (16, 1)], 90, 8),  # a node without CPUs has no place
        ([(8, 0), (16, 1)], 90, 8),
        ([(2, 1), (16, 1)], 90, 2),
        ([], 90, 8),  # they have left, and others may come
    ],
)
def test_all_gpus_have_as_many_workers(nodes, n_workers, expected):
    resources = [{"CPU": float(cpus), "GPU": float(gpus), "memory": 1e9} for cpus, gpus in nodes]
    found = workers_on_each_gpu(resources, 8, n_workers)
    assert found == expected
    n_gpus = sum(gpus for cpus, gpus in nodes if cpus)
    assert found == 1 or found * n_gpus <= n_workers


def test_places_are_those_that_cpus_and_parts_of_gpus_give(cluster):
    with connected(cluster.address):
        assert [places(Share.of_gpu(n)) for n in (1, 2, 3, 7)] == [2, 4, 5, 5]
        assert places(Share()) == 5
    assert [Share.of_gpu(n).gpus for n in (1, 2, 3, 6)] == [1, 0.5, 0.3333, 0.1666]
    assert [Share.of_gpu(2).kind, Share().kind] == ["GPU", "CPU"]


@pytest.mark.parametrize(("asked", "expected"), [(None, 4), (3, 3)])
def test_workers_fill_all_gpus_and_make_the_bytes_of_a_local_run(
    asked, expected, cluster, tiny, long_text, tmp_path, monkeypatch
):
    started = []
    start = RayPool._start
    monkeypatch.setattr(RayPool, "_start", lambda pool: started.append(pool._share) or start(pool))
    monkeypatch.setattr(run_plan, "RayEngine", CpuEngine)
    monkeypatch.setattr(engines, "ask_node", ask)
    text = long_text(600)
    config = {"model": str(tiny()), "shard_size": 5_000, "index": False, "workers": asked}
    ctxbatch.run(text, tmp_path / "out", RunConfig(**config, engine="ray", address=cluster.address))
    assert started == [Share(0.5 if asked is None else 1.0)] * expected
    ctxbatch.run(text, tmp_path / "local", RunConfig(**{**config, "workers": 1}))
    assert arrow_digests(tmp_path / "out") == arrow_digests(tmp_path / "local")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that torch can use")
def test_a_gpu_that_torch_cannot_use_is_told_with_the_machine(cluster, tiny, long_text, tmp_path):
    config = RunConfig(model=str(tiny()), engine="ray", address=cluster.address)
    message = r"has a GPU for Ray, but none for torch \(.*\): install a torch for it, or start the node with"
    with pytest.raises(InputError, match=message):
        ctxbatch.run(long_text(100), tmp_path / "out", config)
