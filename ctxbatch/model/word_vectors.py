"""What an encoder gives back for a batch, whatever ran it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


class OutOfMemoryError(Exception):
    """The device has no memory for a batch of this size."""


@dataclass(frozen=True, slots=True)
class WordVectors:
    """The vectors of a batch's rows, in ``config.value_type`` and the order of ``config.columns``.

    Letters of shapes: C vector columns, N rows of the batch, R rows that are kept, D hidden size.
    ``finite_R`` is false where some stored value of the row is NaN or infinite. ``salience_N`` is there if
    the configuration asks for it. ``kept_R`` says which rows of the batch the vectors are of, where only the
    most salient of each sentence are; ``None`` says all.
    """

    vectors_CRD: npt.NDArray[Any]
    finite_R: npt.NDArray[np.bool_]
    salience_N: npt.NDArray[np.float32] | None = None
    kept_R: npt.NDArray[np.int64] | None = None
