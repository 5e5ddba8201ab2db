"""Smooth random fields and level-set arithmetic on which the phantom is built.

Everything is float32 and elementwise NumPy (no BLAS, whose sums depend on the machine's
threads), so that a seed always gives the same bytes. Lengths are millimetres of a full-size head.
"""

from dataclasses import dataclass

import numpy as np

COARSE_MM = 2.0
"""Spacing of the grid on which shapes are worked out."""

_HALF_BOX_MM = ((-73, 73), (-89, 89), (-71, 72))
_CENTRE = (0.496, 0.529, 0.465)
"""Where the head's origin lies in the volume, as fractions of its shape."""
_FULL_SHAPE = (240, 240, 155)
_SPLINE_DEVIATION = 0.33
"""Standard deviation of a 3-D cubic B-spline over independent unit-normal coefficients."""


@dataclass(frozen=True)
class Grid:
    """The box that holds the brain: 2 mm for shapes, voxels for tissues.

    Attributes:
        box: three slices of the volume.
        coarse, voxels: three 1-D arrays each, head coordinates in millimetres.
    """

    box: tuple[slice, slice, slice]
    coarse: tuple[np.ndarray, np.ndarray, np.ndarray]
    voxels: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, shape):
        """The grid of a volume of `shape` (X, Y, Z); heads grow and shrink with it."""
        box, coarse, voxels = [], [], []
        for size, full, fraction, (low, high) in zip(shape, _FULL_SHAPE, _CENTRE, _HALF_BOX_MM):
            head = (np.arange(size) - fraction * size) * (full / size)
            inside = np.flatnonzero((head >= low) & (head <= high))
            box.append(slice(int(inside[0]), int(inside[-1]) + 1))
            voxels.append(head[inside].astype(np.float32))
            coarse.append(np.arange(low - 1, high + 1.5, COARSE_MM, np.float32))
        return cls(tuple(box), tuple(coarse), tuple(voxels))

    @property
    def points(self):
        """Head coordinates x, y, z of the coarse grid, broadcastable to one another."""
        return np.ix_(*self.coarse)

    def to_voxels(self, field):
        """Resamples a field of the coarse grid to the voxels of the box."""
        knots = [(float(positions[0]), COARSE_MM) for positions in self.coarse]
        return _resample(field, knots, self.voxels)

    def noise(self, rng, knot_mm, band_pass=False):
        """Smooth noise of about unit deviation on the coarse grid; see `_noise`."""
        return _noise(rng, self.coarse, knot_mm, band_pass)


def step(signed_mm, width_mm=0.5):
    """Smooth step from 0 to 1 where `signed_mm` passes 0 upwards: the partial volume effect."""
    return 0.5 + 0.5 * np.tanh(signed_mm * np.float32(0.5 / width_mm))


def clamp_below(values):
    """max(values, 0): with `hypot`, a sheet that ends where `values` turns positive."""
    return np.maximum(values, np.float32(0))


def to_distance(level, floor):
    """Turns an implicit function into a signed distance, true near its zero level.

    Args:
        level: [X, Y, Z] on the coarse grid, zero on the surface.
        floor: smallest gradient magnitude (per mm) divided by, for flat places.
    """
    squares = sum(part * part for part in np.gradient(level, COARSE_MM))
    return (level / np.sqrt(np.maximum(squares, np.float32(floor) ** 2))).astype(np.float32)


def _resample(coefficients, knots, axes):
    """Evaluates a separable cubic B-spline on a grid.

    Used without a prefilter: the curve passes near its coefficients, not through them, which
    for a field already smooth on the knots is a light blur, and for noise is all we want.

    Args:
        coefficients: float32 [I, J, K].
        knots: three (origin, spacing) pairs, where the coefficients lie on each axis.
        axes: three 1-D arrays of positions, in the units of `knots`.

    Returns:
        float32 [len(axes[0]), len(axes[1]), len(axes[2])]; constant beyond the outermost knots.
    """
    # The last axis first: the largest pass then gathers whole planes, which is fastest.
    for dimension in (2, 1, 0):
        origin, spacing = knots[dimension]
        positions = (axes[dimension] - origin) / spacing
        coefficients = _resample_axis(coefficients, dimension, positions)
    return coefficients


def _noise(rng, axes, knot_mm, band_pass):
    """Draws a smooth random field of about unit standard deviation.

    Args:
        rng: `numpy.random.Generator`.
        axes: three 1-D arrays of positions in millimetres.
        knot_mm: distance of the spline's knots; the field's blobs are about twice as wide.
        band_pass: removes the slow part, so that the zero level is a labyrinth of even width
            rather than a coastline.

    Returns:
        float32, one value for each point of the grid of `axes`.
    """
    knots = [(float(positions[0]) - 2 * knot_mm, knot_mm) for positions in axes]
    sizes = [int(np.ceil((positions[-1] - positions[0]) / knot_mm)) + 5 for positions in axes]
    coefficients = rng.standard_normal(sizes, dtype=np.float32)
    if band_pass:
        coefficients = coefficients - _neighbour_mean(coefficients)
    return _resample(coefficients, knots, axes) / np.float32(_SPLINE_DEVIATION)


def _resample_axis(coefficients, dimension, positions):
    """Cubic B-spline along one axis; `positions` are 1-D, in units of knots."""
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
        taken = np.take(coefficients, first + offset, axis=dimension, mode="clip")
        taken *= weight.reshape(broadcast)
        total = taken if total is None else np.add(total, taken, out=total)
    return total


def _neighbour_mean(values):
    """Mean over the 3x3x3 neighbourhood, wrapping at the ends."""
    for dimension in range(3):
        values = (np.roll(values, 1, dimension) + values + np.roll(values, -1, dimension)) / 3
    return values
