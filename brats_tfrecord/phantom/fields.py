"""Smooth random fields and level-set arithmetic for the phantom.

All arithmetic is elementwise NumPy in float32, without BLAS, whose sums depend on the number of
threads: a seed always gives the same bytes. Lengths are millimetres of a full-size head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from brats_tfrecord import spec

COARSE_MM = 2.0
"""Spacing of the grid on which shapes are computed."""

_HALF_BOX_MM = ((-73, 73), (-89, 89), (-71, 72))
_CENTRE = (0.496, 0.529, 0.465)
"""Position of the head's origin in the volume, as fractions of its shape."""

_SPLINE_DEVIATION = 0.33
"""Standard deviation of a 3-D cubic B-spline over independent unit-normal coefficients."""


@dataclass(frozen=True)
class Grid:
    """The two grids of the box around the brain: 2 mm for shapes, voxels for tissues.

    Attributes:
        box: three slices of the volume.
        coarse, voxels: three 1-D arrays each, head coordinates in millimetres.
    """

    box: tuple[slice, ...]
    coarse: tuple[np.ndarray, ...]
    voxels: tuple[np.ndarray, ...]

    @classmethod
    def from_shape(cls, shape: tuple[int, int, int]) -> Grid:
        """Makes the grid of a volume of `shape` (X, Y, Z); the head is scaled with the volume."""
        box, coarse, voxels = [], [], []
        for size, full, fraction, (low, high) in zip(shape, spec.BRATS_GRID, _CENTRE, _HALF_BOX_MM):
            head = (np.arange(size) - fraction * size) * (full / size)
            inside = np.flatnonzero((head >= low) & (head <= high))
            box.append(slice(int(inside[0]), int(inside[-1]) + 1))
            voxels.append(head[inside].astype(np.float32))
            coarse.append(np.arange(low - 1, high + 1.5, COARSE_MM, np.float32))
        return cls(tuple(box), tuple(coarse), tuple(voxels))

    @property
    def points(self) -> tuple[np.ndarray, ...]:
        """Head coordinates x, y, z of the coarse grid, broadcastable to one another."""
        return np.ix_(*self.coarse)

    def to_voxels(self, field: np.ndarray) -> np.ndarray:
        """Resamples a field from the coarse grid to the voxels of the box, float32 [X, Y, Z]."""
        knots = [(float(positions[0]), COARSE_MM) for positions in self.coarse]
        return _resample(field, knots, self.voxels)

    def noise(
        self, rng: np.random.Generator, knot_mm: float, band_pass: bool = False
    ) -> np.ndarray:
        """Draws a smooth random field on the coarse grid.

        Args:
            rng: source of the random numbers.
            knot_mm: spacing of the spline's knots; structures are about twice as wide.
            band_pass: whether to remove low frequencies, so that the zero level is a labyrinth of
                even width.

        Returns:
            float32 array on the coarse grid, with a standard deviation of about 1.
        """
        knots = [(float(axis[0]) - 2 * knot_mm, knot_mm) for axis in self.coarse]
        sizes = [int(np.ceil((axis[-1] - axis[0]) / knot_mm)) + 5 for axis in self.coarse]
        coefficients = rng.standard_normal(sizes, dtype=np.float32)
        if band_pass:
            coefficients = coefficients - _neighbour_mean(coefficients)
        return _resample(coefficients, knots, self.coarse) / np.float32(_SPLINE_DEVIATION)


def step(signed_mm: np.ndarray, width_mm: float = 0.5) -> np.ndarray:
    """Computes a smooth step from 0 to 1 at `signed_mm` = 0, as a partial volume effect."""
    return 0.5 + 0.5 * np.tanh(signed_mm * np.float32(0.5 / width_mm))


def clamp_below(values: np.ndarray) -> np.ndarray:
    """Computes max(values, 0).

    The `hypot` of a sheet's distance and this is the distance to the part of the sheet on which
    `values` is negative.
    """
    return np.maximum(values, np.float32(0))


def to_distance(level: np.ndarray, floor: float) -> np.ndarray:
    """Converts an implicit function to a signed distance that is exact near its zero level.

    Args:
        level: [X, Y, Z] on the coarse grid, zero on the surface.
        floor: lower bound of the gradient magnitude (per mm) in the division.
    """
    squares = sum(part * part for part in np.gradient(level, COARSE_MM))
    return (level / np.sqrt(np.maximum(squares, np.float32(floor) ** 2))).astype(np.float32)


def _resample(coefficients, knots, axes):
    """Evaluates a separable cubic B-spline on a grid.

    No prefilter is applied: the spline approximates the coefficients instead of interpolating
    them, which blurs a smooth field slightly.

    Args:
        coefficients: float32 [I, J, K].
        knots: three (origin, spacing) pairs, the positions of the coefficients on each axis.
        axes: three 1-D arrays of positions, in the units of `knots`.

    Returns:
        float32 [len(axes[0]), len(axes[1]), len(axes[2])]; constant beyond the outermost knots.
    """
    # The last axis is first, because the largest pass then gathers whole planes, which is fastest.
    for dimension in (2, 1, 0):
        origin, spacing = knots[dimension]
        positions = (axes[dimension] - origin) / spacing
        coefficients = _resample_axis(coefficients, dimension, positions)
    return coefficients


def _resample_axis(coefficients, dimension, positions):
    """Evaluates the spline along one axis; `positions` are 1-D, in units of knots."""
    first = np.floor(positions).astype(np.int64)
    t = (positions - first).astype(np.float32)
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    broadcast = [1, 1, 1]
    broadcast[dimension] = -1
    total = None
    for offset, weight in enumerate(weights, start=-1):
        term = np.take(coefficients, first + offset, axis=dimension, mode="clip")
        term *= weight.reshape(broadcast)
        total = term if total is None else np.add(total, term, out=total)
    return total


def _neighbour_mean(values):
    """Computes the mean over the 3x3x3 neighbourhood, wrapping around at the ends."""
    for dimension in range(3):
        values = (np.roll(values, 1, dimension) + values + np.roll(values, -1, dimension)) / 3
    return values
