"""Surface elements: areas and distances on geometry that can be measured by hand, and an oracle."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_distance import lookup_tables

from brats_tfrecord.metrics import elements

SPACING_MM = (0.5, 2.0, 3.0)

masks = arrays.arrays(bool, (5, 4, 6)).filter(np.any)
spacings = st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 2.5])] * 3)


def code(*corners):
    """Code of a neighbourhood with these voxels (x, y, z) inside."""
    return sum(1 << 4 * x + 2 * y + z for x, y, z in corners)


def cube(first, last, shape=(20, 18, 16)):
    """A mask of the voxels from `first` to `last` along every axis."""
    mask = np.zeros(shape, bool)
    mask[(slice(first, last + 1),) * 3] = True
    return mask


@pytest.mark.parametrize(
    "corners, area_mm2",
    [
        # The four voxels of one side: a whole face of a voxel, across x, y or z.
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)], 2 * 3),
        ([(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)], 0.5 * 3),
        ([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)], 0.5 * 2),
        # Two neighbours along z: a rectangle over the diagonal of half voxels in x and y.
        ([(0, 0, 0), (0, 0, 1)], 3 * np.hypot(0.25, 1)),
        # One voxel: a triangle between the middles of its three edges.
        ([(0, 0, 0)], np.linalg.norm([2 * 3, 0.5 * 3, 0.5 * 2]) / 8),
        # Two opposite voxels: two triangles.
        ([(0, 0, 0), (1, 1, 1)], 2 * np.linalg.norm([2 * 3, 0.5 * 3, 0.5 * 2]) / 8),
    ],
)
def test_areas_by_hand(corners, area_mm2):
    areas = elements.element_areas(SPACING_MM)
    assert areas[code(*corners)] == pytest.approx(area_mm2)
    assert areas[255 - code(*corners)] == pytest.approx(area_mm2)  # inside out


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.9, 1.1, 1.4), SPACING_MM])
def test_areas_of_all_neighbourhoods_equal_those_of_surface_distance(spacing_mm):
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    bits = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL  # its value of every voxel
    areas = elements.element_areas(spacing_mm)
    assert areas[0] == areas[255] == 0 and (areas[1:255] > 0).all()
    for inside in range(256):
        theirs = sum(
            int(bits[x][y][z]) for x, y, z in np.ndindex(2, 2, 2) if inside & code((x, y, z))
        )
        assert areas[inside] == pytest.approx(expected[theirs], rel=1e-12)


def test_a_cube_moved_along_x():
    truth, prediction = cube(4, 11), np.roll(cube(4, 11), 3, axis=0)
    distances = elements.element_distances(truth, prediction, SPACING_MM)
    # Eight voxels have nine layers of elements, on which the cube's corners and edges are cut.
    assert len(distances.truth_mm2) == 9**3 - 7**3
    across = [2 * 3, 0.5 * 3, 0.5 * 2]
    faces = 2 * 7 * 7 * sum(across)
    edges = 4 * 7 * (3 * np.hypot(0.25, 1) + 2 * np.hypot(0.25, 1.5) + 0.5 * np.hypot(1, 1.5))
    corners = 8 * np.linalg.norm(across) / 8
    assert distances.truth_mm2.sum() == pytest.approx(faces + edges + corners)
    assert elements.hd95(distances) == elements.hd100(distances) == 3 * 0.5


def test_directions_differ_and_the_larger_percentile_counts():
    truth = cube(4, 11)
    prediction = truth.copy()
    prediction[17, 4:12, 4:12] = True  # a plate that is 6 voxels away
    distances = elements.element_distances(truth, prediction, (1, 1, 1))
    assert distances.truth_to_prediction.max() == 0
    assert elements.hd95(distances) == elements.hd100(distances) == 6
    swapped = elements.element_distances(prediction, truth, (1, 1, 1))
    assert elements.hd95(swapped) == 6
    assert elements.assd(swapped) == pytest.approx(elements.assd(distances))


def test_percentile_is_by_area_and_not_by_number():
    # 95 elements of 1 mm² at 0 mm, five at 7 mm: exactly 95 % of the area lies at 0 mm.
    lengths = np.array([7.0] * 5 + [0.0] * 95)
    even = elements.ElementDistances(lengths, np.zeros(1), np.ones(100), np.ones(1))
    assert elements.hd95(even) == 0
    larger = np.where(lengths > 0, 1.1, 1.0)
    heavy = elements.ElementDistances(lengths, np.zeros(1), larger, np.ones(1))
    assert elements.hd95(heavy) == 7
    assert elements.assd(heavy) == pytest.approx(7 * 5.5 / (95 + 5.5 + 1))


def test_surface_dice_is_the_share_of_area_within_the_tolerance():
    distances = elements.ElementDistances(
        np.array([0.0, 1.0, 1.5]), np.array([2.0, 9.0]), np.array([1.0, 2, 3]), np.array([4.0, 10])
    )
    assert elements.surface_dice(distances, 1) == pytest.approx((1 + 2) / 20)
    assert elements.surface_dice(distances, 2) == pytest.approx((1 + 2 + 3 + 4) / 20)


@settings(max_examples=60, derandomize=True)
@given(masks, masks, spacings)
def test_figures_equal_those_of_surface_distance(truth, prediction, spacing_mm):
    ours = elements.element_distances(truth, prediction, spacing_mm)
    theirs = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
    for figure, percent in ((elements.hd95, 95), (elements.hd100, 100)):
        expected = surface_distance.compute_robust_hausdorff(theirs, percent)
        assert figure(ours) == pytest.approx(expected, abs=1e-6)
    for tolerance_mm in (1, 2):
        expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance_mm)
        assert elements.surface_dice(ours, tolerance_mm) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, derandomize=True)
@given(masks, masks, spacings)
def test_surface_dice_without_distances_is_the_same(truth, prediction, spacing_mm):
    codes = truth.view(np.uint8), prediction.view(np.uint8)
    distances = elements.structure_elements(*codes, spacing_mm)[1]
    tolerances_mm = [0.5, 1, 2, 11]  # the last one is beyond the nearest offsets
    for last in (3, 4):
        values = elements.structure_surface_dice(*codes, spacing_mm, tolerances_mm[:last])
        assert values[1] == pytest.approx(
            [elements.surface_dice(distances, tolerance) for tolerance in tolerances_mm[:last]]
        )


def test_structures_in_one_pass_equal_single_structures():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 8, (2, 6, 7, 5), np.uint8)
    truth = truth & 0b110 | 0b1000
    together = elements.structure_elements(truth, prediction & 0b0111, SPACING_MM)
    assert list(together) == [2, 4]  # bit 1 is not in the truth, bit 8 not in the prediction
    for bit, distances in together.items():
        alone = elements.element_distances(truth & bit != 0, prediction & bit != 0, SPACING_MM)
        for name, values in vars(alone).items():
            np.testing.assert_array_equal(getattr(distances, name), values)
    surface_dice = elements.structure_surface_dice(truth, prediction & 0b0111, SPACING_MM, [1, 2])
    assert surface_dice == {
        bit: [pytest.approx(elements.surface_dice(distances, mm)) for mm in (1, 2)]
        for bit, distances in together.items()
    }


def test_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="no surface"):
        elements.element_distances(np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool), (1, 1, 1))
