"""What the evaluations share: texts through the package, and the vectors of marked words in them.

Array names end in the letters of their shape: K marked words, D hidden size. Imports nothing heavy at the
top, so that mistakes in files are told at once.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import ctxbatch
from ctxbatch.model.shift import SHIFTS

if TYPE_CHECKING:
    from ctxbatch.store.reader import Store

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Span = tuple[int, int]


def encode(texts: Sequence[str], work: Path, model: str, **options: Any) -> "MarkedWords":  # noqa: ANN401
    """Run the package over texts, each taken as one sentence, with static and contextual of all layers.

    Args:
        texts: The texts.
        work: A folder for the texts and the store.
        model: The model's name or folder.
        options: Further options of `ctxbatch.RunConfig`.

    Raises:
        CtxbatchError: As `ctxbatch.run` does.
    """
    source = work / "sentences.jsonl"  # one record a text, whatever line ends a text has
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="ascii")
    config = ctxbatch.RunConfig(
        model=model,
        layers="all",
        vectors=("static", "contextual"),
        split="none",
        dtype="float32",
        index=False,
        **options,
    )
    ctxbatch.run(source, work / "store", config, quiet=False)
    return MarkedWords(ctxbatch.open(work / "store"))


class MarkedWords:
    """The rows of a store whose records are whole sentences, by their place in a record's text."""

    def __init__(self, store: "Store") -> None:
        self.store = store
        words = store.words.to_table(columns=["sentence_id", "char_start", "char_end", "n_pieces"])
        sentences = store.sentences.to_table(columns=["sentence_id", "record", "char_start"])
        ids = words["sentence_id"].to_numpy()
        of_word = np.searchsorted(sentences["sentence_id"].to_numpy(), ids)
        lead = sentences["char_start"].to_numpy()[of_word]  # a text's own white space is stripped
        self._record = sentences["record"].to_numpy()[of_word]
        self._start = words["char_start"].to_numpy() + lead
        self._end = words["char_end"].to_numpy() + lead
        self._n_pieces = words["n_pieces"].to_numpy()

    def rows(self, record: int, span: Span) -> Ints:
        """Return the positions of the rows that overlap a span of a record's text; none if none does."""
        first, end = np.searchsorted(self._record, [record, record + 1])
        inside = (self._start[first:end] < span[1]) & (self._end[first:end] > span[0])
        return first + np.flatnonzero(inside)

    def vectors(self, column: str, rows: Sequence[Ints]) -> Floats:
        """Return the mean vector of each marked word, (K, D), over all wordpieces of all its rows.

        A row is the mean of its wordpieces, so rows are weighted by how many they have. Every marked
        word must have a row.
        """
        flat = np.concatenate(rows)
        firsts = np.cumsum([0, *map(len, rows[:-1])])
        weights = self._n_pieces[flat].astype(np.float32)
        sums_KD = np.add.reduceat(
            self.store.column(column).take(flat) * weights[:, None], firsts, axis=0, dtype=np.float32
        )
        return sums_KD / np.add.reduceat(weights, firsts)[:, None]


def shift(name: str, contextual_KD: Floats, static_KD: Floats, **parameters: float) -> Floats:
    """Return a shift of `ctxbatch.model.shift.SHIFTS`, from vectors that are pooled already."""
    function: Callable[..., Floats] = SHIFTS[name]
    return function(contextual_KD, static_KD, np, **parameters)


def cosines(first_KD: Floats, second_KD: Floats) -> Floats:
    """Return the cosine of every pair, (K,); 0 where a vector is zero."""
    first_KD, second_KD = first_KD.astype(np.float64), second_KD.astype(np.float64)
    norms = np.linalg.norm(first_KD, axis=1) * np.linalg.norm(second_KD, axis=1)
    dots = np.einsum("kd,kd->k", first_KD, second_KD)
    return np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
