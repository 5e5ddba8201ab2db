"""Intensity normalisation, bit-identical to its TensorFlow implementation in the SavedModel."""

from __future__ import annotations

import numpy as np


def zscore(volume: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """Shifts and scales a channel to mean 0 and standard deviation 1 over all voxels of another.

    Mean and population standard deviation are computed in float64 and rounded to float32. NumPy
    and the exported graph add in different orders, so their float64 sums differ in the last bits.
    After rounding they are equal, and all further operations are elementwise, so that both arrive
    at the same network input. For the same reason the result is float32, not float64: a conversion
    from float64 to float16 is rounded once by NumPy and twice by TensorFlow.

    Args:
        volume: [X, Y, Z] of any real dtype.
        reference: array of any shape that mean and deviation are computed from; `volume` if None.

    Returns:
        float32 [X, Y, Z]; zeros if the reference does not vary.
    """
    centred = np.array(volume if reference is None else reference, np.float64)
    mean = np.float64(np.float32(centred.mean()))
    centred -= mean
    deviation = np.float64(np.float32(np.sqrt(np.mean(np.square(centred)))))
    if reference is not None:
        centred = np.asarray(volume, np.float64) - mean
    if deviation == 0:
        return np.zeros(centred.shape, np.float32)
    centred /= deviation
    return centred.astype(np.float32)
