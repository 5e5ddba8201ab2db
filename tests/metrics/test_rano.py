"""RANO diameters of lesions whose axes are known."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord import spec
from brats_tfrecord.metrics import rano
from brats_tfrecord.metrics.extent import extents

SHAPE = (70, 64, 24)


def block(*boxes, value=spec.ET):
    """Classes [70, 64, 24] with boxes ((x, x), (y, y), (z, z)) of a class, ends excluded."""
    classes = np.zeros(SHAPE, np.uint8)
    for box in boxes:
        classes[tuple(slice(*side) for side in box)] = value
    return classes


def ellipsoid(semi_axes_mm, degrees=0.0, spacing_mm=(1, 1, 1), shape=SHAPE):
    """An enhancing ellipsoid about the middle of the grid, turned in the axial plane."""
    centre = (np.array(shape) // 2) * spacing_mm
    x, y, z = (
        np.arange(count).reshape([-1 if axis == own else 1 for own in range(3)]) * step - middle
        for axis, (count, step, middle) in enumerate(zip(shape, spacing_mm, centre))
    )
    angle = np.deg2rad(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    a, b, c = semi_axes_mm
    inside = (along / a) ** 2 + (across / b) ** 2 + (z / c) ** 2 <= 1
    return inside.astype(np.uint8) * spec.ET


def polar():
    """(distance, angle in degrees) of every voxel [70, 64, 1] from the middle of the slice."""
    x, y = np.ogrid[:70, :64]
    return np.hypot(x - 35, y - 32)[..., None], np.rad2deg(np.arctan2(y - 32, x - 35))[..., None]


def in_slices(plane, first=5, last=12):
    """Enhancing tumour of one shape [70, 64, 1] in the slices first … last - 1."""
    classes = np.zeros(SHAPE, np.uint8)
    classes[..., first:last] = plane * np.uint8(spec.ET)
    return classes


@pytest.mark.parametrize("degrees", [0, 17, 30, 45, 90, 118])
@pytest.mark.parametrize("semi_axes", [(15, 10, 7), (20, 12, 6), (8, 6, 5), (25, 8, 9)])
def test_diameters_of_an_ellipsoid_are_its_axes_to_a_voxel(semi_axes, degrees):
    [lesion] = rano.enhancing_lesions(ellipsoid(semi_axes, degrees), (1, 1, 1))
    assert lesion.diameters_mm == pytest.approx((2 * semi_axes[0], 2 * semi_axes[1]), abs=1.2)
    assert np.abs(np.subtract(lesion.centre, (35, 32, 12))).max() <= 2, "near the middle"
    assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * np.prod(semi_axes) / 1000, rel=0.05)
    assert lesion.measurable


def test_spacing_is_in_millimetres_on_each_axis():
    spacing_mm = (1.0, 1.5, 4.0)
    classes = ellipsoid((12, 24, 20), spacing_mm=spacing_mm)
    [lesion] = rano.enhancing_lesions(classes, spacing_mm)
    assert lesion.diameters_mm == pytest.approx((48, 24), abs=1.6)
    row = block(((10, 25), (20, 21), (5, 6)))
    [lesion] = rano.enhancing_lesions(row, (2, 1.5, 3), smallest_mm3=0)
    assert lesion.diameters_mm == pytest.approx((30, 1.5), abs=0.01), (
        "15 voxels of 2 mm, one of 1.5 mm"
    )


def test_a_single_voxel_is_its_own_size():
    [lesion] = rano.enhancing_lesions(block(((5, 6),) * 3), (1, 1, 1), smallest_mm3=0)
    assert lesion.diameters_mm == pytest.approx((1, 1)) and lesion.centre == (5, 5, 5)
    assert rano.enhancing_lesions(block(((5, 6),) * 3), (1, 1, 1)) == []
    assert rano.enhancing_lesions(np.zeros(SHAPE, np.uint8), (1, 1, 1)) == []


def test_diameters_are_those_of_the_enhancing_tumour_alone():
    classes = block(((5, 60), (5, 55), (2, 20)), value=spec.ED)
    classes[20:40, 20:32, 8:12] = spec.ET
    classes[45:55, 20:45, 4:18] = spec.NCR
    [tumour] = extents(classes, (1, 1, 1))
    [lesion] = tumour.lesions
    # Of a rectangle, 20 x 12: the diagonal, and across it from one long side to the other.
    assert lesion.diameters_mm[0] == pytest.approx(np.hypot(20, 12), abs=1)
    assert tumour.axial_extent_mm[0] > 70
    assert lesion.centre[2] in range(8, 12) and classes[lesion.centre] == spec.ET


def test_a_ring_with_a_gap_is_not_measured_across_hole_or_gap():
    """Outer radius 20, inner 14: inside the wall no line is longer than 2 sqrt(20² - 14²)."""
    distance, angle = polar()
    ring = (distance <= 20.4) & (distance >= 13.6)
    chord = 2 * np.sqrt(20.4**2 - 13.6**2)
    for plane in (ring, ring & (np.abs(angle) > 25)):
        [tumour] = extents(in_slices(plane), (1, 1, 1))
        [lesion] = tumour.lesions
        assert max(lesion.diameters_mm) <= chord + 1.5
        assert lesion.diameters_mm[0] == pytest.approx(chord, abs=1.5)
        assert tumour.axial_extent_mm[1] > 38, "from outline to outline it is the whole ring"
    thin = in_slices((distance <= 20.4) & (distance >= 17.5) & (np.abs(angle) > 25))
    [lesion] = rano.enhancing_lesions(thin, (1, 1, 1))
    assert not lesion.measurable and lesion.diameters_mm[1] < 10


def test_a_crescent_is_measured_inside_its_horns():
    """A disc of radius 25 less a disc of radius 22 that is 10 to the right: 13 thick at most."""
    distance, _ = polar()
    x, y = np.ogrid[:70, :64]
    bite = np.hypot(x - 45, y - 32)[..., None] < 22
    [tumour] = extents(in_slices((distance <= 25) & ~bite), (1, 1, 1))
    [lesion] = tumour.lesions
    chord = 2 * np.sqrt(25**2 - 12**2)  # tangent to the bite at x = -12
    assert lesion.diameters_mm[0] == pytest.approx(chord, abs=1.5)
    assert tumour.axial_extent_mm[0] > 48 > lesion.diameters_mm[0] + 1


def test_the_perpendicular_crosses_the_longest_diameter():
    """Two bars in one slice, joined above: the second bar is no perpendicular of the first."""
    classes = block(
        ((10, 40), (10, 14), (5, 9)),  # 30 x 4 mm along x
        ((50, 54), (20, 45), (5, 9)),  # 4 x 25 mm along y
        ((10, 54), (13, 22), (9, 10)),  # a bridge one slice above
    )
    lower = np.where(np.arange(24) < 9, classes, 0).astype(np.uint8)
    assert len(rano.enhancing_lesions(lower, (1, 1, 1))) == 2
    [lesion] = rano.enhancing_lesions(classes, (1, 1, 1))
    assert lesion.centre[2] == 9 and lesion.diameters_mm[1] < 15


def test_lesions_are_26_connected_and_sorted_by_their_product():
    classes = block(
        ((5, 20), (5, 20), (5, 10)),
        ((40, 52), (10, 22), (5, 10)),
        ((52, 54), (22, 24), (10, 12)),  # touches the second at a corner
        ((40, 44), (40, 44), (5, 9)),
    )
    lesions = rano.enhancing_lesions(classes, (1, 1, 1))
    assert [round(lesion.volume_ml, 3) for lesion in lesions] == [1.125, 0.728, 0.064]
    products = [lesion.product_mm2 for lesion in lesions]
    assert products == sorted(products, reverse=True)
    burden = rano.burden(lesions[::-1])
    assert (burden.lesions, burden.measurable) == (3, 2)
    assert (burden.longest_mm, burden.across_mm) == lesions[0].diameters_mm
    assert burden.sum_mm2 == pytest.approx(products[0] + products[1])
    assert rano.burden([]) == rano.TumourBurden(0, 0, None, None, 0)


def test_the_sum_has_five_targets_at_most():
    classes = block(*[((2, 14), (10 * n, 10 * n + 9), (2, 4)) for n in range(6)])
    classes[2:30, :9, 2:4] = spec.ET  # the first is larger
    lesions = rano.enhancing_lesions(classes, (1, 1.3, 1))
    burden = rano.burden(lesions)
    assert burden.measurable == 6
    assert burden.sum_mm2 == pytest.approx(sum(lesion.product_mm2 for lesion in lesions[:5]))


@pytest.mark.parametrize(
    "radius_mm, depth, thickness_mm, measurable",
    [
        (5.4, 3, 1.0, True),
        (4.4, 3, 1.0, False),  # 9 mm
        (5.4, 1, 1.0, False),  # on one slice only
        (6.4, 3, 5.0, True),
        (6.4, 3, 7.0, False),  # twice the thickness are 14 mm
        (7.4, 3, 7.0, True),
    ],
)
def test_a_lesion_is_measurable_from_ten_millimetres_on(radius_mm, depth, thickness_mm, measurable):
    distance, _ = polar()
    classes = in_slices(distance <= radius_mm, 5, 5 + depth)
    [lesion] = rano.enhancing_lesions(classes, (1, 1, thickness_mm))
    assert lesion.measurable == measurable


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0.5, 3)] * 3))
def test_no_diameter_exceeds_the_extents(seed, spacing_mm):
    draw = np.random.default_rng(seed)
    classes = (draw.random((7, 6, 3)) < 0.6).astype(np.uint8) * spec.ET
    for tumour in extents(classes, spacing_mm, smallest_mm3=0):
        for lesion in tumour.lesions:
            longest, across = lesion.diameters_mm
            assert min(spacing_mm[:2]) <= across <= longest + 1e-6
            assert longest <= tumour.axial_extent_mm[0] + max(spacing_mm[:2])
            assert classes[lesion.centre] == spec.ET


def test_a_lesion_of_60_ml_takes_well_under_a_second():
    classes = ellipsoid((24.3, 24.3, 24.3), shape=(60, 60, 60))
    assert np.count_nonzero(classes) == pytest.approx(60_000, rel=0.01)
    started = time.process_time()
    rano.enhancing_lesions(classes, (1, 1, 1))
    assert time.process_time() - started < 1
