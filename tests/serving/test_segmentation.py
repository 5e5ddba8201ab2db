"""Entropy, probabilities, volumes and labels of segmentations small enough to check by hand."""

import numpy as np
import pytest
import stand_in

from brats_tfrecord import spec
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.segmentation import Segmentation, apply_post_processing

SHAPE = (4, 3, 5)
SPACING_MM = (2.0, 1.0, 2.5)
"""A voxel is 5 mm³."""


def segmentation(
    box_probabilities, box_origin, classes=None, targets="classes", scheme="brats2020"
):
    card = stand_in.model_card(Recipe("none"), ("flair",), label_scheme=scheme, targets=targets)
    classes = np.zeros(SHAPE, np.uint8) if classes is None else classes
    geometry = Geometry(SHAPE, np.diag([-2.0, -1.0, 2.5, 1.0]))
    return Segmentation(
        "A_001",
        card,
        classes,
        np.asarray(box_probabilities, np.float32),
        box_origin,
        geometry,
        (),
        {},
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
def test_entropy_of_classes_is_the_entropy_of_their_distribution(probabilities, nats):
    entropy = segmentation(one_voxel(*probabilities), (1, 2, 3)).entropy()
    assert entropy.dtype == np.float32 and entropy.shape == SHAPE
    assert entropy[1, 2, 3] == pytest.approx(nats, abs=1e-6)
    entropy[1, 2, 3] = 0
    assert not entropy.any(), "the entropy outside the box is 0"


@pytest.mark.parametrize(
    "probabilities, nats",
    [((1, 1, 0), 0), ((0, 0, 0), 0), ((0.5, 0.5, 0.5), 3 * np.log(2)), ((1, 0.5, 0), np.log(2))],
)
def test_entropy_of_regions_is_the_sum_of_binary_entropies(probabilities, nats):
    entropy = segmentation(one_voxel(*probabilities), (0, 0, 0), targets="regions").entropy()
    assert entropy[0, 0, 0] == pytest.approx(nats, abs=1e-6) and not entropy[1:].any()


def test_entropy_is_not_negative_if_rounding_raises_a_probability_above_1():
    above = np.nextafter(np.float32(1), np.float32(2))
    assert segmentation(one_voxel(above, 0, 0, 0), (0, 0, 0)).entropy().min() == 0
    assert segmentation(one_voxel(above, 0, 0), (0, 0, 0), targets="regions").entropy().min() == 0


@pytest.mark.parametrize("targets, background", [("classes", (1, 0, 0, 0)), ("regions", (0, 0, 0))])
def test_probabilities_outside_the_box_are_background(targets, background):
    box = np.random.default_rng(0).random((3, 3, 3, len(background))).astype(np.float32)
    probabilities = segmentation(box, (-1, 1, 3), targets=targets).probabilities
    expected = np.empty((*SHAPE, len(background)), np.float32)
    expected[...] = background
    expected[0:2, 1:3, 3:5] = box[1:, :2, :2]
    np.testing.assert_array_equal(probabilities, expected)


def test_volumes_are_voxel_counts_times_voxel_volume():
    classes = np.zeros(SHAPE, np.uint8)
    classes[0, 0] = [spec.NCR, spec.ED, spec.ED, spec.ET, spec.ET]
    classes[1, 0] = [spec.ET, spec.RC, spec.RC, spec.RC, spec.RC]
    background = one_voxel(1, 0, 0, 0, 0)
    volumes = segmentation(background, (0, 0, 0), classes, scheme="brats2024").volumes_ml
    assert list(volumes) == ["WT", "TC", "ET", "NCR/NET", "ED", "RC"]
    assert volumes == pytest.approx(
        {"WT": 0.03, "TC": 0.02, "ET": 0.015, "NCR/NET": 0.005, "ED": 0.01, "RC": 0.02}
    )
    assert all(type(volume) is float for volume in volumes.values())
    empty = segmentation(background, (0, 0, 0)).volumes_ml
    assert empty == {"WT": 0, "TC": 0, "ET": 0, "NCR/NET": 0, "ED": 0}


@pytest.mark.parametrize(
    "scheme, values",
    [("brats2020", [0, 1, 2, 4]), ("brats2023", [0, 1, 2, 3]), ("msd", [0, 2, 1, 3])],
)
def test_labels_have_the_file_values_of_the_label_scheme(scheme, values):
    classes = np.zeros(SHAPE, np.uint8)
    classes[1, 1, :4] = range(4)
    labels = segmentation(one_voxel(1, 0, 0, 0), (0, 0, 0), classes, scheme=scheme).labels
    assert labels.dtype == np.uint8 and labels[1, 1, :4].tolist() == values


def islands():
    """Makes a tumour of every class, with small components of each class elsewhere."""
    classes = np.zeros((20, 9, 8), np.uint8)
    classes[2:10, 1:8, 1:7] = spec.ED
    classes[3:7, 2:5, 2:6] = spec.NCR
    classes[3:5, 2:5, 2:6] = spec.ET
    classes[6, 4, 2] = spec.ET  # within the core: removed from ET
    classes[8, 6, 5] = spec.NCR  # within edema: removed from TC
    classes[15, 4, 3:5] = spec.ET  # isolated: removed from WT
    classes[18, 7, 7] = spec.RC  # in no region: kept
    return classes


def test_every_change_is_described_with_its_volume():
    classes = islands()
    original = classes.copy()
    result, changes = apply_post_processing(
        classes, False, PostProcessing(0, (100.0, 50.0, 20.0)), SPACING_MM
    )
    expected = original.copy()
    expected[6, 4, 2], expected[8, 6, 5], expected[15, 4, 3:5] = spec.NCR, spec.ED, spec.BACKGROUND
    np.testing.assert_array_equal(result, expected)
    assert changes == (
        "small components of WT, 0.01 mL in all, replaced by background",
        "small components of TC, 0.005 mL in all, replaced by ED",
        "small components of ET, 0.005 mL in all, replaced by NCR/NET",
    )
    np.testing.assert_array_equal(classes, original)


def test_small_enhancing_tumour_is_replaced_before_components_are_removed():
    result, changes = apply_post_processing(
        islands(), True, PostProcessing(999, (100.0, 0.0, 0.0)), SPACING_MM
    )
    assert set(np.unique(result)) == {0, 1, 2, 4} and not result[15].any()
    assert changes == (
        "ET of 0.135 mL replaced by NCR/NET",
        "small components of WT, 0.01 mL in all, replaced by background",
    )


@pytest.mark.parametrize("replace_enhancing", [False, True])
def test_no_change_is_described_if_nothing_changes(replace_enhancing):
    classes = np.zeros(SHAPE, np.uint8)
    for class_id in (spec.BACKGROUND, spec.ED):
        classes[1:3] = class_id
        result, changes = apply_post_processing(
            classes, replace_enhancing, PostProcessing(9, (9.0, 9.0, 9.0)), SPACING_MM
        )
        assert changes == () and (result == classes).all()
