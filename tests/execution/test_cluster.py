"""A run on a Ray cluster has the bytes of a local one, whatever dies on the way."""

import logging
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest
from ray.cluster_utils import Cluster

from ctxbatch import InputError, RunConfig
from ctxbatch.execution.messages import Committed, GivenUp, Retried
from ctxbatch.execution.ray_cluster import as_own_error, connected
from ctxbatch.execution.scheduler import Dispatch
from ctxbatch.store.commits import Counts
from ctxbatch.store.locks import is_locked
from tests.helpers.running import committed, start, wait_for
from tests.helpers.stores import arrow_digests

N_LINES = 6_000
# A node with an address of its own, so that no run joins the cluster through it.
MORTAL = {"num_cpus": 1, "node_ip_address": "127.0.0.2"}
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    CLIENT_PORT = probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(server):  # noqa: ARG001 (its address is to be in the environment of the nodes)
    """Two nodes with a CPU each, and a head that only leads them."""
    head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": CLIENT_PORT}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**MORTAL)
    # Ray before 2.54 has a run join any node with the address of the last one, and no test removes this one.
    cluster.add_node(num_cpus=0)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def local(tiny, long_text):
    """The arguments of a local run."""
    corpus = long_text(N_LINES)

    def build(out, *more):
        return ["run", corpus, "-o", out, "--model", tiny(), "--shard-size", "10000", "--no-index", *more]

    return build


@pytest.fixture(scope="module")
def ray(local, cluster):
    """The arguments of the same run on the cluster."""

    def build(out, *more, address=None):
        return local(out, "--engine", "ray", "--address", address or cluster.address, *more)

    return build


@pytest.fixture(scope="module")
def reference(local, cli, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "out"
    result = cli(*local(out, "--workers", "2"))
    assert result.returncode == 0, result.stderr
    return out


def commits_in_log(out):
    return Counter(re.findall(r"shard (\d+) committed", (out / "run.log").read_text()))


def test_nodes_die_and_join_and_the_bytes_are_those_of_a_local_run(ray, cluster, reference, tmp_path):
    """The small version of scripts/checks/ray_cluster.py: of two nodes one dies, then both."""
    out, chance = tmp_path / "out", random.Random(4)

    def kill():
        nodes = [node for node in cluster.worker_nodes if node.node_ip_address == MORTAL["node_ip_address"]]
        cluster.remove_node(chance.choice(nodes), allow_graceful=False)

    def wait_for_more(n_shards):
        goal = committed(out) + n_shards
        wait_for(lambda: committed(out) >= goal, process)
        time.sleep(chance.uniform(0, 0.5))

    process = start(*ray(out))
    wait_for_more(chance.randint(1, 6))
    kill()
    wait_for_more(3)
    before = len((out / "run.log").read_text())
    kill()
    assert process.poll() is None, "the run is over before the last node dies"
    wait_for(lambda: "waiting for the cluster" in (out / "run.log").read_text()[before:], process)
    cluster.add_node(**MORTAL)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "running it again" in errors
    assert re.search(r"waiting for the cluster: \d of its \d CPUs are free", errors)
    assert "raylet" not in errors.lower()
    assert arrow_digests(out) == arrow_digests(reference)
    assert set(commits_in_log(out).values()) == {1}
    assert len(commits_in_log(out)) == committed(reference)
    assert not list(out.glob("shards/.*"))


def test_a_run_whose_own_node_dies_says_so_and_ends(tiny, long_text, tmp_path):
    """Ray starts nothing any more for a process whose node is dead, though others may be free."""
    # A text so long that its workers, which outlive their node a little, do not finish it.
    corpus, out = long_text(10 * N_LINES), tmp_path / "out"
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        on_cluster = ("--engine", "ray", "--address", cluster.address)
        process = start("run", corpus, "-o", out, "--model", tiny(), "--shard-size", "10000", *on_cluster)
        wait_for(lambda: committed(out) > 1, process)
        cluster.head_node.kill_raylet()
        _, errors = process.communicate()
    finally:
        cluster.shutdown()
    assert process.returncode == 4, errors
    assert "through which this run has joined the cluster, has died" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_cluster_and_parts_append_what_a_local_run_appends(ray, local, reference, tmp_path, cli):
    more = tmp_path / "more.txt"
    more.write_text("".join(f"The bank of river {n} wants an apple.\n" for n in range(900)))
    runs = {
        "local": [local("local", "--append", more)],
        "cluster": [ray("cluster", "--append", more)],
        "parts": [local("parts", "--append", "--shard-range", f"{n}/3", more) for n in (2, 1, 3)],
    }
    for name, commands in runs.items():
        shutil.copytree(reference, tmp_path / name)
        for command in commands:
            done = cli(*(tmp_path / name if part == name else part for part in command))
            assert done.returncode == 0, done.stderr
    expected = arrow_digests(tmp_path / "local")
    assert committed(tmp_path / "local") > committed(reference) + 2
    assert arrow_digests(tmp_path / "cluster") == arrow_digests(tmp_path / "parts") == expected


# Ray's own server of a client dies now and then as it starts, where the machine is busy.
@pytest.mark.parametrize("port", [None, pytest.param(CLIENT_PORT, marks=pytest.mark.slow)])
def test_a_driver_may_end_in_any_way_and_both_engines_go_on(port, ray, local, reference, tmp_path, cli):
    out = tmp_path / "out"
    before = {}
    address = port and f"ray://127.0.0.1:{port}"
    for signum, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        goal = committed(out) + 3
        process = start(*ray(out, address=address))
        wait_for(lambda goal=goal: committed(out) >= goal, process)
        os.kill(process.pid, signum)
        _, errors = process.communicate()
        assert process.returncode == status, errors
        if signum != signal.SIGKILL:
            stopped = f"ctxbatch: stopped by {signum.name}; what is committed is kept"
            assert errors.splitlines()[-1].startswith(stopped)
            assert "Traceback" not in errors
            assert not list(out.glob("shards/.*"))
        assert not is_locked(out)
        time.sleep(1)  # Ray's own time to end the actors of a driver that was killed
        now = {path: path.stat().st_mtime_ns for path in out.glob("shards/[0-9]*/shard.json")}
        assert before.items() <= now.items()
        before = now
    result = cli(*local(out, "--workers", "2"))
    assert result.returncode == 0, result.stderr
    assert f"resuming: {len(before)} of" in result.stderr
    assert arrow_digests(out) == arrow_digests(reference)
    assert set(commits_in_log(out).values()) == {1}


def test_workers_write_to_object_storage_by_themselves(ray, local, bucket, tmp_path, cli):
    url, few = f"{bucket({})}/out", ("--limit", 400)
    result = cli(*ray(url, *few))
    assert result.returncode == 0, result.stderr
    assert cli("pull", url, tmp_path / "copy").returncode == 0
    assert cli(*local(tmp_path / "out", *few)).returncode == 0
    assert len(arrow_digests(tmp_path / "out")) > 4
    assert arrow_digests(tmp_path / "copy") == arrow_digests(tmp_path / "out")


def test_mistakes_are_told_in_one_line(local, ray, tmp_path, cli):
    for arguments, message in (
        (ray(tmp_path / "out", "--model", "nomodel"), r"--model nomodel: .*"),
        (
            local(tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1"),
            r"--address 127.0.0.1:1: no Ray cluster can be joined \(.*refused\): start one .*",
        ),
    ):
        result = cli(*arguments)
        assert result.returncode == 2
        waits = r"(ctxbatch: waiting for an answer of the cluster: .*\n)*"  # a node may be slow to import
        assert re.fullmatch(rf"{waits}ctxbatch: {message}\n", result.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ray_says", "we_say"),
    [
        (
            "Version mismatch: The cluster has:\n    Ray: 1\nThis has:\n    Ray: 2\n",
            "Version mismatch: .* Ray: 2",
        ),
        ('no answer: Traceback:\n  File "x"\nRuntimeError: It died. See a log.\n', "RuntimeError: It died"),
    ],
)
def test_what_ray_says_stands_in_one_line(ray_says, we_say, cluster, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(ray_says)

    monkeypatch.setattr("ray.init", fail)
    with (
        pytest.raises(InputError, match=rf"can be joined \({we_say}\): start one"),
        connected(cluster.address),
    ):
        pass


def test_what_ray_says_goes_to_the_log_while_a_connection_lasts(cluster, caplog, capfd):
    from ray._private import worker

    def state():
        log = logging.getLogger("ray")
        return worker.print_worker_logs, log.handlers[:], log.propagate, signal.getsignal(signal.SIGTERM)

    before = state()
    with caplog.at_level("DEBUG", "ctxbatch"), connected(cluster.address):
        assert worker.print_worker_logs is not before[0]
        logging.getLogger("ray.somewhere").warning("something is so")
        worker.print_worker_logs({"lines": ["a node has died", "details"]}, sys.stdout, True)
    assert state() == before
    said = [message for message in caplog.messages if message.startswith("Ray says")]
    assert said == ["Ray says: something is so", "Ray says: a node has died"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "dask"}, "--engine 'dask' is not one of local, ray"),
        ({"address": "auto"}, "--address cannot be used with --engine local"),
        ({"engine": "ray", "devices": ("cpu",)}, "--devices cannot be used with --engine ray"),
        ({"engine": "ray", "address": "somewhere"}, "--address 'somewhere' must be auto, HOST:PORT or ray:"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RunConfig(**options)


# --- without a cluster ----------------------------------------------------------------------------


def in_a_process(code, *arguments):
    command = [
        sys.executable,
        "-c",
        f"import sys, time\nfrom ctxbatch.execution import messages, ray_worker\n{code}",
    ]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_a_worker_that_does_not_see_the_store_says_what_is_needed(tmp_path):
    code = """
worker = ray_worker.RayWorker(ray_worker.Path(sys.argv[1]) / "out", sys.argv[1], "cpu")
news = []
while not news or not isinstance(news[-1], messages.Stopped):
    news += worker.news()
print(news[-1].message)
"""
    result = in_a_process(code, tmp_path)
    assert re.search(r"cannot see .*/out: put it on a file system that all", result.stdout)


def test_a_worker_that_nobody_asks_for_news_ends(tmp_path):
    code = """
ray_worker._ALONE_SECONDS = 1.0
ray_worker.RayWorker(ray_worker.Path(sys.argv[1]) / "out", sys.argv[1], "cpu")
time.sleep(60)
"""
    begin = time.monotonic()
    assert in_a_process(code, tmp_path).returncode == 1
    assert time.monotonic() - begin < 30


def test_the_last_shards_are_for_workers_that_have_nothing_to_do():
    dispatch = Dispatch(range(4), (), math.inf)
    assert dispatch.next([], 2).shard == 0
    assert dispatch.next([0], 2).shard == 1  # read ahead
    assert dispatch.next([0, 1], 2) is None
    assert dispatch.next([], 2).shard == 2
    assert dispatch.next([2], 2) is None
    assert dispatch.next([], 2).shard == 3


def test_a_shard_that_failed_runs_alone_and_is_given_up_after_three_times():
    dispatch = Dispatch([7, 8, 9], (), math.inf)

    def next_shard(*running):
        job = dispatch.next(running, 1)
        return job and job.shard

    assert [next_shard(), next_shard(7)] == [7, 8]
    assert list(dispatch.lost([7, 8])) == [Retried(7), Retried(8)]
    assert next_shard() == 9
    assert next_shard(9) is None  # 7 is next, and waits for a worker that has nothing
    dispatch.heard(Committed(9, Counts()))
    for what_follows in (Retried(7), GivenUp(7, "its worker died three times")):
        assert next_shard() == 7
        assert next_shard(7) is None
        assert list(dispatch.lost([7])) == [what_follows]
        assert next_shard() == 8
        assert next_shard(8) is None
        if what_follows == Retried(7):
            assert list(dispatch.lost([8])) == [Retried(8)]
    dispatch.heard(Committed(8, Counts()))
    assert not dispatch
    assert dispatch.given_up == [7]


@pytest.mark.parametrize(
    ("last", "remedy"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "use fewer --workers"),
        ("ModuleNotFoundError: No module named 'ctxbatch'", "install the same version of ctxbatch"),
    ],
)
def test_what_nodes_lack_is_told_with_a_remedy_for_it(last, remedy):
    said = str(as_own_error(RuntimeError(f"Traceback (most recent call last):\n  File 1\n{last}\n")))
    assert said.startswith(f"the cluster's nodes cannot work ({last}): ")
    assert remedy in said
    assert "\n" not in said
