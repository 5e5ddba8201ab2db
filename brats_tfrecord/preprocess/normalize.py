"""Intensity normalisation with float64 statistics."""

import numpy as np


def zscore(volume):
    """Shifts and scales one channel to mean 0 and standard deviation 1 over all its voxels.

    Mean and (population) deviation are float64, and so is the quotient: then the exported graph,
    which computes the same in float64, rounds to the same network input bit for bit.

    Args:
        volume: [X, Y, Z] of any real dtype.

    Returns:
        float64 [X, Y, Z]; zeros if the volume does not vary.
    """
    centred = np.asarray(volume, np.float64)
    centred = centred - centred.mean()
    deviation = np.sqrt(np.mean(np.square(centred)))
    return centred / deviation if deviation > 0 else np.zeros_like(centred)
