"""Names for numpy arrays by what they hold; a comment or a name's last letters say their shape."""

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
# Stored vectors, half or single precision.
Vectors = npt.NDArray[Any]
