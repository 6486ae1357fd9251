"""Prove that a run on a Ray cluster whose nodes are killed ends with the bytes of a local run.

    python -m scripts.checks.ray_cluster CORPUS --model NAME [--kills 5] [--shard-size 100kb] [--work FOLDER]

Starts a cluster of two nodes with a CPU each on this machine (and a head that only leads them), and runs
three times: locally with two workers, on the cluster undisturbed, and on the cluster while a node is killed
with SIGKILL again and again, and another one joins after a while. Compares the checksums of all Arrow files,
and tokens per second after start-up. Says each kill on standard error, and prints JSON at the end; exit
status 1 if anything differs.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from ctxbatch.store.reader import Store
from ctxbatch.store.stats import totals
from scripts.checks.resume import digests
from scripts.command_line import Parser, positive, program, run, say, started, working_folder

# A node with an address of its own, so that no run joins the cluster through it.
MORTAL = {"num_cpus": 1, "node_ip_address": "127.0.0.2"}


def main() -> int:
    """Run the proof; returns the exit status."""
    options = parse()
    with working_folder(options.work) as work:
        facts = prove(options, work)
    print(json.dumps(facts))
    fine = facts["equal"] and not facts["shards_made_twice"] and not facts["leftovers"]
    return 0 if fine and facts["status"] == 0 and facts["kills"] == options.kills else 1


def prove(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run locally, on a cluster, and on one whose nodes are killed; returns what came of it."""
    local, undisturbed, victim = (work / name for name in ("local", "cluster", "victim"))
    for folder in (local, undisturbed, victim):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([*command(options, local), "--workers", "2"], check=True)
    expected = digests(local)
    say(f"local: {len(expected)} Arrow files, {rate(local):,.0f} tokens/s")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(**MORTAL)
        # Ray before 2.54 has a run join any node with the address of the last one: this one is not killed.
        cluster.add_node(num_cpus=0)
        on_cluster = ["--engine", "ray", "--address", cluster.address]
        subprocess.run([*command(options, undisturbed), *on_cluster], check=True)
        say(f"cluster: {rate(undisturbed):,.0f} tokens/s")
        with started([*command(options, victim), *on_cluster]) as process:
            kills = disturb(process, cluster, victim, options)
            status = process.wait()
    finally:
        cluster.shutdown()
    made = Counter(re.findall(r"shard (\d+) committed", (victim / "run.log").read_text()))
    return {
        "status": status,
        "equal": digests(undisturbed) == expected and digests(victim) == expected,
        "kills": kills,
        "shards": len(made),
        "shards_made_twice": sum(times > 1 for times in made.values()),
        "leftovers": [path.name for path in (victim / "shards").glob(".*")],
        "tokens_per_second": {"local": rate(local), "cluster": rate(undisturbed), "killed": rate(victim)},
        "cluster_to_local": round(rate(undisturbed) / rate(local), 3),
    }


def disturb(process: subprocess.Popen, cluster: Cluster, out: Path, options: argparse.Namespace) -> int:
    """Kill a node and add another, again and again; returns how often it was done before the run ended."""
    chance = random.Random(options.seed)
    before = 0
    for kill in range(options.kills):
        while n_committed(out) <= before:  # once something was committed since the last kill
            if process.poll() is not None:
                return kill
            time.sleep(0.2)
        time.sleep(chance.uniform(0, options.pause))
        if process.poll() is not None:
            return kill
        before = n_committed(out)
        nodes = [node for node in cluster.worker_nodes if node.node_ip_address == MORTAL["node_ip_address"]]
        cluster.remove_node(chance.choice(nodes), allow_graceful=False)
        say(f"killed a node, {before} shards there")
        time.sleep(chance.uniform(0, options.pause / 2))
        cluster.add_node(**MORTAL)
    return options.kills


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("corpus", help="what ctxbatch run reads")
    parser.add_model()
    parser.add_argument("--kills", type=positive, default=5, help="of nodes")
    parser.add_argument("--pause", type=float, default=20.0, help="seconds between kills, at most")
    parser.add_shard_size()
    parser.add_seed()
    parser.add_kept_work()
    return parser.parse_args()


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """Return the run, without what says where."""
    settings = ("--model", options.model, "--shard-size", options.shard_size)
    return program("run", options.corpus, "-o", out, "--quiet", "--no-index", *settings)


def n_committed(out: Path) -> int:
    """How many shards there are."""
    return len(list(out.glob("shards/[0-9]*/shard.json")))


def rate(out: Path) -> float:
    """Tokens per second, from the first shard's beginning to the last one's end."""
    return totals(Store(out)).tokens_per_second


if __name__ == "__main__":
    sys.exit(run(main))
