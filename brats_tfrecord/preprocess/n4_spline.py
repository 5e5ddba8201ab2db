"""Cubic B-splines on voxel grids: fit and evaluation as products of one matrix an axis.

A control lattice with m spans an axis has m + 3 control points an axis. Voxel i of an axis of
n voxels lies at parameter i / (n - 1) * m, whatever its spacing (Lee, Wolberg & Shin 1997).
"""

import numpy as np

ALL = slice(None)


class LevelFit:
    """The fit of one mesh to the voxels of one mask, with all that stays constant in a level.

    For a control point c with weight w_c at each voxel, Lee's rule takes
    sum(w_c^2 * (w_c z / sum_c w_c^2)) / sum(w_c^2) over the voxels of the mask. With
    w = wx wy wz the first sum is a product with wx^3 / sum(wx^2) an axis, the second one with
    wx^2; the second depends on the mask alone.
    """

    def __init__(self, mask, spans):
        """Prepares the fit to the true voxels of `mask` [X, Y, Z] with `spans` spans an axis."""
        box = tuple(_extent(mask, axis) for axis in range(3))
        bases = [basis(n, spans, part) for n, part in zip(mask.shape, box)]
        squares = [base**2 for base in bases]
        self.lattice_shape = (spans + 3,) * 3
        inside = mask[box]
        self._inside = np.flatnonzero(inside)
        self._bases = [np.ascontiguousarray(base.T) for base in bases]
        self._numerator = [
            base**3 / square.sum(axis=1, keepdims=True) for base, square in zip(bases, squares)
        ]
        weight = _product(inside.astype(np.float64), squares)
        self._weight = np.where(weight > 0, weight, np.inf)
        self._grid = np.zeros(inside.shape)

    def lattice(self, values):
        """Control points [m + 3] * 3 fitted to `values` float64 [N], one a voxel of the mask."""
        self._grid.put(self._inside, values)
        return _product(self._grid, self._numerator) / self._weight

    def values(self, lattice):
        """The spline of `lattice` at the mask's voxels, float64 [N]."""
        return _product(lattice, self._bases).take(self._inside)


def evaluate(lattices, shape, box):
    """Sums the splines of `lattices` over a part of a full grid.

    Args:
        lattices: control lattices, each [m + 3] * 3 with its own m.
        shape: (X, Y, Z) of the whole grid, which the splines span.
        box: three slices, the part to evaluate.

    Returns:
        float32 array of the box's shape.
    """
    rows, columns = [], []
    for lattice in lattices:
        x, y, z = (basis(n, m - 3, part) for n, m, part in zip(shape, lattice.shape, box))
        plane = np.tensordot(x, np.tensordot(y, lattice, axes=(1, 1)), axes=(1, 1))
        rows.append(plane)
        columns.append(z)
    # One product for all levels: the sum over levels is the sum over their stacked z axes.
    stacked = np.concatenate(rows, axis=2).astype(np.float32)
    return stacked @ np.concatenate(columns, axis=1).astype(np.float32).T


def basis(length, spans, part=ALL):
    """Weights of the cubic B-spline's control points at the voxels of one axis.

    Args:
        length: voxels of the whole axis.
        spans: polynomial pieces the axis is cut into.
        part: the voxels wanted.

    Returns:
        float64 [voxels of part, spans + 3]; every row sums to one.
    """
    parameter = np.arange(length)[part] * (spans / max(length - 1, 1))
    # The last voxel lies on the end of the last span, where it still belongs to that span.
    span = np.minimum(parameter.astype(np.intp), spans - 1)
    t = parameter - span
    pieces = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    weights = np.zeros((t.size, spans + 3))
    for shift, piece in enumerate(pieces):
        weights[np.arange(t.size), span + shift] = piece
    return weights


def _extent(mask, axis):
    used = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    return slice(int(used[0]), int(used[-1]) + 1)


def _product(array, matrices):
    """Contracts axis k of `array` [a, b, c] with the rows of matrices[k]: [A, B, C].

    The long axis goes first where the product shrinks and last where it grows; every step is a
    plain matrix product of arrays as they lie in memory.
    """
    x, y, z = matrices
    a, b, c = array.shape
    if c >= z.shape[1]:
        array = (array.reshape(a * b, c) @ z).reshape(a, b, -1)
        array = y.T @ array
        return (x.T @ array.reshape(a, -1)).reshape(x.shape[1], y.shape[1], -1)
    array = (x.T @ array.reshape(a, b * c)).reshape(-1, b, c)
    array = (array.reshape(-1, c) @ z).reshape(-1, b, z.shape[1])
    return y.T @ array
