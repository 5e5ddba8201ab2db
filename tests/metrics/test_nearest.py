"""Distances to the nearest target against the distances of all pairs."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from brats_tfrecord.metrics import nearest

SPACINGS_MM = [(1, 1, 1), (0.9, 0.9, 3.0), (5.0, 0.4, 1.3), (1e-3, 1.0, 70.0)]


def two_planes(gap):
    """Two parallel planes of 24 x 25 voxels."""
    sources, targets = np.zeros((2, gap + 1, 24, 25), np.uint8)
    sources[0] = targets[gap] = 1
    return sources, targets


def few_far_sources():
    """A large common plane, and four sources at other distances from it."""
    margin = [(20, 0), (0, 0), (0, 0)]
    sources, targets = (np.pad(plane, margin) for plane in two_planes(0))
    for x, y in ((0, 3), (9, 20), (12, 7), (15, 0)):
        sources[x, y, 2 * y % 25] = 1
    return sources, targets


def noise():
    """Sparse voxels of three structures, one of which has no target."""
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(0, 8, (2, 14, 11, 12), np.uint8) * (
        rng.random((2, 14, 11, 12)) < 0.05
    ).astype(np.uint8)
    return sources, targets & np.uint8(0b101)


def two_corners():
    """One voxel in each array, at opposite corners."""
    sources, targets = np.zeros((2, 30, 20, 40), np.uint8)
    sources[0, 0, 0] = targets[-1, -1, -1] = 1
    return sources, targets


GEOMETRIES = {
    "near planes": two_planes(2),
    "far planes": two_planes(14),
    "few far sources": few_far_sources(),
    "noise": noise(),
    "corners": two_corners(),
}


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_distances_equal_the_minimum_over_all_pairs(geometry, spacing_mm):
    sources, targets = GEOMETRIES[geometry]
    result = nearest.nearest_distances(sources, targets, spacing_mm)
    common = [bit for bit in (1, 2, 4) if (sources & bit).any() and (targets & bit).any()]
    assert list(result) == common
    for bit, distances in result.items():
        pairs = cdist(
            np.argwhere(sources & bit) * np.array(spacing_mm),
            np.argwhere(targets & bit) * np.array(spacing_mm),
        )
        np.testing.assert_allclose(distances, pairs.min(axis=1), rtol=1e-12)
