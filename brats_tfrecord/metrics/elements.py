"""Distances between surface elements, weighted by their area, in millimetres.

This is the definition of DeepMind's surface-distance (Nikolov et al. 2021, J Med Internet Res
23(7):e26151), which the official code of BraTS 2023 uses for HD95. A surface element lies at every
corner that is shared by eight voxels of which some, but not all, are in the mask; everything
outside the array is background. Its area is that of the surface which marching cubes (Lorensen and
Cline 1987) draws between the centres of these eight voxels. Distances run from an element to the
nearest element of the other mask.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics.nearest import nearest_distances, within_distances

_CORNERS = tuple(itertools.product((0, 1), repeat=3))
"""Positions (x, y, z) of the eight voxels around an element; voxel n has bit n of its code."""

_LOWEST_BITS = np.uint64(0x0101010101010101)
_GATHER = np.uint64(sum(1 << 56 - 7 * byte for byte in range(8)))
"""Factor that moves bit 8 n to bit 56 + n, for n from 0 to 7."""


@dataclass(frozen=True)
class ElementDistances:
    """The surface elements of one structure, float64 1-D arrays.

    Attributes:
        truth_to_prediction, prediction_to_truth: distance in mm of every element to the nearest
            element of the other mask.
        truth_mm2, prediction_mm2: areas of the elements in mm², in the same orders.
    """

    truth_to_prediction: np.ndarray
    prediction_to_truth: np.ndarray
    truth_mm2: np.ndarray
    prediction_mm2: np.ndarray


def element_distances(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]
) -> ElementDistances:
    """Computes the distances between the surface elements of two masks.

    Args:
        truth, prediction: bool [X, Y, Z] of one shape, neither empty.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Raises:
        ValueError: a mask is empty and has no surface.
    """
    distances = structure_elements(truth.view(np.uint8), prediction.view(np.uint8), spacing_mm)
    if not distances:
        raise ValueError("an empty mask has no surface; expected two masks that are not empty")
    return distances[1]


def structure_elements(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]
) -> dict[int, ElementDistances]:
    """Computes the distances between surface elements of up to eight structures in one pass.

    Args:
        truth, prediction: uint8 codes [X, Y, Z] of one shape: bit b is the mask of structure b.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        {1 << b: `ElementDistances`} of the structures that are empty in neither mask.
    """
    truth, prediction = _padded(truth, prediction)
    truth_elements, prediction_elements = _elements(truth), _elements(prediction)
    from_truth = nearest_distances(truth_elements, prediction_elements, spacing_mm)
    from_prediction = nearest_distances(prediction_elements, truth_elements, spacing_mm)
    truth_mm2 = _areas(truth, truth_elements, from_truth, spacing_mm)
    prediction_mm2 = _areas(prediction, prediction_elements, from_truth, spacing_mm)
    return {
        bit: ElementDistances(
            from_truth[bit], from_prediction[bit], truth_mm2[bit], prediction_mm2[bit]
        )
        for bit in from_truth
    }


def structure_surface_dice(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    tolerances_mm: Sequence[float],
) -> dict[int, list[float]]:
    """Computes the `surface_dice` of up to eight structures, without the distances themselves.

    Args:
        truth, prediction: uint8 codes [X, Y, Z] of one shape: bit b is the mask of structure b.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        tolerances_mm: tolerances in mm, ascending.

    Returns:
        {1 << b: surface Dice at each tolerance} of the structures that are empty in neither mask.
    """
    truth, prediction = _padded(truth, prediction)
    grids = _elements(truth), _elements(prediction)
    common = np.bitwise_and(*(np.bitwise_or.reduce(grid, axis=None) for grid in grids))
    bits = [1 << bit for bit in range(8) if common >> bit & 1]
    within = {bit: np.zeros(len(tolerances_mm)) for bit in bits}
    total = dict.fromkeys(bits, 0.0)
    for codes, sources, targets in ((truth, *grids), (prediction, *grids[::-1])):
        areas = _areas(codes, sources, bits, spacing_mm)
        found = sources.ravel()[np.flatnonzero(sources != 0)]
        matched = within_distances(sources, targets, spacing_mm, tolerances_mm)
        for bit, areas_mm2 in areas.items():
            rows = np.flatnonzero(found & bit)
            total[bit] += areas_mm2.sum()
            within[bit] += [areas_mm2[codes[rows] & bit != 0].sum() for codes in matched]
    return {bit: (within[bit] / total[bit]).tolist() for bit in bits}


def hd95(distances: ElementDistances) -> float:
    """Computes the larger of the two directed 95th percentiles, in mm.

    The percentile of a direction is the shortest distance within which elements of at least 95 %
    of the area lie, as in surface-distance's `compute_robust_hausdorff`.
    """
    return max(
        _percentile(distances.truth_to_prediction, distances.truth_mm2, 0.95),
        _percentile(distances.prediction_to_truth, distances.prediction_mm2, 0.95),
    )


def hd100(distances: ElementDistances) -> float:
    """Computes the Hausdorff distance, the longest distance of either direction, in mm."""
    return float(max(distances.truth_to_prediction.max(), distances.prediction_to_truth.max()))


def assd(distances: ElementDistances) -> float:
    """Computes the mean distance of the elements of both surfaces, weighted by area, in mm."""
    total = (distances.truth_to_prediction * distances.truth_mm2).sum()
    total += (distances.prediction_to_truth * distances.prediction_mm2).sum()
    return float(total / (distances.truth_mm2.sum() + distances.prediction_mm2.sum()))


def surface_dice(distances: ElementDistances, tolerance_mm: float) -> float:
    """Computes the normalised surface Dice (Nikolov et al. 2021).

    The share of the area of both surfaces that lies within the tolerance of the other surface, as
    in surface-distance's `compute_surface_dice_at_tolerance`.

    Args:
        distances: the elements of both surfaces.
        tolerance_mm: longest distance that counts as agreement, in mm.
    """
    # Sums of selected areas: a dot product would start the threads of the BLAS.
    within = distances.truth_mm2[distances.truth_to_prediction <= tolerance_mm].sum()
    within += distances.prediction_mm2[distances.prediction_to_truth <= tolerance_mm].sum()
    return float(within / (distances.truth_mm2.sum() + distances.prediction_mm2.sum()))


@functools.lru_cache(maxsize=8)
def element_areas(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Computes the area in mm² of a surface element from the code of its eight voxels.

    Args:
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        float64 [256]. Bit n of an index is set if the voxel at position n of
        `itertools.product((0, 1), repeat=3)` is in the mask; inverted codes have the same area.
    """
    faces_mm2 = np.prod(spacing_mm) / np.array(spacing_mm)  # of a voxel, across each axis
    areas = np.zeros(256)
    for code in range(1, 255):
        inside = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
        # Where the surface is ambiguous, it separates the voxels that are fewer.
        fewer = inside if len(inside) <= 4 else set(_CORNERS) - inside
        for part in _face_connected(fewer):
            areas[code] += sum(np.linalg.norm(eighths * faces_mm2) / 8 for eighths in _patch(part))
    return areas


def _face_connected(corners):
    """Splits a set of positions into the parts that are connected by steps along one axis."""
    parts, left = [], set(corners)
    while left:
        part, border = set(), {left.pop()}
        while border:
            part |= border
            border = {
                corner
                for corner in left
                if any(sum(np.abs(np.subtract(corner, other))) == 1 for other in border)
            }
            left -= border
        parts.append(part)
    return parts


def _patch(part):
    """The planar pieces of the surface that cuts a connected part of at most four voxels off.

    A piece is its area projected along x, y and z, float64 [3], in eighths of a voxel's face. The
    pieces join the midpoints between voxels inside and outside the part.
    """
    positions = np.array(sorted(part))
    axes = np.eye(3)
    flat = axes[np.ptp(positions, axis=0) == 0]  # axes along which the part is one voxel wide
    everywhere = np.ones(3)
    if len(part) == 1:
        return [everywhere]
    if len(part) == 2:  # a rectangle along the pair
        return [4 * flat.sum(axis=0)]
    if len(part) == 3:  # five midpoints around an L, in two planes
        return [3 * everywhere, 4 * flat[0]]
    if len(flat):  # the face between two layers
        return [8 * flat[0]]
    # Number of neighbours of each voxel within the part: a corner with three, or a chain.
    neighbours = (np.abs(positions[:, None] - positions).sum(axis=2) == 1).sum(axis=1)
    if neighbours.max() == 3:  # a regular hexagon
        return [6 * everywhere]
    start, stop = positions[neighbours == 2]
    middle = np.abs(start - stop)
    return [4 * everywhere, *(2 * (middle + axis) for axis in axes[middle == 0])]


def _padded(truth, prediction):
    """Both arrays, cropped to what they hold, with a layer of background on every side.

    The layer in front holds the first elements. The one behind holds none, and gives the grid of
    elements the shape of the array.
    """
    box = bounding_box(truth, prediction)
    return np.pad(truth[box], 1), np.pad(prediction[box], 1)


def _elements(codes):
    """Codes uint8 of the surface elements between voxels.

    Args:
        codes: uint8 [X, Y, Z], 0 in the outermost layers.

    Returns:
        uint8 of the same shape; bit b is set at (x, y, z) if some, but not all, of the eight
        voxels of `codes` from (x, y, z) to (x + 1, y + 1, z + 1) have it.
    """
    some, every = codes, codes
    for axis in range(3):
        here = tuple(slice(None, -1) if index == axis else slice(None) for index in range(3))
        there = tuple(slice(1, None) if index == axis else slice(None) for index in range(3))
        some, every = some[here] | some[there], every[here] & every[there]
    elements = np.zeros_like(codes)
    elements[:-1, :-1, :-1] = some ^ every
    return elements


def _areas(codes, elements, bits, spacing_mm):
    """{bit: areas in mm² of the elements of this structure, in C order}."""
    table = element_areas(tuple(float(length) for length in spacing_mm))
    codes, elements = np.ascontiguousarray(codes), np.ascontiguousarray(elements)
    points = np.flatnonzero(elements != 0)
    found, flat = elements.ravel()[points], codes.ravel()
    # The codes of the eight voxels around each element, one in each byte.
    neighbours = np.zeros(len(points), np.uint64)
    for byte, corner in enumerate(_CORNERS):
        voxel = flat[points + int(np.dot(corner, codes.strides))].astype(np.uint64)
        neighbours |= voxel << np.uint64(8 * byte)
    areas = {}
    for bit in bits:
        inside = neighbours[np.flatnonzero(found & bit)] >> np.uint64(bit.bit_length() - 1)
        # The lowest bits of the eight bytes, gathered in the highest byte by multiplication.
        areas[bit] = table[(inside & _LOWEST_BITS) * _GATHER >> np.uint64(56)]
    return areas


def _percentile(lengths_mm, areas_mm2, share):
    """The shortest distance within which elements of at least this share of the area lie."""
    order = np.argsort(lengths_mm)
    areas_mm2 = areas_mm2[order]
    rank = np.searchsorted(np.cumsum(areas_mm2) / areas_mm2.sum(), share)
    return float(lengths_mm[order[min(rank, len(order) - 1)]])
