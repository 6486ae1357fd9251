"""Names the types of numpy arrays. A comment or a variable's last letters give the shape."""

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
# Stored vectors, half or single precision.
Vectors = npt.NDArray[Any]
