"""Volumes and extents of the connected parts of a tumour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics import rano
from brats_tfrecord.spec import members, structures

_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Extent:
    """Position, volumes and extents of one connected tumour, edema included.

    Extents are measured from outline to outline, across gaps. The diameters that RANO measures
    are those of the enhancing tumour, in `lesions`.

    Attributes:
        centre: index (x, y, z) of the tumour voxel that is nearest to the centre of mass. The
            centre of mass itself may lie outside the tumour, as in a ring.
        volumes_ml: {structure: volume in mL}, as returned by `volumes_ml`.
        extent_mm: longest distance between two points of the outline.
        axial_extent_mm: longest extent in an axial slice and the longest extent perpendicular to
            it in the same slice.
        axial_slice: z index of that slice.
        lesions: enhancing lesions inside this tumour, the largest product of diameters first.
    """

    centre: tuple[int, int, int]
    volumes_ml: dict[str, float]
    extent_mm: float
    axial_extent_mm: tuple[float, float]
    axial_slice: int
    lesions: tuple[rano.EnhancingLesion, ...]


def volumes_ml(
    voxels: Sequence[int] | np.ndarray, spacing_mm: Sequence[float], classes: int = 4
) -> dict[str, float]:
    """Computes the volume of every structure in millilitres.

    Args:
        voxels: number of voxels of each class, at least `classes` entries.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        classes: number of classes, background included.

    Returns:
        {structure: volume in mL} in the order of `structures(classes)`.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    return {
        name: sum(int(voxels[class_id]) for class_id in members(name)) * voxel_mm3 / 1000
        for name in structures(classes)
    }


def extents(
    classes: np.ndarray, spacing_mm: Sequence[float], smallest_mm3: float = 50
) -> list[Extent]:
    """Measures the 26-connected parts of the whole tumour, the largest first.

    The outline of a voxel is the centres of its six faces: a row of n voxels of 1 mm is n mm
    long, and a single voxel 1 mm.

    Args:
        classes: uint8 [X, Y, Z] canonical class ids, LPS order.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        smallest_mm3: parts, and enhancing lesions in them, of this volume or less are omitted.

    Returns:
        A list of `Extent`, empty if there is no tumour.
    """
    tumour = np.isin(classes, spec.REGIONS["WT"])
    if not tumour.any():
        return []
    box = bounding_box(tumour)
    origin = np.array([side.start for side in box])
    inside = classes[box]
    parts, count = ndimage.label(tumour[box], _NEIGHBOURS_26)
    volumes_mm3 = np.bincount(parts.ravel(), minlength=count + 1) * np.prod(spacing_mm)
    order = [
        part
        for part in np.argsort(-volumes_mm3[1:], kind="stable") + 1
        if volumes_mm3[part] > smallest_mm3
    ]
    sides = ndimage.find_objects(parts)
    # An enhancing lesion is connected, so all of it lies in the part of any of its voxels.
    lesions: dict[int, list[rano.EnhancingLesion]] = {}
    for lesion in rano.enhancing_lesions(classes, spacing_mm, smallest_mm3):
        lesions.setdefault(int(parts[tuple(lesion.centre - origin)]), []).append(lesion)
    return [
        _extent(
            parts[sides[part - 1]] == part,
            inside[sides[part - 1]],
            origin + [side.start for side in sides[part - 1]],
            spacing_mm,
            tuple(lesions.get(part, ())),
        )
        for part in order
    ]


def _extent(mask, classes, origin, spacing_mm, lesions):
    """Measures `mask` [x, y, z], whose first voxel has the index `origin` in the volume."""
    spacing_mm = np.asarray(spacing_mm, float)
    voxels = np.argwhere(mask)
    nearest = ((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()
    centre_x, centre_y, centre_z = (int(index) for index in voxels[nearest] + origin)
    counts = np.bincount(classes[mask], minlength=len(spec.CLASS_NAMES))
    longest, across, z = max(
        (*_axial_extents(np.argwhere(mask[..., z]), spacing_mm[:2]), z)
        for z in np.flatnonzero(mask.any(axis=(0, 1)))
    )
    return Extent(
        (centre_x, centre_y, centre_z),
        volumes_ml(counts, spacing_mm),
        _farthest(_outline(voxels[_on_surface(mask)], spacing_mm))[0],
        (longest, across),
        int(z + origin[2]),
        lesions,
    )


def _axial_extents(voxels, spacing_mm):
    """(longest, longest perpendicular) extent in mm of the voxels [N, 2] of a slice."""
    points = _outline(voxels, spacing_mm)
    longest, start, end = _farthest(points)
    along = (end - start) / longest
    position, height = points @ along, points @ (-along[1], along[0])
    # A chord is measured between the points of one bin, a voxel wide, along the diameter.
    bins = np.floor((position - position.min()) / spacing_mm.max()).astype(int)
    low, high = np.full(bins.max() + 1, np.inf), np.full(bins.max() + 1, -np.inf)
    np.minimum.at(low, bins, height)
    np.maximum.at(high, bins, height)
    return longest, float((high - low).max())


def _outline(voxels, spacing_mm):
    """Centres of the faces of `voxels` [N, D] in mm, [2 D N, D]."""
    half = np.diag(np.asarray(spacing_mm, float) / 2)
    steps = np.concatenate([half, -half])
    return ((voxels * spacing_mm)[:, None] + steps).reshape(-1, len(half))


def _on_surface(mask):
    """Whether each voxel of `mask`, in C order, has one of its six neighbours outside."""
    return ~ndimage.binary_erosion(mask)[mask]


def _farthest(points):
    """(distance, point, point) of the two points farthest apart, corners of the convex hull."""
    corners = points[ConvexHull(points).vertices]
    distances = cdist(corners, corners)
    first, second = np.unravel_index(distances.argmax(), distances.shape)
    return float(distances[first, second]), corners[first], corners[second]
