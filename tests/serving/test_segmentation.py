"""What a segmentation says of itself, counted by hand."""

import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.segmentation import Segmentation, corrected

SHAPE = (4, 3, 5)
SPACING_MM = (2.0, 1.0, 2.5)
"""A voxel is 5 mm³."""


def segmentation(covered, origin, classes=None, targets="classes", scheme="brats2020"):
    card = ModelCard(Recipe("none"), ("flair",), scheme, targets, 4, 10**6, "f" * 64, (), (), {})
    classes = np.zeros(SHAPE, np.uint8) if classes is None else classes
    geometry = Geometry(SHAPE, np.diag([-2.0, -1.0, 2.5, 1.0]))
    return Segmentation(
        "A_001", card, classes, np.asarray(covered, np.float32), origin, geometry, (), {}
    )


def one_voxel(*probabilities):
    return np.reshape(probabilities, (1, 1, 1, -1))


@pytest.mark.parametrize(
    "probabilities, nats",
    [
        ((1, 0, 0, 0), 0),
        ((0.5, 0.5, 0, 0), np.log(2)),
        ((0.25,) * 4, np.log(4)),
        ((0.9, 0.1, 0, 0), -0.9 * np.log(0.9) - 0.1 * np.log(0.1)),
    ],
)
def test_entropy_of_classes_is_that_of_their_distribution(probabilities, nats):
    found = segmentation(one_voxel(*probabilities), (1, 2, 3)).entropy()
    assert found.dtype == np.float32 and found.shape == SHAPE
    assert found[1, 2, 3] == pytest.approx(nats, abs=1e-6)
    found[1, 2, 3] = 0
    assert not found.any(), "outside the box nothing is in doubt"


@pytest.mark.parametrize(
    "probabilities, nats",
    [((1, 1, 0), 0), ((0, 0, 0), 0), ((0.5, 0.5, 0.5), 3 * np.log(2)), ((1, 0.5, 0), np.log(2))],
)
def test_entropy_of_regions_is_the_sum_of_three_yes_or_no(probabilities, nats):
    found = segmentation(one_voxel(*probabilities), (0, 0, 0), targets="regions").entropy()
    assert found[0, 0, 0] == pytest.approx(nats, abs=1e-6) and not found[1:].any()


def test_entropy_is_never_below_zero_though_a_probability_be_rounded_up():
    above = np.nextafter(np.float32(1), np.float32(2))
    assert segmentation(one_voxel(above, 0, 0, 0), (0, 0, 0)).entropy().min() == 0
    assert segmentation(one_voxel(above, 0, 0), (0, 0, 0), targets="regions").entropy().min() == 0


@pytest.mark.parametrize("targets, background", [("classes", (1, 0, 0, 0)), ("regions", (0, 0, 0))])
def test_probabilities_fill_the_grid_around_a_box_that_leaves_it(targets, background):
    box = np.random.default_rng(0).random((3, 3, 3, len(background))).astype(np.float32)
    found = segmentation(box, (-1, 1, 3), targets=targets).probabilities
    expected = np.empty((*SHAPE, len(background)), np.float32)
    expected[...] = background
    expected[0:2, 1:3, 3:5] = box[1:, :2, :2]
    np.testing.assert_array_equal(found, expected)


def test_volumes_are_voxels_times_spacings():
    classes = np.zeros(SHAPE, np.uint8)
    classes[0, 0] = [spec.NCR, spec.ED, spec.ED, spec.ET, spec.ET]
    classes[1, 0] = [spec.ET, spec.RC, spec.RC, spec.RC, spec.RC]
    nothing = one_voxel(1, 0, 0, 0, 0)
    found = segmentation(nothing, (0, 0, 0), classes, scheme="brats2024").volumes_ml
    assert list(found) == ["WT", "TC", "ET", "NCR/NET", "ED", "RC"]
    assert found == pytest.approx(
        {"WT": 0.03, "TC": 0.02, "ET": 0.015, "NCR/NET": 0.005, "ED": 0.01, "RC": 0.02}
    )
    assert all(type(volume) is float for volume in found.values())
    empty = segmentation(nothing, (0, 0, 0)).volumes_ml
    assert empty == {"WT": 0, "TC": 0, "ET": 0, "NCR/NET": 0, "ED": 0}


@pytest.mark.parametrize(
    "scheme, values",
    [("brats2020", [0, 1, 2, 4]), ("brats2023", [0, 1, 2, 3]), ("msd", [0, 2, 1, 3])],
)
def test_labels_are_the_schemes_values(scheme, values):
    classes = np.zeros(SHAPE, np.uint8)
    classes[1, 1, :4] = range(4)
    found = segmentation(one_voxel(1, 0, 0, 0), (0, 0, 0), classes, scheme=scheme).labels
    assert found.dtype == np.uint8 and found[1, 1, :4].tolist() == values


def islands():
    """A tumour of every class and small islands of each beside it, far apart."""
    classes = np.zeros((20, 9, 8), np.uint8)
    classes[2:10, 1:8, 1:7] = spec.ED
    classes[3:7, 2:5, 2:6] = spec.NCR
    classes[3:5, 2:5, 2:6] = spec.ET
    classes[6, 4, 2] = spec.ET  # within the core: taken out of ET
    classes[8, 6, 5] = spec.NCR  # within edema: taken out of TC
    classes[15, 4, 3:5] = spec.ET  # alone: taken out of WT
    classes[18, 7, 7] = spec.RC  # in no region: stays
    return classes


def test_what_each_correction_changed_is_told_in_millilitres():
    classes = islands()
    kept = classes.copy()
    found, told = corrected(classes, False, PostProcessing(0, (100.0, 50.0, 20.0)), SPACING_MM)
    expected = kept.copy()
    expected[6, 4, 2], expected[8, 6, 5], expected[15, 4, 3:5] = spec.NCR, spec.ED, spec.BACKGROUND
    np.testing.assert_array_equal(found, expected)
    assert told == (
        "small components of WT, 0.01 mL in all, replaced by background",
        "small components of TC, 0.005 mL in all, replaced by ED",
        "small components of ET, 0.005 mL in all, replaced by NCR/NET",
    )
    np.testing.assert_array_equal(classes, kept)


def test_faint_enhancement_goes_before_components_are_looked_at():
    found, told = corrected(islands(), True, PostProcessing(999, (100.0, 0.0, 0.0)), SPACING_MM)
    assert set(np.unique(found)) == {0, 1, 2, 4} and not found[15].any()
    assert told == (
        "ET of 0.135 mL replaced by NCR/NET",
        "small components of WT, 0.01 mL in all, replaced by background",
    )


@pytest.mark.parametrize("faint", [False, True])
def test_where_nothing_changes_nothing_is_told(faint):
    classes = np.zeros(SHAPE, np.uint8)
    for class_id in (spec.BACKGROUND, spec.ED):
        classes[1:3] = class_id
        found, told = corrected(classes, faint, PostProcessing(9, (9.0, 9.0, 9.0)), SPACING_MM)
        assert told == () and (found == classes).all()
