"""Reads what a model's configuration and tokenizer files say, and keeps it in the user's cache.

Transformers reads them once and takes seconds; everybody after that finds the result in the cache and needs
neither transformers nor torch.
"""

import errno
import hashlib
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import CtxbatchError, InputError, ResourceError, StoreError
from ctxbatch.files import cache_folder, write_json
from ctxbatch.model.consistency import check_config, check_tokenizer, read_shapes
from ctxbatch.model.families import FAMILIES
from ctxbatch.model.hub import CONFIG, ModelFolder, find_model
from ctxbatch.model.silence import transformers_silent
from ctxbatch.sealed import canonical_json, read_json, typed
from ctxbatch.versions import version_of

log = logging.getLogger("ctxbatch")
# Without one of these transformers makes up a tokenizer to which every word is unknown.
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_BESIDE = ("tokenizer_config.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
# What torch says if it is not its allocator, but a library of CUDA or the system, that gets no memory.
_NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",
)
# Errors of the operating system that say what is wrong with a model's folder, not with this machine.
_WRONG_NAME = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's files say.

    ``longest`` is the longest input in tokens that the tokenizer allows, ``n_positions`` what the model can
    take. ``tokenizer_json`` is the serialised tokenizer, its stored truncation and padding cleared.
    """

    model_type: str
    hidden_size: int
    embedding_size: int
    n_layers: int
    n_heads: int
    n_positions: int
    pad_id: int
    longest: int
    tokenizer_json: str

    @property
    def tokenizer_digest(self) -> str:
        """The sha256 of the serialised tokenizer."""
        return hashlib.sha256(self.tokenizer_json.encode()).hexdigest()

    @property
    def longest_window(self) -> int:
        """How many tokens a window has at most, special tokens included."""
        return min(self.longest, self.longest_possible)

    @property
    def longest_possible(self) -> int:
        """How many tokens of a window the model has positions for."""
        after_pad = FAMILIES[self.model_type].first_position_after_pad
        return self.n_positions - (self.pad_id + 1 if after_pad else 0)


def read_facts(folder: ModelFolder) -> ModelFacts:
    """Return what a model's files say, checked against each other.

    Raises:
        InputError: A file is missing or damaged, does not fit the others, or is of no supported family.
        ResourceError: This machine does not let a file be read.
    """
    try:
        kept = _kept_at(folder)
        return typed(read_json(kept), ModelFacts, kept)
    except (OSError, CtxbatchError) as error:
        log.debug("%s: its files are read by transformers, as nothing is kept (%s)", folder.path, error)
    facts = _read(folder)
    try:
        kept = _kept_at(folder)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, asdict(facts))
    except (OSError, CtxbatchError) as error:
        log.debug("%s: what its files say cannot be kept (%s)", folder.path, error)
    return facts


def checked_model(config: ResolvedConfig, model: ModelFolder | None) -> ModelFolder:
    """Return the model of a configuration, its files compared with the configuration.

    Args:
        config: The resolved configuration.
        model: Where the model is; found by its name if not given.

    Raises:
        InputError: The model cannot be found.
        StoreError: Its files, its type or its sizes are not those of the configuration.
    """
    folder = model or find_model(config.model, config.revision)
    folder.check(config)
    facts = read_facts(folder)
    if facts.model_type != config.model_type:
        raise StoreError(
            f"{folder.path} is a {facts.model_type} model, but the store was made with a "
            f"{config.model_type} model"
        )
    for what, said, allowed in (
        ("hidden_size", config.hidden_size, {facts.hidden_size}),
        ("n_layers", config.n_layers, {facts.n_layers}),
        ("pad_id", config.pad_id, {facts.pad_id}),
        ("max_tokens", config.max_tokens, range(facts.longest_possible + 1)),
        ("salience_head", config.salience_head or 1, range(1, facts.n_heads + 1)),
    ):
        if said not in allowed:
            raise StoreError(
                f"the store's manifest says {what} {said}, which does not fit its model in {folder.path}: it "
                "cannot be trusted, run again with another -o"
            )
    return folder


def _kept_at(folder: ModelFolder) -> Path:
    files = [path for name in (*_TOKENIZERS, *_BESIDE) for path in sorted(folder.path.glob(name))]
    parts = {
        "weights": folder.weights_digest(),
        "config": folder.config_digest(),
        "tokenizer": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        **{name: version_of(name) for name in ("ctxbatch", "tokenizers", "transformers")},
    }
    key = hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:24]
    return cache_folder() / "models" / f"{key}.json"


def _read(folder: ModelFolder) -> ModelFacts:
    model_config = _read_model_config(folder)
    family = FAMILIES[model_config.model_type]
    tokenizer_json, longest = _read_tokenizer(folder)
    pad_id = int(model_config.pad_token_id or 0)
    try:
        check_config(model_config, family.parts, read_shapes(folder))
        check_tokenizer(Tokenizer.from_str(tokenizer_json), int(model_config.vocab_size), pad_id)
    except InputError as error:
        raise InputError(f"--model {folder.name}: {error}") from error
    hidden_size = int(model_config.hidden_size)
    return ModelFacts(
        model_type=model_config.model_type,
        hidden_size=hidden_size,
        embedding_size=int(getattr(model_config, "embedding_size", hidden_size)),
        n_layers=int(model_config.num_hidden_layers),
        n_heads=int(model_config.num_attention_heads),
        n_positions=int(model_config.max_position_embeddings),
        pad_id=pad_id,
        longest=longest,
        tokenizer_json=tokenizer_json,
    )


def _read_model_config(folder: ModelFolder) -> Any:  # noqa: ANN401 (a class per family)
    import transformers

    try:
        with transformers_silent():
            model_config = transformers.AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
        model_type = model_config.model_type
    except Exception as error:  # transformers raises of many kinds, depending on what is wrong in the file
        raise model_error(f"--model {folder.name}: {folder.path}/{CONFIG}", error) from error
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise InputError(
            f"--model {folder.name} is of type {model_type}, which is not supported: use {supported}"
        )
    return model_config


def _read_tokenizer(folder: ModelFolder) -> tuple[str, int]:
    """Return the serialised tokenizer without stored truncation and padding, and its longest input."""
    import transformers

    if not any(any(folder.path.glob(name)) for name in _TOKENIZERS):
        raise InputError(
            f"--model {folder.name}: {folder.path} holds no tokenizer ({', '.join(_TOKENIZERS)})"
        )
    try:
        with transformers_silent():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
        longest = int(min(tokenizer.model_max_length, sys.maxsize))
    except Exception as error:  # of many kinds, as above
        raise model_error(f"--model {folder.name} has no fast tokenizer", error) from error
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str(), longest


def model_error(what: str, error: Exception) -> CtxbatchError:
    """Return the error for what a library raised: an `InputError`, or the fault of this machine."""
    text = " ".join(str(error).split())
    text = text if " " in text else f"{type(error).__name__}: {text}"
    of_machine = isinstance(error, OSError) and error.errno not in (None, *_WRONG_NAME)
    kind = ResourceError if of_machine or is_out_of_memory(error) else InputError
    return kind(f"{what}: {text}")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a library had no memory: torch has a type for it on a GPU, but often only a text."""
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return True
    return any(text in str(error) for text in _NO_MEMORY)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n", 1)[0]
