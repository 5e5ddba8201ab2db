"""Intensity normalisation, bit-identical to its TensorFlow implementation in the SavedModel."""

from __future__ import annotations

import numpy as np

REGIONS = ("crop", "brain")
"""The values of --normalize: whose mean and deviation a z-score takes."""


def zscore(
    volume: np.ndarray, reference: np.ndarray | None = None, region: str = "crop"
) -> np.ndarray:
    """Shifts and scales a channel to mean 0 and standard deviation 1 over voxels of another.

    Mean and population standard deviation are computed in float64 and rounded to float32. NumPy
    and the exported graph add in different orders, so their float64 sums differ in the last bits.
    After rounding they are equal, and all further operations are elementwise, so that both arrive
    at the same network input. For the same reason the result is float32, not float64: a conversion
    from float64 to float16 is rounded once by NumPy and twice by TensorFlow.

    Args:
        volume: [X, Y, Z] of any real dtype.
        reference: array of any shape that mean and deviation are computed from; `volume` if None.
        region: "crop" for the statistics of all voxels of the reference. "brain" for those of its
            voxels that are not 0; voxels of `volume` that are 0 then stay 0.

    Returns:
        float32 [X, Y, Z]; zeros if the reference does not vary.
    """
    reference = volume if reference is None else reference
    values = np.array(reference[reference != 0] if region == "brain" else reference, np.float64)
    if not values.size:
        return np.zeros(volume.shape, np.float32)
    mean = np.float64(np.float32(values.mean()))
    values -= mean
    deviation = np.float64(np.float32(np.sqrt(np.mean(np.square(values, out=values)))))
    if deviation == 0:
        return np.zeros(volume.shape, np.float32)
    scaled = np.subtract(volume, mean, dtype=np.float64)
    scaled /= deviation
    if region == "brain":
        scaled[np.asarray(volume) == 0] = 0
    return scaled.astype(np.float32)
