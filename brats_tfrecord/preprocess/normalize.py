"""Intensity normalisation that two implementations agree on bit for bit."""

import numpy as np


def zscore(volume):
    """Shifts and scales one channel to mean 0 and standard deviation 1 over all its voxels.

    Mean and (population) deviation are summed in float64 and rounded to float32. NumPy and the
    exported graph add in different orders, so their float64 sums differ in the last bits; rounded,
    they are equal, and all that follows is one operation a voxel: both sides arrive at the same
    network input. For the same reason half precision is reached from float32: from float64 NumPy
    rounds once and TensorFlow twice.

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
