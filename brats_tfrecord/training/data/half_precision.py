"""Conversion between float16 and float32, which NumPy casts slowly."""

import numpy as np

FLOAT16 = np.dtype("<f2")
ALL_FLOAT16 = np.arange(2**16, dtype="<u2").view(FLOAT16).astype(np.float32)
"""The float16 value of each bit pattern."""

_REBIAS = np.float32(2.0**-112)
"""Changes the exponent's bias of float32, 127, to that of float16, 15."""


def to_float32(voxels: np.ndarray) -> np.ndarray:
    """Copies float16 or float32 [X, ...] to a float32 array."""
    if voxels.dtype != FLOAT16:
        return voxels.astype(np.float32)
    out = np.empty(voxels.shape, np.float32)
    for plane, bits in zip(out, voxels.view("<u2")):
        ALL_FLOAT16.take(bits, out=plane, mode="clip")
    return out


def to_float16(values: np.ndarray) -> np.ndarray:
    """Rounds float32 values to the nearest float16, and ties to even, as NumPy does.

    Values of 65,536 or more in magnitude, infinities and NaNs give wrong numbers.
    """
    bits = (values * _REBIAS).view("<u4")
    # Half of the last place that remains, less one unless that place is odd.
    rounding = bits >> 13
    rounding &= 1
    rounding += 0xFFF
    sign = bits >> 16
    sign &= 0x8000
    bits += rounding
    bits >>= 13
    bits |= sign
    # The bits that are dropped are a copy of the sign, and the first three of the exponent, 0.
    return bits.astype("<u2").view(FLOAT16)
