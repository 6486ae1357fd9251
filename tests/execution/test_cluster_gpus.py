"""On a Ray cluster with GPUs several workers share each, as on one machine."""

import pytest
from ray.cluster_utils import Cluster

import ctxbatch
from ctxbatch import InputError, RunConfig
from ctxbatch.execution import run_plan
from ctxbatch.execution.engines import RayEngine
from ctxbatch.execution.ray_cluster import Share, connected, places
from ctxbatch.execution.ray_pool import RayPool
from tests.helpers.stores import arrow_digests


@pytest.fixture(scope="module")
def cluster():
    """Two nodes that are said to have a GPU each, one of them with fewer CPUs, and a head that leads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "2")
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


def test_places_are_those_that_cpus_and_parts_of_gpus_give(cluster):
    with connected(cluster.address):
        assert [places(Share.of_gpu(n)) for n in (1, 2, 3, 7)] == [2, 4, 5, 5]
        assert places(Share()) == 5
    assert [Share.of_gpu(n).gpus for n in (1, 2, 3, 6)] == [1, 0.5, 0.3333, 0.1666]
    assert [Share.of_gpu(2).kind, Share().kind] == ["GPU", "CPU"]


@pytest.mark.parametrize(("asked", "expected"), [(None, 4), (2, 2)])
def test_workers_fill_all_gpus_and_make_the_bytes_of_a_local_run(
    asked, expected, cluster, tiny, long_text, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_plan, "RayEngine", CpuEngine)
    started = []
    start = RayPool._start
    monkeypatch.setattr(RayPool, "_start", lambda pool: started.append(pool) or start(pool))
    text = long_text(600)
    config = {"model": str(tiny()), "shard_size": 5_000, "index": False, "workers": asked}
    ctxbatch.run(text, tmp_path / "out", RunConfig(**config, engine="ray", address=cluster.address))
    assert len(started) == expected
    ctxbatch.run(text, tmp_path / "local", RunConfig(**{**config, "workers": 1}))
    assert arrow_digests(tmp_path / "out") == arrow_digests(tmp_path / "local")


def test_a_gpu_that_torch_cannot_use_is_told_with_the_machine(cluster, tiny, long_text, tmp_path):
    config = RunConfig(model=str(tiny()), engine="ray", address=cluster.address)
    with pytest.raises(InputError, match="has a GPU for Ray and not for torch: --devices cuda:0: "):
        ctxbatch.run(long_text(100), tmp_path / "out", config)
