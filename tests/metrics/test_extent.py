"""Sizes of tumours on masks that can be measured by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord import spec
from brats_tfrecord.metrics.extent import extents, volumes_ml

SHAPE = (20, 24, 16)


def test_row_of_voxels_is_measured_from_face_to_face():
    classes = np.zeros(SHAPE, np.uint8)
    classes[3:8, 4, 5] = spec.ED
    [tumour] = extents(classes, (2, 1, 3), smallest_mm3=0)
    assert tumour.centre == (5, 4, 5)
    assert tumour.extent_mm == pytest.approx(10)  # 5 voxels of 2 mm
    assert tumour.axial_extent_mm == pytest.approx((10, 1)) and tumour.axial_slice == 5
    assert tumour.volumes_ml == pytest.approx(
        {"WT": 0.03, "TC": 0, "ET": 0, "NCR/NET": 0, "ED": 0.03}
    )


def test_single_voxel_and_empty_mask():
    classes = np.zeros(SHAPE, np.uint8)
    assert extents(classes, (1, 1, 1)) == []
    classes[7, 8, 9] = spec.ET
    [tumour] = extents(classes, (1, 1, 1), smallest_mm3=0)
    assert (tumour.centre, tumour.extent_mm, tumour.axial_extent_mm) == ((7, 8, 9), 1, (1, 1))
    assert extents(classes, (1, 1, 1)) == [], "1 mm³ is below the default of 50"


def test_diameters_of_a_cross_and_of_oblique_stairs():
    classes = np.zeros(SHAPE, np.uint8)
    classes[2:15, 9, 3] = spec.ED  # 13 mm along x
    classes[8, 6:13, 3] = spec.NCR  # 7 mm along y
    classes[8, 9, 3:13] = spec.ET  # 10 mm upwards
    [tumour] = extents(classes, (1, 1, 1), smallest_mm3=0)
    assert tumour.axial_extent_mm == pytest.approx((13, 7)) and tumour.axial_slice == 3
    assert tumour.extent_mm == pytest.approx(13)
    assert tumour.volumes_ml == pytest.approx(
        {"WT": 0.028, "TC": 0.016, "ET": 0.01, "NCR/NET": 0.006, "ED": 0.012}
    )
    steps = np.zeros(SHAPE, np.uint8)
    steps[range(4, 10), 9, range(4, 10)] = spec.ET
    [stairs] = extents(steps, (1, 1, 1), smallest_mm3=0)
    assert stairs.extent_mm == pytest.approx(np.hypot(6, 5)), "face to face: 5 + 1 and 5"


def test_volumes_of_five_classes_include_the_resection_cavity():
    assert volumes_ml([900, 1, 2, 3, 4], (1, 2, 5), classes=5) == pytest.approx(
        {"WT": 0.06, "TC": 0.04, "ET": 0.03, "NCR/NET": 0.01, "ED": 0.02, "RC": 0.04}
    )


def test_parts_are_sorted_by_size_and_exclude_the_cavity():
    classes = np.zeros(SHAPE, np.uint8)
    classes[1:3, 1:3, 1:3] = spec.NCR
    classes[8:12, 8:12, 8:12] = spec.ED
    classes[9:11, 9:11, 9:11] = spec.ET
    classes[15:19, 15:19, 1:9] = spec.RC
    first, second = extents(classes, (1, 1, 1), smallest_mm3=7)
    sizes = [[part.volumes_ml[region] for region in spec.REGIONS] for part in (first, second)]
    assert sizes == [pytest.approx([0.064, 0.008, 0.008]), pytest.approx([0.008, 0.008, 0])]
    assert len(extents(classes, (1, 1, 1), smallest_mm3=8)) == 1


def test_centre_of_a_ring_is_a_tumour_voxel():
    classes = np.zeros(SHAPE, np.uint8)
    x, y = np.ogrid[:20, :24]
    radius = np.hypot(x - 10, y - 12)
    classes[..., 8] = np.where((radius > 5) & (radius < 7), spec.ET, 0)
    [tumour] = extents(classes, (1, 1, 1))
    assert classes[tumour.centre] == spec.ET
    assert tumour.axial_extent_mm == pytest.approx((13.9, 13.5), abs=1.0)


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0.5, 3)] * 3))
def test_diameters_and_volumes_are_consistent(seed, spacing_mm):
    draw = np.random.default_rng(seed)
    classes = (draw.random((6, 5, 4)) < 0.4).astype(np.uint8) * spec.ET
    parts = extents(classes, spacing_mm, smallest_mm3=0)
    assert sum(part.volumes_ml["ET"] for part in parts) == pytest.approx(
        np.count_nonzero(classes) * np.prod(spacing_mm) / 1000
    )
    for part in parts:
        assert classes[part.centre] == spec.ET
        longest, across = part.axial_extent_mm
        assert across <= longest + 1e-9 <= part.extent_mm + 2e-9
        assert longest >= min(spacing_mm[:2])
