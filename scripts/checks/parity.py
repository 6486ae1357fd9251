"""Prove that a store holds the vectors of a slow oracle, value by value, and measure bf16 beside fp32.

    python -m scripts.checks.parity CORPUS --model NAME [--limit 500]

Prints JSON: the largest excess of stored values over 1e-4 + rounding (0 or less is a pass), and the mean
cosines of a bf16 run to the fp32 run.
"""

import json
import sys
import tempfile
from pathlib import Path

import ctxbatch
from ctxbatch.model.hub import find_model
from scripts.command_line import Parser, positive, run, say
from tests.helpers.oracle import Oracle
from tests.helpers.parity import compare, mean_cosine


def main() -> int:
    """Run the proof; returns the exit status."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("corpus", help="what ctxbatch run reads")
    parser.add_model()
    parser.add_argument("--limit", type=positive, default=500, help="records to take")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        stores = {}
        for precision in ("fp32", "bf16"):
            say(f"encoding in {precision}")
            config = ctxbatch.RunConfig(
                model=options.model,
                shift="log_ratio",
                precision=precision,
                limit=options.limit,
                index=False,
            )
            ctxbatch.run(options.corpus, Path(work) / precision, config)
            stores[precision] = ctxbatch.open(Path(work) / precision)
        say("comparing with the oracle")
        facts = compare(stores["fp32"], Oracle(find_model(options.model, None).path))
        for on in ("contextual", "shift"):
            facts[f"bf16_cosine_{on}"] = round(mean_cosine(stores["fp32"], stores["bf16"], on), 6)
    facts["pass"] = facts["excess"] <= 0 and facts["shift_excess"] <= 0
    print(json.dumps(facts))
    return 0 if facts["pass"] else 1


if __name__ == "__main__":
    sys.exit(run(main))
