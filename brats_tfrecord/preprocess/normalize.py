"""Intensity normalisation, bit-identical to its TensorFlow implementation in the SavedModel."""

from __future__ import annotations

import numpy as np


def zscore(volume: np.ndarray) -> np.ndarray:
    """Shifts and scales a channel to mean 0 and standard deviation 1 over all its voxels.

    Mean and population standard deviation are computed in float64 and rounded to float32. NumPy
    and the exported graph add in different orders, so their float64 sums differ in the last bits.
    After rounding they are equal, and all further operations are elementwise, so that both arrive
    at the same network input. For the same reason the result is float32, not float64: a conversion
    from float64 to float16 is rounded once by NumPy and twice by TensorFlow.

    Args:
        volume: [X, Y, Z] of any real dtype.

    Returns:
        float32 [X, Y, Z]; zeros if the volume does not vary.
    """
    centred = np.array(volume, np.float64)
    centred -= np.float64(np.float32(centred.mean()))
    deviation = np.float64(np.float32(np.sqrt(np.mean(np.square(centred)))))
    if deviation == 0:
        return np.zeros(centred.shape, np.float32)
    centred /= deviation
    return centred.astype(np.float32)
