"""Says what a person should know about standardised vectors of a store."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ctxbatch.errors import shortened
from ctxbatch.formulas import plain

if TYPE_CHECKING:
    from ctxbatch.store.reader import Store

log = logging.getLogger("ctxbatch")


def tell_standardised(store: "Store", columns: Iterable[str]) -> None:
    """Log whose rows standardise these columns, and which dimensions stay unscaled; nothing of plain ones."""
    names = [plain(column) for column in columns if plain(column) != column]
    if names and store.config.kept is not None:
        log.info("%s keeps only %s: these rows standardise its vectors", store.path, store.config.kept)
    for name in names:
        if still := store.moments.of(name).standardiser().still:
            numbers = shortened(map(str, still), 8)
            log.info("%s: dimensions %s of %s hardly vary: not scaled", store.path, numbers, name)
