"""How large tumours are: their connected parts, with volumes and diameters."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics.structures import members, structures

_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Extent:
    """One connected tumour.

    Attributes:
        centre: its voxel (x, y, z) nearest to its centre of mass, which itself may lie outside,
            in the hole of a ring.
        volumes_ml: of every structure within it, as the function of that name.
        diameter_mm: the longest distance between two points of its outline.
        axial_mm: (longest diameter in an axial slice, longest one perpendicular to it in that
            slice): the two measures of RANO (Wen et al. 2010, J Clin Oncol 28(11)).
        axial_slice: z of that slice.
    """

    centre: tuple[int, int, int]
    volumes_ml: dict[str, float]
    diameter_mm: float
    axial_mm: tuple[float, float]
    axial_slice: int


def volumes_ml(voxels, spacing_mm, classes=4):
    """Millilitres of every region, and of every class that is no region by itself.

    Args:
        voxels: number of voxels of each class, at least `classes` long.
        spacing_mm: (x, y, z) voxel spacing in millimetres: a voxel is as large as its product.
        classes: number of classes, background included: which structures there are.

    Returns:
        {structure: float} in the order of `structures(classes)`.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    return {
        name: sum(int(voxels[class_id]) for class_id in members(name)) * voxel_mm3 / 1000
        for name in structures(classes)
    }


def extents(classes, spacing_mm, smallest_mm3=50):
    """The 26-connected parts of the whole tumour, the largest first.

    A voxel's outline is taken at the middles of its six faces: a row of n voxels of 1 mm is n mm
    long, a voxel alone 1 mm.

    Args:
        classes: uint8 [X, Y, Z] canonical class ids, LPS order.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        smallest_mm3: parts of this volume or less are left out.

    Returns:
        a list of `Extent`; empty without tumour.
    """
    tumour = np.isin(classes, spec.REGIONS["WT"])
    if not tumour.any():
        return []
    box = bounding_box(tumour)
    first = np.array([side.start for side in box])
    inside = classes[box]
    parts, count = ndimage.label(tumour[box], _NEIGHBOURS_26)
    volumes_mm3 = np.bincount(parts.ravel(), minlength=count + 1) * np.prod(spacing_mm)
    order = [
        part
        for part in np.argsort(-volumes_mm3[1:], kind="stable") + 1
        if volumes_mm3[part] > smallest_mm3
    ]
    sides = ndimage.find_objects(parts)
    return [
        _extent(
            parts[sides[part - 1]] == part,
            inside[sides[part - 1]],
            first + [side.start for side in sides[part - 1]],
            spacing_mm,
        )
        for part in order
    ]


def _extent(mask, classes, first, spacing_mm):
    """The `Extent` of `mask` [x, y, z], whose first voxel is `first` of the grid."""
    spacing_mm = np.asarray(spacing_mm, float)
    voxels = np.argwhere(mask)
    nearest = ((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()
    counts = np.bincount(classes[mask], minlength=len(spec.CLASS_NAMES))
    longest, across, z = max(
        (*_axial_diameters(np.argwhere(mask[..., z]), spacing_mm[:2]), z)
        for z in np.flatnonzero(mask.any(axis=(0, 1)))
    )
    return Extent(
        tuple(int(index) for index in voxels[nearest] + first),
        volumes_ml(counts, spacing_mm),
        _farthest(_outline(voxels[_on_surface(mask)], spacing_mm))[0],
        (longest, across),
        int(z + first[2]),
    )


def _axial_diameters(voxels, spacing_mm):
    """(longest, longest perpendicular) in mm of the voxels [N, 2] of a slice."""
    points = _outline(voxels, spacing_mm)
    longest, start, end = _farthest(points)
    along = (end - start) / longest
    position, height = points @ along, points @ (-along[1], along[0])
    # Chords: the points that lie at one place along the diameter, to a voxel's width.
    places = np.floor((position - position.min()) / spacing_mm.max()).astype(int)
    low, high = np.full(places.max() + 1, np.inf), np.full(places.max() + 1, -np.inf)
    np.minimum.at(low, places, height)
    np.maximum.at(high, places, height)
    return longest, float((high - low).max())


def _outline(voxels, spacing_mm):
    """The middles of the faces of `voxels` [N, D] in mm, [2 D N, D]."""
    half = np.diag(np.asarray(spacing_mm, float) / 2)
    steps = np.concatenate([half, -half])
    return ((voxels * spacing_mm)[:, None] + steps).reshape(-1, len(half))


def _on_surface(mask):
    """Of each voxel of `mask`, in C order, whether one of its six neighbours is outside."""
    return ~ndimage.binary_erosion(mask)[mask]


def _farthest(points):
    """(distance, point, point) of the two that lie farthest apart; they are corners of the hull."""
    corners = points[ConvexHull(points).vertices]
    apart = cdist(corners, corners)
    first, second = np.unravel_index(apart.argmax(), apart.shape)
    return float(apart[first, second]), corners[first], corners[second]
