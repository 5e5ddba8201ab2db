"""Sampling of a patch at any positions of a box: the image trilinear, the mask nearest.

Both are sampled at the same positions, block by block, so that what a block needs stays in the
processor's cache. All channels of a voxel are fetched at once.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

BLOCK = 2**15
"""Voxels that are sampled at once, or one plane of the patch if it has more: fewer hold the
interpreter lock more often, and the buffers of more do not stay in the processor's cache."""

_CACHE_LINE = 64


def sample(
    image_box: np.ndarray,
    mask_box: np.ndarray,
    positions: Callable[[slice, np.ndarray], None],
    image: np.ndarray,
    mask: np.ndarray,
) -> None:
    """Fills a patch with samples of a box.

    Args:
        image_box: float32 or float64 [A, B, C, K], contiguous; its dtype is that of the
            computation. Channels that `image` does not have are ignored.
        mask_box: packed mask uint8 [A, B, C], contiguous.
        positions: function (slice of x, array [3, x, Y, Z] of that dtype) that fills the array with
            the positions of these planes of the patch in the box, in voxels. Outside of the box,
            the nearest voxel of its border is sampled.
        image: float16 or float32 [X, Y, Z, channels], which is filled.
        mask: uint8 [X, Y, Z], which is filled.
    """
    planes = min(len(mask), max(1, BLOCK // (mask.shape[1] * mask.shape[2])))
    sample_block = _BlockSampler(image_box, mask_box, (planes, *mask.shape[1:]))
    for first in range(0, len(mask), planes):
        block = slice(first, min(first + planes, len(mask)))
        sample_block(functools.partial(positions, block), image[block], mask[block])


class _BlockSampler:
    """Function (positions of a block, image, mask) that fills both."""

    def __init__(self, image_box, mask_box, block_shape):
        extents = np.reshape(mask_box.shape, (3, 1, 1, 1))
        self._shape = mask_box.shape
        self._last = (extents - 1).astype(image_box.dtype)
        self._last_floor = np.maximum(extents - 2, 0).astype(image_box.dtype)
        strides = (self._shape[1] * self._shape[2], self._shape[2], 1)
        # An axis of a single voxel has no neighbour.
        self._strides = [s if n > 1 else 0 for s, n in zip(strides, self._shape)]
        channels = image_box.shape[3]
        self._voxels = image_box.view(f"V{channels * image_box.itemsize}").reshape(-1)
        self._labels = mask_box.reshape(-1)
        dtype = image_box.dtype
        self._position, self._floor = _separate_arrays(2, (3, *block_shape), dtype)
        arrays = _separate_arrays(7, (*block_shape, channels), dtype)
        self._corners, self._fractions = arrays[:4], arrays[4:]

    def __call__(self, positions, image, mask):
        n = len(mask)
        position, floor = self._position[:, :n], self._floor[:, :n]
        positions(position)
        np.maximum(position, 0, out=position)
        np.minimum(position, self._last, out=position)
        np.floor(position, out=floor)
        np.minimum(floor, self._last_floor, out=floor)
        index = self._flat_index(floor)
        np.subtract(position, floor, out=floor)
        for fraction, values in zip(self._fractions, floor):
            for channel in range(fraction.shape[3]):
                fraction[:n, ..., channel] = values
        self._interpolate(index, 0, 0)
        # float64 is rounded twice, as in earlier versions, which sampled into float32.
        values = self._corners[0][:n, ..., : image.shape[3]]
        image[...] = values.astype(np.float32, copy=False)
        position += 0.5
        mask[...] = self._labels.take(self._flat_index(position))

    def _interpolate(self, index, axis, buffer):
        """Fills a buffer with values at `index`, interpolated along `axis` and those after it."""
        n, low = len(index), self._corners[buffer]
        if axis == 3:
            out = low[:n].view(self._voxels.dtype)[..., 0]
            self._voxels.take(index, out=out, mode="clip")
            return
        high = self._corners[buffer + 1]
        self._interpolate(index, axis + 1, buffer)
        self._interpolate(index + self._strides[axis], axis + 1, buffer + 1)
        high -= low
        high *= self._fractions[axis]
        low += high

    def _flat_index(self, position):
        """Returns the indices of the voxels that hold positions of 0 or more, intp [x, Y, Z]."""
        x, y, z = position.astype(np.int32)
        x *= self._shape[1]
        x += y
        x *= self._shape[2]
        x += z
        return x.astype(np.intp)


def _separate_arrays(count: int, shape: Sequence[int], dtype: np.dtype) -> list[np.ndarray]:
    """Allocates arrays whose addresses differ modulo 4096 bytes.

    Processors mistake a load and a store at equal offsets within their pages for the same address
    and wait, which makes arithmetic on such arrays four times as slow.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    step = -(-size // 4096) * 4096 + 5 * _CACHE_LINE
    memory = np.zeros(count * step, np.uint8)
    return [memory[n * step :][:size].view(dtype).reshape(shape) for n in range(count)]
