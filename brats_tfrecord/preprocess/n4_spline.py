"""Cubic B-splines on voxel grids, fitted and evaluated as products with one matrix per axis.

A control lattice with m spans per axis has m + 3 control points per axis. Voxel i of an axis of n
voxels has the parameter i / (n - 1) * m, independent of its spacing (Lee, Wolberg & Shin 1997).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brats_tfrecord.boxes import bounding_box

ALL = slice(None)


class LevelFit:
    """Fits splines of one mesh to values at the voxels of one mask.

    Holds everything that is constant within a level. For a control point c with the weight w_c at
    each voxel, Lee's rule computes sum(w_c^2 * (w_c z / sum_c w_c^2)) / sum(w_c^2) over the voxels
    of the mask. With w = wx wy wz, the first sum is a product with wx^3 / sum(wx^2) along each
    axis, and the second sum a product with wx^2. The second sum depends only on the mask.

    Attributes:
        lattice_shape: shape of the control lattice, (spans + 3,) * 3.
    """

    def __init__(self, mask: np.ndarray, spans: int):
        """Prepares the fit to the true voxels of bool `mask` [X, Y, Z], with `spans` per axis."""
        box = bounding_box(mask)
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

    def lattice(self, values: np.ndarray) -> np.ndarray:
        """Fits control points [m + 3] * 3 to `values` float64 [N], one per voxel of the mask."""
        self._grid.put(self._inside, values)
        return _product(self._grid, self._numerator) / self._weight

    def values(self, lattice: np.ndarray) -> np.ndarray:
        """Evaluates the spline of `lattice` at the voxels of the mask, float64 [N]."""
        return _product(lattice, self._bases).take(self._inside)


def evaluate(
    lattices: Sequence[np.ndarray], shape: Sequence[int], box: Sequence[slice]
) -> np.ndarray:
    """Evaluates the sum of the splines of `lattices` in a box of a grid.

    Args:
        lattices: control lattices, each [m + 3] * 3 with its own m.
        shape: (X, Y, Z) of the grid, which the splines span.
        box: slice per axis, the part of the grid to evaluate.

    Returns:
        float32 array of the box's shape.
    """
    rows, columns = [], []
    for lattice in lattices:
        x, y, z = (basis(n, m - 3, part) for n, m, part in zip(shape, lattice.shape, box))
        plane = np.tensordot(x, np.tensordot(y, lattice, axes=(1, 1)), axes=(1, 1))
        rows.append(plane)
        columns.append(z)
    # One product for all levels: the sum over levels is a sum along the stacked z axes.
    stacked = np.concatenate(rows, axis=2).astype(np.float32)
    return stacked @ np.concatenate(columns, axis=1).astype(np.float32).T


def basis(length: int, spans: int, part: slice = ALL) -> np.ndarray:
    """Computes the weights of the control points of a cubic B-spline at the voxels of one axis.

    Args:
        length: number of voxels of the whole axis.
        spans: number of polynomial pieces of the axis.
        part: voxels to compute the weights for.

    Returns:
        float64 [voxels of part, spans + 3]; every row sums to one.
    """
    parameter = np.arange(length)[part] * (spans / max(length - 1, 1))
    # The last voxel lies on the end of the last span and belongs to that span.
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


def _product(array, matrices):
    """Contracts axis k of `array` [a, b, c] with the rows of matrices[k]; returns [A, B, C].

    The contiguous axis is contracted first if the product shrinks it and later if it grows. Every
    step is a matrix product of arrays without a change of their memory layout.
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
