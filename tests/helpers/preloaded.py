"""Imports what a worker imports, in the process that `tests.helpers.forked_workers` forks."""

import gc
import importlib

from ctxbatch.arrays import leave_pandas_out

leave_pandas_out()
for _name in ("execution.worker", "execution.pipeline", "model.cpu_encoder", "model.openvino_model"):
    importlib.import_module(f"ctxbatch.{_name}")
importlib.import_module("ctxbatch.model.graphs").import_openvino()
importlib.import_module("tests.helpers.first_uses").make()
gc.freeze()
