"""Runs the cache command: shows or removes what ctxbatch keeps on this machine between runs."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ctxbatch import terminal
from ctxbatch.cli.options import AsJson

# What is kept, by the name that it has in the folder.
_KINDS = {
    "graphs": "converted models",
    "models": "what models' files say",
    "rates.json": "rates of past runs",
    "remote": "unfinished shards of stores on object storage",
}


def cache(
    *,
    clear: Annotated[bool, Parameter(help="Remove everything that no run on this machine is using.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the files that ctxbatch keeps on this machine between runs. It makes them again if needed."""
    from ctxbatch.files import as_resource_error, cache_folder

    folder = cache_folder()
    if clear:
        try:
            _clear(folder)
        except OSError as error:
            raise as_resource_error(error, folder) from error
    sizes = {kind: _size([folder / kind]) for kind in _KINDS}
    if as_json:
        terminal.show([terminal.json_line({"folder": str(folder), "bytes": sizes})])
        return
    terminal.show([str(folder)])
    terminal.show(f"{_KINDS[kind]:<46} {size / 1e6:10,.1f} MB" for kind, size in sizes.items())


def _size(paths: Iterable[Path]) -> int:
    files = (file for path in paths for file in (path, *path.rglob("*")))
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def _clear(folder: Path) -> None:
    from ctxbatch.store.locks import is_locked

    (folder / "rates.json").unlink(missing_ok=True)
    for kind in ("compiled", "graphs", "models"):  # an earlier version compiled models
        shutil.rmtree(folder / kind, ignore_errors=True)
    for store in sorted((folder / "remote").glob("*")):
        if not is_locked(store):
            shutil.rmtree(store)
