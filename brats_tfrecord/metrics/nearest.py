"""Exact distances from the marked voxels of one grid to the nearest marked ones of another.

Several structures at once: a voxel's code has bit b set where it is marked for structure b. Most
voxels of a useful prediction lie within a few millimetres of the truth, so all are first looked
up at the nearest offsets, in order of distance, all structures by one look-up. What finds nothing
there goes, structure by structure, to a k-d tree (Bentley 1975) over the targets, or, where the
targets are far and many points ask, to one exact Euclidean feature transform of the box (Maurer
et al. 2003): the price of a k-d query grows with distance, that of the transform with volume.
"""

import functools

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

_NEAR, _WIDE = 256, 4096
"""About so many of the nearest offsets are looked up: for all points, for a few stragglers."""

_REACH = 10
"""Voxels that an offset may span along the finest axis."""

_STRAGGLERS = 1 / 64
"""Points left per target, below which they are looked up widely rather than build k-d trees."""

_BLOCK = 1 << 16
"""Look-ups of stragglers made at once."""

_TRANSFORM_LOOK_UPS = 20
"""What one voxel of a feature transform costs, in look-ups."""

_QUERY_VOXELS = 25
"""What one query of a k-d tree costs, in voxels of a feature transform."""

_THREADED_QUERIES = 5_000
"""Queries from which on a k-d tree's threads are worth their start."""


def nearest_distances(sources, targets, spacing_mm):
    """Distance of every source voxel to the nearest target of the same structure.

    Args:
        sources, targets: uint8 codes [X, Y, Z] of one shape.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        {bit: float64 distances in mm, one a source voxel of that bit, in C order}, for the bits
        1, 2, 4, ... that both sides have; exact up to the rounding of float64.
    """
    common = np.bitwise_or.reduce(sources, axis=None) & np.bitwise_or.reduce(targets, axis=None)
    steps, lengths = _offsets(tuple(float(length) for length in spacing_mm))
    # A margin as wide as the longest offset, so that a flat index never runs into the next row.
    margin = [(width, width) for width in steps.max(axis=0)]
    sources, targets = (
        np.pad(np.ascontiguousarray(codes & common), margin) for codes in (sources, targets)
    )
    search = _Search(sources, targets, lengths, steps @ np.array(targets.strides))
    search.near()
    search.wide()
    return {
        1 << bit: search.distances(1 << bit, np.asarray(spacing_mm, np.float64))
        for bit in range(8)
        if common >> bit & 1
    }


@functools.lru_cache(maxsize=8)
def _offsets(spacing):
    """Offsets int64 [N, 3] and their lengths in mm, ascending: all in a ball, so none is missed."""
    spacing = np.array(spacing)
    ball = (_WIDE * spacing.prod() * 3 / (4 * np.pi)) ** (1 / 3)
    radius = max(spacing.min(), min(ball, _REACH * spacing.min()))
    axes = [np.arange(-int(radius / length), int(radius / length) + 1) for length in spacing]
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.sqrt(((steps * spacing) ** 2).sum(axis=1))
    inside = np.flatnonzero(lengths <= radius)
    order = inside[np.argsort(lengths[inside], kind="stable")]
    return steps[order], lengths[order]


class _Search:
    """Points in search of targets: flat indices into padded grids, fewer with every find."""

    def __init__(self, sources, targets, lengths, jumps):
        self._targets, self._flat = targets, targets.ravel()
        self._lengths, self._jumps = lengths, jumps
        self._all = np.flatnonzero(sources != 0)
        self._codes = sources.ravel()[self._all]
        self._left = np.arange(len(self._all)), self._all, self._codes
        self._finds = []
        self._next = 0

    def near(self):
        """Looks at the nearest offsets, one length after another, while it is worth its cost."""
        budget = _TRANSFORM_LOOK_UPS * self._flat.size
        lengths, jumps = self._lengths, self._jumps
        while self._next < min(_NEAR, len(jumps)) and len(self._left[0]) and budget > 0:
            numbers, points, codes = self._left
            beyond = int(np.searchsorted(lengths, lengths[self._next], side="right"))
            found = self._flat[points + jumps[self._next]]
            for jump in jumps[self._next + 1 : beyond]:
                found |= self._flat[points + jump]
            found &= codes
            hits = np.flatnonzero(found != 0)
            self._finds.append(
                (numbers[hits], found[hits], np.full(len(hits), lengths[self._next]))
            )
            self._keep(codes ^ found)
            budget -= len(points) * (beyond - self._next)
            self._next = beyond

    def wide(self):
        """Looks at all further offsets for the points left, if they are few."""
        if len(self._left[0]) > _STRAGGLERS * np.count_nonzero(self._flat):
            return
        while self._next < len(self._jumps) and len(self._left[0]):
            numbers, points, codes = self._left
            beyond = self._next + max(1, _BLOCK // len(points))
            found = self._flat[points[:, None] + self._jumps[self._next : beyond]] & codes[:, None]
            reached = np.bitwise_or.reduce(found, axis=1)
            for bit in _bits(reached):
                hits = np.flatnonzero(reached & bit != 0)
                first = (found[hits] & bit != 0).argmax(axis=1)
                self._finds.append(
                    (
                        numbers[hits],
                        np.full(len(hits), bit, np.uint8),
                        self._lengths[self._next + first],
                    )
                )
            self._keep(codes ^ reached)
            self._next = beyond

    def distances(self, bit, spacing):
        """Distances in mm of one structure's points, those that found nothing so far included."""
        distances = np.empty(len(self._all))
        for numbers, codes, lengths in self._finds:
            mine = np.flatnonzero(codes & bit != 0)
            distances[numbers[mine]] = lengths[mine]
        numbers, points, codes = self._left
        far = np.flatnonzero(codes & bit != 0)
        if len(far):
            distances[numbers[far]] = _far(points[far], self._targets, bit, spacing)
        return distances[np.flatnonzero(self._codes & bit != 0)]

    def _keep(self, codes):
        left = np.flatnonzero(codes != 0)
        numbers, points, _ = self._left
        self._left = numbers[left], points[left], codes[left]


def _bits(codes):
    together = int(np.bitwise_or.reduce(codes))
    return [np.uint8(1 << bit) for bit in range(8) if together >> bit & 1]


def _far(points, targets, bit, spacing):
    """Distances of flat indices `points` to the targets of `bit`, whatever the distance."""
    points = np.stack(np.unravel_index(points, targets.shape), axis=1)
    places = np.stack(np.unravel_index(np.flatnonzero(targets & bit != 0), targets.shape), axis=1)
    low = np.minimum(points.min(axis=0), places.min(axis=0))
    extent = np.maximum(points.max(axis=0), places.max(axis=0)) + 1 - low
    if len(points) * _QUERY_VOXELS + len(places) < extent.prod():
        # Neither balanced nor compact: built in half the time, and asked as fast.
        tree = cKDTree(places * spacing, balanced_tree=False, compact_nodes=False)
        workers = -1 if len(points) >= _THREADED_QUERIES else 1
        return tree.query(points * spacing, workers=workers)[0]
    free = np.ones(extent, bool)
    free[tuple((places - low).T)] = False
    feature = ndimage.distance_transform_edt(
        free, sampling=spacing, return_distances=False, return_indices=True
    )
    at = tuple((points - low).T)
    squares = sum(
        ((axis[at] - place) * length) ** 2 for axis, place, length in zip(feature, at, spacing)
    )
    return np.sqrt(squares)
