"""Distances from the voxels of one mask to the nearest voxels of another.

Most surface voxels of a useful prediction lie within a few voxels of the true surface. All source
voxels are therefore compared with the target grid at the nearest offsets, in order of distance,
for all structures at once. A k-d tree (Bentley 1975) per structure finds the nearest targets of
the source voxels that are left. Against k-d trees alone this takes a quarter of the time of
`case_metrics` or less on tumours of 50 to 80 mL whose predictions reach a Dice of 0.85.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.spatial import cKDTree

_REACH = 10
"""Radius of the ball of offsets, in voxels of the finest axis: about 4,000 at even spacing."""

_BLOCK = 256
"""Offsets that every source voxel is compared at, and the size of later blocks of offsets."""

_STEP = 9
"""Offsets compared at once where the distances themselves are not needed."""

_FEW = 1 / 32
"""Source voxels per target voxel below which further offsets are faster than k-d trees."""


def nearest_distances(
    sources: np.ndarray, targets: np.ndarray, spacing_mm: Sequence[float]
) -> dict[int, np.ndarray]:
    """Computes the distance of every source voxel to the nearest target of the same structure.

    Args:
        sources, targets: uint8 codes [X, Y, Z] of one shape; bit b is set where a voxel belongs
            to structure b.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        {1 << b: float64 distances in mm, one per source voxel of structure b, in C order} for the
        structures that both arrays contain. Exact up to the rounding of float64.
    """
    common = int(
        np.bitwise_or.reduce(sources, axis=None) & np.bitwise_or.reduce(targets, axis=None)
    )
    spacing = np.asarray(spacing_mm, np.float64)
    offsets, lengths = _near_offsets(tuple(spacing.tolist()))
    # A margin as wide as the longest offset: an offset added to a flat index stays in its row.
    margin = [(width, width) for width in offsets.max(axis=0)]
    sources, targets = (
        np.pad(np.ascontiguousarray(codes & common), margin) for codes in (sources, targets)
    )
    # Flat indices of `condition != 0`, here and below: NumPy finds and takes elements several
    # times faster that way than by masks of bool, or by non-zero elements of uint8.
    points = np.flatnonzero(sources != 0)
    codes = sources.ravel()[points]
    jumps = offsets @ np.array(targets.strides)
    matches, far, far_codes = _match_near(points, codes, targets.ravel(), jumps, lengths)
    distances = {}
    for bit in _bits(common):
        lengths_mm = np.empty(len(points))
        for index, matched, length in matches:
            members = np.flatnonzero(matched & bit != 0)
            lengths_mm[index[members]] = length[members]
        index = far[np.flatnonzero(far_codes & bit != 0)]
        if len(index):
            lengths_mm[index] = _tree_distances(points[index], targets, bit, spacing)
        distances[bit] = lengths_mm[np.flatnonzero(codes & bit != 0)]
    return distances


def within_distances(
    sources: np.ndarray,
    targets: np.ndarray,
    spacing_mm: Sequence[float],
    limits_mm: Sequence[float],
) -> list[np.ndarray]:
    """Finds the source voxels that have a target of the same structure within a distance.

    Args:
        sources, targets: as in `nearest_distances`.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        limits_mm: distances in mm, ascending; a target at exactly this distance counts.

    Returns:
        One array per limit, uint8 codes of the source voxels (those that are not 0) in C order:
        bit b is set if a target of structure b lies within the limit.
    """
    spacing = np.asarray(spacing_mm, np.float64)
    offsets, lengths = _near_offsets(tuple(spacing.tolist()))
    if limits_mm[-1] >= _REACH * spacing.min():
        return _compare_distances(sources, targets, spacing_mm, limits_mm)
    ends = [int(np.searchsorted(lengths, limit, side="right")) for limit in limits_mm]
    offsets = offsets[: ends[-1]]
    margin = [(width, width) for width in offsets.max(axis=0)]
    sources, targets = (np.pad(np.ascontiguousarray(codes), margin) for codes in (sources, targets))
    points = np.flatnonzero(sources != 0)
    codes, flat = sources.ravel()[points], targets.ravel()
    jumps = offsets @ np.array(targets.strides)
    matched = np.zeros_like(codes)
    index, missing, result = np.arange(len(points)), codes, []
    for first, last in zip([0, *ends], ends):
        # A few offsets at a time: most voxels are matched by the first ones.
        for start in range(first, last, _STEP):
            if len(index):
                stop = min(start + _STEP, last)
                hits = _match_one_length(points, missing, flat, jumps[start:stop])
                matched[index] |= hits
                missing = missing ^ hits
                rows = np.flatnonzero(missing != 0)
                index, points, missing = index[rows], points[rows], missing[rows]
        result.append(matched.copy())
    return result


def _compare_distances(sources, targets, spacing_mm, limits_mm):
    """`within_distances` by way of all distances, for limits beyond the ball of offsets."""
    codes = sources[sources != 0]
    result = [np.zeros_like(codes) for _ in limits_mm]
    for bit, lengths_mm in nearest_distances(sources, targets, spacing_mm).items():
        rows = np.flatnonzero(codes & bit != 0)
        for limit, matched in zip(limits_mm, result):
            matched[rows] |= np.where(lengths_mm <= limit, bit, 0).astype(np.uint8)
    return result


@functools.lru_cache(maxsize=8)
def _near_offsets(spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All offsets in the ball of `_REACH`, int64 [N, 3], and their lengths in mm, ascending."""
    spacing_mm = np.array(spacing)
    radius = _REACH * spacing_mm.min()
    axes = [np.arange(-int(radius / size), int(radius / size) + 1) for size in spacing_mm]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.sqrt(((offsets * spacing_mm) ** 2).sum(axis=1))
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= radius]
    return offsets[order], lengths[order]


def _match_near(points, codes, targets, jumps, lengths):
    """Compares source voxels with the targets at `jumps`, nearest first.

    Args:
        points: int64 [N] flat indices of the source voxels.
        codes: uint8 [N], their structures.
        targets: uint8, the flat target grid.
        jumps, lengths: offsets as differences of flat indices, and their lengths in mm, ascending.

    Returns:
        A list of matches, and the index in `points` and the codes of the voxels without one. A
        match is (index in `points`, uint8 codes of the structures matched, length in mm), arrays
        of one size.
    """
    matches = []
    index = np.arange(len(points))
    few = _FEW * np.count_nonzero(targets != 0)
    first = 0
    while first < len(jumps) and len(index) and (first < _BLOCK or len(index) < few):
        if first < _BLOCK:
            last = int(np.searchsorted(lengths, lengths[first], side="right"))
            matched = _match_one_length(points, codes, targets, jumps[first:last])
            rows = np.flatnonzero(matched != 0)
            matches.append((index[rows], matched[rows], np.full(len(rows), lengths[first])))
        else:
            last = first + _BLOCK
            hits = targets[points[:, None] + jumps[first:last]] & codes[:, None]
            matched = np.bitwise_or.reduce(hits, axis=1)
            for bit in _bits(int(np.bitwise_or.reduce(matched))):
                rows = np.flatnonzero(matched & bit != 0)
                nearest = first + (hits[rows] & bit != 0).argmax(axis=1)
                matches.append((index[rows], np.full(len(rows), bit, np.uint8), lengths[nearest]))
        codes = codes ^ matched
        rows = np.flatnonzero(codes != 0)
        index, points, codes = index[rows], points[rows], codes[rows]
        first = last
    return matches, index, codes


def _match_one_length(points, codes, targets, jumps):
    """Codes of the structures that each source voxel meets at any of `jumps`."""
    matched = targets[points + jumps[0]]
    for jump in jumps[1:]:
        matched |= targets[points + jump]
    matched &= codes
    return matched


def _tree_distances(points, targets, bit, spacing):
    """Distances in mm of the flat indices `points` to the targets of `bit`."""

    def positions(flat):
        return np.stack(np.unravel_index(flat, targets.shape), axis=1) * spacing

    # Neither balanced nor compact: such a tree is built in half the time and queried as fast.
    tree = cKDTree(
        positions(np.flatnonzero(targets & bit != 0)), balanced_tree=False, compact_nodes=False
    )
    return tree.query(positions(points))[0]


def _bits(codes: int) -> Iterator[int]:
    """The bits that are set in `codes`: 1, 2, 4, …"""
    return (1 << bit for bit in range(8) if codes >> bit & 1)
