"""Nearest targets, by every way they are found, against all pairs measured."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from brats_tfrecord.metrics import nearest

SPACINGS_MM = [(1, 1, 1), (0.9, 0.9, 3.0), (5.0, 0.4, 1.3), (1e-3, 1.0, 70.0)]


def both_planes(gap):
    """Two parallel planes of 24 x 25 voxels: every point is as far as the gap."""
    sources, targets = np.zeros((2, gap + 1, 24, 25), np.uint8)
    sources[0] = targets[gap] = 1
    return sources, targets


def stragglers():
    """A large shared plane, and a few sources off it, up to the offsets' reach and beyond."""
    sources, targets = both_planes(0)
    air = [(20, 0), (0, 0), (0, 0)]
    sources, targets = np.pad(sources, air), np.pad(targets, air)
    for x, y in ((0, 3), (9, 20), (12, 7), (15, 0)):
        sources[x, y, 2 * y % 25] = 1
    return sources, targets


def noise():
    """Sparse marks of three structures; one has no target."""
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(0, 8, (2, 14, 11, 12), np.uint8) * (
        rng.random((2, 14, 11, 12)) < 0.05
    ).astype(np.uint8)
    return sources, targets & np.uint8(0b101)


def two_corners():
    """One voxel each, at opposite corners."""
    sources, targets = np.zeros((2, 30, 20, 40), np.uint8)
    sources[0, 0, 0] = targets[-1, -1, -1] = 1
    return sources, targets


GEOMETRIES = {
    "near": both_planes(2),
    "transform": both_planes(14),
    "tree": both_planes(60),
    "wide": stragglers(),
    "noise": noise(),
    "corners": two_corners(),
}


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_all_pairs(geometry, spacing_mm):
    sources, targets = GEOMETRIES[geometry]
    found = nearest.nearest_distances(sources, targets, spacing_mm)
    common = [bit for bit in (1, 2, 4) if (sources & bit).any() and (targets & bit).any()]
    assert list(found) == common
    for bit, distances in found.items():
        pairs = cdist(
            np.argwhere(sources & bit) * np.array(spacing_mm),
            np.argwhere(targets & bit) * np.array(spacing_mm),
        )
        np.testing.assert_allclose(distances, pairs.min(axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    "geometry, way",
    [("transform", "distance_transform_edt"), ("tree", "cKDTree"), ("near", None), ("wide", None)],
)
def test_each_way_is_taken_where_it_is_the_cheapest(geometry, way, monkeypatch):
    taken = []
    for place, name in ((nearest.ndimage, "distance_transform_edt"), (nearest, "cKDTree")):
        original = getattr(place, name)
        monkeypatch.setattr(
            place,
            name,
            lambda *args, name=name, original=original, **options: (
                taken.append(name) or original(*args, **options)
            ),
        )
    sources, targets = GEOMETRIES[geometry]
    if geometry == "wide":
        sources = sources.copy()
        sources[:11] = 0  # what lies beyond the offsets' reach
    nearest.nearest_distances(sources, targets, (1, 1, 1))
    assert taken == ([way] if way else [])


def test_offsets_leave_no_shorter_one_out():
    for spacing_mm in SPACINGS_MM:
        steps, lengths = nearest._offsets(tuple(map(float, spacing_mm)))
        assert (np.diff(lengths) >= 0).all() and lengths[0] == 0
        longest = [int(lengths[-1] / length) for length in spacing_mm]
        every = np.stack(np.meshgrid(*(np.arange(-n - 1, n + 2) for n in longest)), -1)
        norms = np.sqrt(((every * np.array(spacing_mm)) ** 2).sum(-1))
        assert np.count_nonzero(norms <= lengths[-1]) == len(steps)
