"""Importing ctxbatch changes nothing of the process that imports it, and using it nothing that lasts."""

import csv
import json
import logging
import os
import pkgutil
import subprocess
import sys

import pytest
import transformers

import ctxbatch
from ctxbatch import RunConfig
from ctxbatch.corpus.records import Record
from ctxbatch.model.encoder import Encoder
from ctxbatch.model.resolve import resolve
from tests.helpers.corpora import as_delimited, read_all, reading_of

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ctxbatch.__path__, "ctxbatch.")
    if not module.name.endswith("__main__")
)
# What other libraries do to a process when they are imported is theirs, and is done before.
IMPORTS = """
import csv, cyclopts, importlib, json, logging, os, signal, sys, warnings
import faiss, joblib, matplotlib.pyplot, numpy, pyarrow.compute, pyarrow.dataset, ray, sklearn.cluster
import threadpoolctl, tokenizers, torch, tqdm, transformers
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import AutoConfig, AutoModel, AutoTokenizer

def state():
    logs = [logging.getLogger(name) for name in (None, "ctxbatch", "transformers", "ray", "py.warnings")]
    bars = [transformers.utils.logging.is_progress_bar_enabled(), are_progress_bars_disabled()]
    signals = [each for each in signal.valid_signals() if isinstance(each, signal.Signals)]
    return {
        "longest field of CSV": csv.field_size_limit(),
        "logs": {log.name: [log.level, repr(log.handlers), log.propagate] for log in logs},
        "warnings": [repr(each) for each in warnings.filters],
        "progress bars": bars,
        "signals": {each.name: repr(signal.getsignal(each)) for each in signals},
        "environment": dict(os.environ),
        "hooks": [repr(sys.excepthook), repr(sys.unraisablehook), repr(sys.displayhook)],
        "threads of torch": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "threads of others": [faiss.omp_get_max_threads(), pyarrow.cpu_count(), pyarrow.io_thread_count()],
        "types of torch": [str(torch.get_default_dtype()), torch.is_grad_enabled()],
        "cores": sorted(os.sched_getaffinity(0)),
        "path": sys.path,
        "folder": os.getcwd(),
        "printing by Ray": repr(ray._private.worker.print_worker_logs),
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
print(json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]}))
"""


def test_importing_every_module_changes_nothing_of_the_process():
    assert {"ctxbatch.model.resolve", "ctxbatch.corpus.raw_records", "ctxbatch.cli.main"} <= {*MODULES}
    usual = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *MODULES], env=usual, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {}


@pytest.fixture
def usual_limit():
    """A limit of the length of fields that is not the one that reading takes."""
    before = csv.field_size_limit(1000)
    yield 1000
    csv.field_size_limit(before)


def test_reading_csv_takes_long_fields_and_leaves_the_limit_of_the_process_alone(tmp_path, usual_limit):
    long = "word " * 50_000
    (tmp_path / "a.csv").write_bytes(as_delimited(["short", long, "short"], ","))
    _, _, items = read_all([tmp_path])
    assert [item.text for item in items] == ["short", long, "short"]
    assert csv.field_size_limit() == usual_limit
    _, _, items = reading_of([tmp_path])
    assert isinstance(next(items), Record)
    assert csv.field_size_limit() == usual_limit  # nor while somebody has read a part
    with pytest.raises(csv.Error, match="field limit"):
        list(csv.reader([long]))


def test_reading_a_model_says_nothing_and_leaves_transformers_as_it_was(tiny, capfd):
    model, log = tiny(), logging.getLogger("transformers")
    capfd.readouterr()  # of making it
    before = (log.level, transformers.utils.logging.is_progress_bar_enabled())
    set_hook = getattr(transformers.utils.logging, "set_tqdm_hook", lambda _: None)  # there from 5.4 on
    hook = set_hook(None)
    Encoder(resolve(RunConfig(model=str(model)), "cpu"), "cpu")
    assert capfd.readouterr() == ("", "")
    assert (log.level, transformers.utils.logging.is_progress_bar_enabled()) == before
    assert set_hook(hook) is None
