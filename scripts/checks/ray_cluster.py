"""Kill nodes of a Ray cluster at random moments of a run, and compare with a local run.

    python -m scripts.checks.ray_cluster CORPUS --model NAME [--kills 5] [--shard-size 100kb] [--work FOLDER]

Starts a cluster of two nodes with a CPU each on this machine (and a head that only leads them), and runs
three times: locally with two workers, on the cluster undisturbed, and on the cluster while a node is killed
with SIGKILL again and again, and another one joins after a while. Compares the checksums of all Arrow files,
and tokens per second after start-up. Prints a line per event, and JSON at the end; exit status 1 if anything
differs.
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

from ray.cluster_utils import Cluster

from ctxbatch.store.reader import Store
from ctxbatch.store.stats import totals
from scripts.checks.resume import digests


def main() -> int:
    """Run the proof; returns the exit status."""
    options = parse()
    work = Path(options.work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    local, undisturbed, victim = (work / name for name in ("local", "cluster", "victim"))
    subprocess.run([*command(options, local), "--workers", "2"], check=True)
    expected = digests(local)
    print(f"local: {len(expected)} Arrow files, {rate(local):,.0f} tokens/s", flush=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        on_cluster = ["--engine", "ray", "--address", cluster.address]
        subprocess.run([*command(options, undisturbed), *on_cluster], check=True)
        print(f"cluster: {rate(undisturbed):,.0f} tokens/s", flush=True)
        process = subprocess.Popen([*command(options, victim), *on_cluster])
        kills = disturb(process, cluster, victim, options)
        status = process.wait()
    finally:
        cluster.shutdown()
    made = Counter(re.findall(r"shard (\d+) committed", (victim / "run.log").read_text()))
    facts = {
        "equal": digests(undisturbed) == expected and digests(victim) == expected,
        "kills": kills,
        "shards": len(made),
        "shards_made_twice": sum(times > 1 for times in made.values()),
        "leftovers": [path.name for path in (victim / "shards").glob(".*")],
        "tokens_per_second": {"local": rate(local), "cluster": rate(undisturbed), "killed": rate(victim)},
        "cluster_to_local": round(rate(undisturbed) / rate(local), 3),
    }
    print(json.dumps(facts))
    fine = facts["equal"] and not facts["shards_made_twice"] and not facts["leftovers"]
    return 0 if fine and status == 0 and kills == options.kills else 1


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
        nodes = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)
        cluster.remove_node(chance.choice(nodes), allow_graceful=False)
        print(f"killed a node, {before} shards there", flush=True)
        time.sleep(chance.uniform(0, options.pause / 2))
        cluster.add_node(num_cpus=1)
    return options.kills


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds between kills, at most")
    parser.add_argument("--shard-size", default="100kb")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", default="/tmp/prove-ray")
    return parser.parse_args()


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """The run, without what says where."""
    run = [
        sys.executable,
        "-m",
        "ctxbatch.cli.main",
        "run",
        options.corpus,
        "-o",
        str(out),
        "--quiet",
        "--no-index",
    ]
    return [*run, "--model", options.model, "--shard-size", options.shard_size, "--compile", "off"]


def n_committed(out: Path) -> int:
    """How many shards there are."""
    return len(list(out.glob("shards/[0-9]*/shard.json")))


def rate(out: Path) -> float:
    """Tokens per second, from the first shard's beginning to the last one's end."""
    return totals(Store(out)).tokens_per_second


if __name__ == "__main__":
    sys.exit(main())
