"""Makes the int8 model of a store: calibrates it with text of the corpus, and checks how close it is to fp32.

Owns which text calibrates and which is held out, and when a model is refused.
"""

import itertools
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctxbatch.config import INT8_LAYERS, ResolvedConfig
from ctxbatch.corpus.sample import sample_source, spread
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.errors import InputError, StoreError
from ctxbatch.execution.run_plan import RunPlan
from ctxbatch.model.fidelity import Fidelity, compare
from ctxbatch.store.int8_layers import find_layers, layers_names, place_layers
from ctxbatch.store.manifest import Manifest
from ctxbatch.text.batching import BatchMaker, TokenBatch
from ctxbatch.text.sentences import Sentence, split_sentences

log = logging.getLogger("ctxbatch")
_CALIBRATING, _HELD_OUT = 128, 384
_SOURCES, _SAMPLE_BYTES, _MIN_BYTES_A_SOURCE = 32, 1 << 19, 16 << 10
_SEED = 0
# Below this share of kept neighbours a search answers with other words.
_WORTH = 0.9


def with_int8_layers(plan: RunPlan, manifest: Manifest) -> Manifest:
    """Quantise the model for a new store; return its manifest with the layers' checksum and their fidelity.

    Raises:
        InputError: nncf is missing or cannot quantise the model, or int8 keeps too few neighbours.
    """
    drawn = _drawn_sentences(manifest)
    digest = _make_layers(plan, manifest.config, drawn)
    config = replace(manifest.config, digests={**manifest.config.digests, INT8_LAYERS: digest})
    fidelity = _fidelity(plan, config, drawn[_CALIBRATING:] or drawn)
    if fidelity is None:
        log.warning("int8: the corpus has too little text to measure how close int8 is to fp32")
    else:
        log.info("int8: %s", fidelity)
        if fidelity.worst < _WORTH and not plan.choices.force:
            raise InputError(
                f"--precision int8 keeps only {fidelity.worst:.0%} of the nearest neighbours that "
                f"{config.model} finds in fp32: use another --precision, or start anyway with --force"
            )
    return replace(manifest, config=config, fidelity=fidelity)


def restore_int8_layers(plan: RunPlan, manifest: Manifest) -> None:
    """Make a store's int8 layers again if they are missing or damaged.

    Raises:
        StoreError: This machine makes others than those of the store.
    """
    if manifest.config.precision != "int8":
        return
    plan.location.fetch_files(layers_names(manifest.config.digests[INT8_LAYERS]))
    try:
        find_layers(plan.location.folder, manifest.config)
    except StoreError:
        made = _make_layers(plan, manifest.config, _drawn_sentences(manifest))
        if made != manifest.config.digests[INT8_LAYERS]:
            raise StoreError(
                f"{plan.location.out}: the int8 layers of the model are missing, and this machine makes "
                "others: run again with another -o"
            ) from None


def _make_layers(plan: RunPlan, config: ResolvedConfig, drawn: Sequence[Sentence]) -> str:
    from ctxbatch.model.graphs import find_graphs
    from ctxbatch.model.hub import find_model
    from ctxbatch.model.openvino_model import outputs_of
    from ctxbatch.model.quantisation import check_nncf, quantise

    check_nncf()
    log.info("quantising %s to int8 with text of the corpus: takes seconds to minutes", config.model)
    graphs = find_graphs(find_model(config.model, config.revision))
    windows = [batch.input_ids_BT[0] for batch in _batches(_measured(config), drawn[:_CALIBRATING], budget=1)]
    with tempfile.TemporaryDirectory(prefix="ctxbatch-") as scratch:
        made = quantise(graphs, outputs_of(config), windows, Path(scratch))
        digest = place_layers(plan.location.folder, made)
    plan.location.publish_files(layers_names(digest))
    return digest


def _fidelity(plan: RunPlan, config: ResolvedConfig, sentences: Sequence[Sentence]) -> Fidelity | None:
    from ctxbatch.model.encoders import open_encoder

    measured = _measured(config)
    batches = _batches(measured, sentences)
    layers = find_layers(plan.location.folder, config)
    fp32 = open_encoder(replace(measured, precision="fp32"), "cpu")
    int8 = open_encoder(measured, "cpu", int8_layers=layers)
    return compare(measured.layers[0], fp32.encode(batches), int8.encode(batches)) if batches else None


def _measured(config: ResolvedConfig) -> ResolvedConfig:
    """Return a configuration with all words' contextual vectors and differences of one layer."""
    return replace(
        config,
        layers=config.layers[:1],
        vectors=("contextual", "shift"),
        static="embeddings",
        shift="difference",
        floor=None,
        delta=None,
        pool="mean",
        salience_layer=None,
        salience_head=None,
        words=None,
        sample=None,
        top_salient=None,
        dtype="float32",
    )


def _batches(
    config: ResolvedConfig, sentences: Sequence[Sentence], budget: int | None = None
) -> list[TokenBatch]:
    from ctxbatch.model.resolve import read_tokenizer

    maker = BatchMaker(read_tokenizer(config), config)
    return [batch for buffer in maker.buffers(sentences) for batch in maker.batches(buffer, budget)]


# --- the sentences --------------------------------------------------------------------------------


def _drawn_sentences(manifest: Manifest) -> list[Sentence]:
    """Draw sentences from all over the corpus, the same ones for the same plan."""
    config, reading = manifest.config, manifest.reading
    sources = spread([source for source in manifest.sources if source.size], _SOURCES)
    budget = max(_MIN_BYTES_A_SOURCE, _SAMPLE_BYTES // max(1, len(sources)))
    found = list(itertools.chain.from_iterable(_sentences(each, reading, config, budget) for each in sources))
    chosen = np.random.default_rng(_SEED).permutation(len(found))[: _CALIBRATING + _HELD_OUT]
    return [found[number] for number in chosen.tolist()]


def _sentences(source: Source, reading: Reading, config: ResolvedConfig, budget: int) -> list[Sentence]:
    records = sample_source(source, reading, budget).records
    lang, rules = config.lang, config.sentence_rules
    return [sentence for record in records for sentence in split_sentences(record, lang, rules)]
