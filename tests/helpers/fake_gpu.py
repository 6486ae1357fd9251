"""Runs whole batches on a GPU that computes nothing: ``python -m tests.helpers.fake_gpu FAMILY FOLDER …``.

Its tensors have shapes, types and a device, but no values. torch raises where tensors of two devices meet,
and where the host would wait for a value. In a process of its own, because torch can be given such a device
only for good. Prints JSON: type and shape of what each batch brought back, for each of the possible
`OPTIONS` of each family; and what torch says where a batch stays on the host.
"""

import json
import sys
from unittest import mock

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from ctxbatch.corpus.records import Record
from ctxbatch.model import resolve
from ctxbatch.model.encoder import Encoder, WordModel
from ctxbatch.model.facts import checked_model
from ctxbatch.model.families import FAMILIES
from ctxbatch.model.gpus import Gpu
from ctxbatch.model.transfers import CpuTransfers
from ctxbatch.run_config import RunConfig
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.sentences import Sentence
from tests.helpers.models import TEXT

# The first is packed where the family can be.
OPTIONS = [
    {"precision": "bf16"},
    {"precision": "fp16", "pool": "first", "dtype": "float32", "shift": "difference"},
    {"precision": "bf16", "layers": "all", "shift": "asinh", "static": "lookup"},
    {"precision": "fp32", "layers": (1,), "vectors": ("contextual",), "pool": "none"},
    {"precision": "bf16", "salience": True, "salience_head": 2, "dtype": "int8"},
    {"precision": "bf16", "top_salient": 2, "layers": "all"},
    {"precision": "fp16", "top_salient": 1, "pool": "first", "salience_layer": 1},
]
PACKED_FAMILIES = [name for name, family in FAMILIES.items() if family.shows_attention]
# Tokens per batch: a few batches of several lines each, as every operation takes a millisecond without a GPU.
FAKE_BUDGET = 250
_SALIENCE = {"salience", "top_salient"}


def is_possible(family, options):
    if family == "mpnet" and _SALIENCE & options.keys():
        return False
    return not (family == "electra" and options.get("static") == "lookup")


class FakeGpu(CpuTransfers):
    """Copies to a fake GPU, and notes what is brought back."""

    ahead = 1

    def __init__(self, name):
        self.mode = FakeTensorMode()
        self.device = torch.device(name, 0)
        self.fetched = []

    def take(self, module):
        """Put a model on the GPU; `nn.Module.to` cannot."""
        for part in module.modules():
            for name, tensor in list(part.named_parameters(recurse=False)):
                part._parameters[name] = nn.Parameter(self.put(tensor), requires_grad=False)
            for name, tensor in list(part.named_buffers(recurse=False)):
                part._buffers[name] = self.put(tensor)

    def put(self, array):
        host = torch.as_tensor(array)
        with self.mode:
            return torch.empty(host.shape, dtype=host.dtype, device=self.device)

    def fetch(self, found):
        assert all(tensor.device == self.device for tensor in found)
        self.fetched.append([[str(tensor.dtype), list(tensor.shape)] for tensor in found])
        return lambda: [None] * len(found)


def batches_of(config, budget=100):
    maker = BatchMaker(resolve.read_tokenizer(config), config)
    lines = [line for line in TEXT.splitlines() if line]
    sentences = [Sentence(Record(0, n, None, None, line), 0, line) for n, line in enumerate(lines)]
    return [each for buffer in maker.buffers(sentences) for each in maker.batches(buffer, budget)]


def configured(folder, options):
    """Resolve options as for a GPU; the very first of them as for one from Ampere on."""
    gpu = Gpu("cuda:0", "fake", bf16=True, packs=options == OPTIONS[0], free_bytes=1 << 40)
    with mock.patch.object(resolve, "facts_of", lambda _device: gpu):
        return resolve.resolve(RunConfig(model=str(folder), **options), "cuda:0")


def packing_encoder(config):
    """Return an encoder on the CPU whose batches are packed, which they are on GPUs alone."""
    encoder = Encoder(config, "cpu")
    encoder._model = WordModel(config, checked_model(config, None), packed=True)
    return encoder


def on_fake_gpu(folder, options):
    """Return the encoder of a model on a fake GPU, that GPU, and batches."""
    config = configured(folder, options)
    encoder = packing_encoder(config) if config.packed else Encoder(config, "cpu")
    gpu = FakeGpu("fakegpu")
    gpu.take(encoder._model)
    encoder._transfers = gpu
    return encoder, gpu, batches_of(config, FAKE_BUDGET)


def main():
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # not in old torch

    _setup_privateuseone_for_python_backend("fakegpu")
    models = list(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    fetched = {family: [] for family, _ in models}
    for family, folder in models:
        for options in OPTIONS:
            if not is_possible(family, options):
                continue
            encoder, gpu, batches = on_fake_gpu(folder, options)
            with gpu.mode:
                assert len(list(encoder.encode(batches))) == len(batches) > 1
            fetched[family].append(gpu.fetched)
    print(json.dumps({"fetched": fetched, "left behind": what_is_left_behind(models[0][1])}))


def what_is_left_behind(folder):
    """Leave a batch on the host, and return what torch says."""
    encoder, gpu, batches = on_fake_gpu(folder, OPTIONS[0])
    gpu.put = lambda array: gpu.mode.from_tensor(torch.as_tensor(array))
    try:
        with gpu.mode:
            list(encoder.encode(batches))
    except RuntimeError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
