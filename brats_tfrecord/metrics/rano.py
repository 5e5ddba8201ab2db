"""Two diameters of each enhancing lesion, as the RANO criteria measure them.

RANO: Response Assessment in Neuro-Oncology (Wen et al. 2010, J Clin Oncol 28(11); RANO 2.0, Wen et
al. 2023, J Clin Oncol 41(33)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box

MEASURABLE_MM = 10.0
"""Least length of both diameters of a measurable lesion."""

THICK_MM = 5.0
"""Axial slices above this thickness raise the least length to twice the thickness."""

MAX_TARGETS = 5
"""Number of lesions in the sum of products."""

_DEGREES = np.arange(180)
_ROUNDING_MM = 1e-6
_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class EnhancingLesion:
    """One 26-connected enhancing lesion.

    Attributes:
        centre: index (x, y, z) of the voxel in the middle of the longest diameter.
        volume_ml: volume of the enhancing tumour in mL.
        diameters_mm: longest diameter and the longest one perpendicular to it, in the axial slice
            `centre[2]`, where their product is largest.
        measurable: whether both diameters are at least `MEASURABLE_MM` (twice the thickness of
            slices above `THICK_MM`), and the lesion is visible on two axial slices or more.
    """

    centre: tuple[int, int, int]
    volume_ml: float
    diameters_mm: tuple[float, float]
    measurable: bool

    @property
    def product_mm2(self) -> float:
        """Product of the two diameters."""
        return self.diameters_mm[0] * self.diameters_mm[1]


class _Directions(NamedTuple):
    """Lines in an axial slice at each of `_DEGREES`, arrays [180].

    Attributes:
        along_x: whether a line has one voxel for each x; otherwise it has one for each y.
        slope: voxels along the other axis per step.
        step_mm: length of a step.
        voxel_mm: diameter of a voxel in this direction.
    """

    along_x: np.ndarray
    slope: np.ndarray
    step_mm: np.ndarray
    voxel_mm: np.ndarray

    def length(self, degree, voxels):
        """Length in mm of a run of this many voxels, 0 for none."""
        length = (voxels - 1) * self.step_mm[degree] + self.voxel_mm[degree]
        return np.where(voxels > 0, length, 0)


@dataclass(frozen=True)
class TumourBurden:
    """The enhancing lesions of a case in numbers.

    Attributes:
        lesions: number of lesions.
        measurable: number of measurable lesions.
        longest_mm, across_mm: diameters of the measurable lesion with the largest product; None
            without one.
        sum_mm2: sum of the products of the `MAX_TARGETS` largest measurable lesions; 0 without
            one.
    """

    lesions: int
    measurable: int
    longest_mm: float | None
    across_mm: float | None
    sum_mm2: float


def enhancing_lesions(
    classes: np.ndarray, spacing_mm: Sequence[float], smallest_mm3: float = 50
) -> list[EnhancingLesion]:
    """Measures the enhancing lesions of a case, the largest product first.

    Both diameters run inside the enhancing tumour from end to end, and the perpendicular crosses
    or touches the longest one. So they pass through neither necrosis, cyst or cavity, which RANO
    leaves out of a measurement, nor the gap of an open ring. They are found by trying every
    direction in steps of one degree, in every axial slice (a plane of constant z). A voxel counts
    as an ellipse of its own extents: a row of n voxels of 1 mm is n mm long, and a single voxel
    1 mm in every direction.

    Args:
        classes: uint8 [X, Y, Z] canonical class ids, LPS order.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        smallest_mm3: lesions of this volume or less are omitted.

    Returns:
        A list of `EnhancingLesion`, empty without enhancing tumour.
    """
    enhancing = classes == spec.ET
    if not enhancing.any():
        return []
    box = bounding_box(enhancing)
    labels, count = ndimage.label(enhancing[box], _NEIGHBOURS_26)
    volumes_mm3 = np.bincount(labels.ravel(), minlength=count + 1) * np.prod(spacing_mm)
    origin = np.array([side.start for side in box])
    directions = _directions(spacing_mm)
    lesions = [
        _measure(
            labels[sides] == label,
            origin + [side.start for side in sides],
            directions,
            spacing_mm[2],
            float(volumes_mm3[label]) / 1000,
        )
        for label, sides in enumerate(ndimage.find_objects(labels), 1)
        if volumes_mm3[label] > smallest_mm3
    ]
    return sorted(lesions, key=lambda lesion: (-lesion.product_mm2, -lesion.volume_ml))


def burden(lesions: Sequence[EnhancingLesion]) -> TumourBurden:
    """Sums up the enhancing lesions of a case, in any order."""
    targets = [lesion for lesion in lesions if lesion.measurable]
    targets.sort(key=lambda lesion: -lesion.product_mm2)
    longest, across = targets[0].diameters_mm if targets else (None, None)
    total = sum(lesion.product_mm2 for lesion in targets[:MAX_TARGETS])
    return TumourBurden(len(lesions), len(targets), longest, across, float(total))


def _measure(mask, origin, directions, thickness_mm, volume_ml):
    """Measures `mask` [x, y, z], whose first voxel has the index `origin` in the volume."""
    x, y, z, *diameters = _largest_cross(np.moveaxis(mask, 2, 0), directions)
    least = MEASURABLE_MM if thickness_mm <= THICK_MM else 2 * thickness_mm
    return EnhancingLesion(
        (int(origin[0] + x), int(origin[1] + y), int(origin[2] + z)),
        volume_ml,
        (float(diameters[0]), float(diameters[1])),
        bool(min(diameters) >= least - _ROUNDING_MM and mask.shape[2] > 1),
    )


def _largest_cross(slices, directions):
    """(x, y, z, longest, across) of the two diameters with the largest product in `slices`.

    `slices` is bool [z, x, y]; x, y, z is the middle of the longest diameter, lengths are in mm.
    """
    spans = _spans(slices, directions)
    longest = spans.max(axis=1)
    is_longest = spans >= longest[:, None] - _ROUNDING_MM
    # No perpendicular through the longest diameter exceeds the longest one anywhere in the slice.
    bounds = longest * np.where(is_longest, np.roll(spans, -90, axis=1), 0).max(axis=1)
    best, cross = -1.0, None
    for z in np.argsort(-bounds, kind="stable"):
        if bounds[z] <= best:
            break
        # Of several longest directions in a slice, the one with the larger product counts.
        for degree in np.flatnonzero(is_longest[z]):
            diameter = _longest_line(slices[z], degree, directions)
            across = _longest_through(slices[z], diameter, (degree + 90) % 180, directions)
            if longest[z] * across > best:
                best = longest[z] * across
                cross = (*diameter[len(diameter) // 2], z, longest[z], across)
    return cross


def _directions(spacing_mm):
    """The `_Directions` of pixels of this (x, y) spacing."""
    along = np.cos(np.deg2rad(_DEGREES)) / spacing_mm[0]
    across = np.sin(np.deg2rad(_DEGREES)) / spacing_mm[1]
    steps, others = np.abs(along), np.abs(across)
    along_x = steps >= others
    slope = np.where(along_x, across, along) / np.where(along_x, along, across)
    return _Directions(along_x, slope, 1 / np.maximum(steps, others), 1 / np.hypot(along, across))


def _spans(slices, directions):
    """Longest uninterrupted spans in mm of `slices` [z, x, y] at each of `_DEGREES`, [z, 180]."""
    spans = np.empty((len(slices), len(_DEGREES)))
    for along_x in (True, False):
        degrees = np.flatnonzero(directions.along_x == along_x)
        stack = slices if along_x else slices.transpose(0, 2, 1)
        counts = _longest_runs(stack, directions.slope[degrees])
        spans[:, degrees] = directions.length(degrees, counts)
    return spans


def _longest_runs(stack, slopes):
    """Largest number of consecutive voxels inside, over all lines of each slope, [z, slopes].

    `stack` is bool [z, u, v]; a line passes the voxels (u, offset + u * slope, rounded).
    """
    size = stack.shape[1]
    padded = np.pad(stack, ((0, 0), (0, 0), (size, size)))
    first = size - np.maximum(np.ceil(slopes * (size - 1)), 0).astype(int)
    lines = first[:, None] + np.arange(stack.shape[2] + size)
    run = np.zeros((len(stack), *lines.shape), np.uint16)
    best = np.zeros_like(run)
    for u in range(size):
        inside = padded[:, u].take(lines + np.rint(u * slopes).astype(int)[:, None], axis=1)
        run += 1
        run *= inside
        np.maximum(best, run, out=best)
    return best.max(axis=2).astype(int)


def _longest_line(mask, degree, directions):
    """Voxels [n, (x, y)] of the longest uninterrupted line of `mask` [x, y] in one direction."""
    along_x, slope = directions.along_x[degree], directions.slope[degree]
    plane = mask if along_x else mask.T
    shifts = np.rint(np.arange(len(plane)) * slope).astype(int)
    offsets = np.arange(-shifts.max(), plane.shape[1] - shifts.min())
    inside = _on_lines(plane, offsets, shifts)
    run, best, end = (np.zeros(len(offsets), int) for _ in range(3))
    for u in range(len(plane)):
        run = (run + 1) * inside[:, u]
        end[run > best] = u
        best = np.maximum(best, run)
    line = best.argmax()
    inside_u = np.arange(end[line] - best[line] + 1, end[line] + 1)
    inside_v = offsets[line] + shifts[inside_u]
    return np.stack((inside_u, inside_v) if along_x else (inside_v, inside_u), axis=1)


def _longest_through(mask, voxels, degree, directions):
    """Longest uninterrupted span in mm in one direction through one of `voxels` [n, (x, y)]."""
    along_x, slope = directions.along_x[degree], directions.slope[degree]
    plane = mask if along_x else mask.T
    u, v = voxels.T if along_x else voxels.T[::-1]
    steps = np.arange(len(plane))
    shifts = np.rint(steps * slope).astype(int)
    outside = ~_on_lines(plane, v - shifts[u], shifts)
    before = np.where(outside & (steps < u[:, None]), steps, -1).max(axis=1)
    after = np.where(outside & (steps > u[:, None]), steps, len(plane)).min(axis=1)
    return float(directions.length(degree, (after - before - 1).max()))


def _on_lines(plane, offsets, shifts):
    """Whether the voxels (u, offset + shift of u) are inside `plane` [u, v]; bool [offsets, u]."""
    v = offsets[:, None] + shifts
    on_grid = (v >= 0) & (v < plane.shape[1])
    return plane[np.arange(len(plane)), np.clip(v, 0, plane.shape[1] - 1)] & on_grid
