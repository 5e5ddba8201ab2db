"""Conversion of float16 to float32, which NumPy casts slowly."""

import numpy as np

FLOAT16 = np.dtype("<f2")
ALL_FLOAT16 = np.arange(2**16, dtype="<u2").view(FLOAT16).astype(np.float32)
"""The float16 value of each bit pattern."""


def to_float32(voxels: np.ndarray) -> np.ndarray:
    """Copies float16 or float32 [X, ...] to a float32 array."""
    if voxels.dtype != FLOAT16:
        return voxels.astype(np.float32)
    out = np.empty(voxels.shape, np.float32)
    for plane, bits in zip(out, voxels.view("<u2")):
        ALL_FLOAT16.take(bits, out=plane, mode="clip")
    return out
