import dataclasses

import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.preprocess import masks
from brats_tfrecord.training.data.record_reader import RecordReader
from brats_tfrecord.training.logbook import overlays

FOLDS = (0, 1, 2)
MODALITIES = ("flair", "t1ce", "t2")


@pytest.fixture(scope="module")
def drawn(dataset):
    """Two cases: (`Overlays`, function (case id -> classes of the whole crop) -> pictures)."""
    shown = overlays.Overlays(dataset, FOLDS, MODALITIES, count=2)
    cases = dataset.case_ids(FOLDS)

    def draw(classes):
        planes = {case: classes[cases[case]][:, :, z] for case, z in shown.slices.items()}
        return shown.draw(7, planes)

    return shown, draw


def empty_predictions(dataset):
    return {case_id: np.zeros(dataset.crop_shape, int) for case_id in dataset.case_ids(FOLDS)}


def truths(dataset):
    """case id -> classes [X, Y, Z] as stored."""
    reader, classes = RecordReader(dataset, FOLDS, MODALITIES), {}
    for case, case_id in enumerate(reader.case_ids):
        packed = np.empty(dataset.crop_shape, np.uint8)
        reader.read_mask(case, (0, 0, 0), packed)
        classes[case_id] = masks.unpack_classes(packed)
    return classes


def with_sizes(dataset, sizes):
    cases = [
        dataclasses.replace(case, class_voxels=(99, sizes.get(case.case_id, 0), 0, 0))
        for case in dataset.cases
    ]
    return dataclasses.replace(dataset, cases=tuple(cases))


def test_cases_are_spread_over_the_tumour_sizes(dataset):
    sizes = {"case0": 50, "case1": 10, "case2": 40, "case3": 0, "case4": 20, "case5": 30}
    sized = with_sizes(dataset, sizes)

    def chosen(count, folds=FOLDS):
        return overlays.Overlays(sized, folds, MODALITIES, count=count).case_ids

    assert chosen(3) == ["case1", "case5", "case0"]
    assert chosen(9) == ["case1", "case4", "case5", "case2", "case0"]  # case3 has no tumour
    assert chosen(4, (1,)) == ["case1", "case4"]


def test_each_shown_case_gets_one_picture(drawn, dataset):
    shown, draw = drawn
    pictures = draw(empty_predictions(dataset))
    assert pictures.dtype == np.uint8 and pictures.ndim == 4 and len(pictures) == 2
    cases = dataset.case_ids(FOLDS)
    assert [cases[case] for case in shown.slices] == shown.case_ids


def test_a_perfect_prediction_looks_like_the_truth(dataset, drawn):
    _, draw = drawn
    perfect, empty = draw(truths(dataset)), draw(empty_predictions(dataset))
    last_third = perfect.shape[2] * 2 // 3
    np.testing.assert_array_equal(perfect[:, :, :last_third], empty[:, :, :last_third])
    for picture, blank in zip(perfect, empty):
        changed = np.any(picture != blank, axis=-1)
        assert changed.any()
        # The same colours as in the truth's panel, one panel to the left, give or take a pixel.
        rows, columns = np.nonzero(changed)
        here = picture[rows, columns].astype(int)
        left = columns - picture.shape[1] // 3
        unlike = min(np.abs(here - picture[rows, left + shift]).mean() for shift in range(-4, 5))
        assert unlike < 0.2 * np.abs(here - blank[rows, columns]).mean()


@pytest.mark.parametrize("axis, part", [(0, "left"), (1, "top")])
def test_the_patients_right_is_on_the_left_and_the_front_above(dataset, drawn, axis, part):
    """Low X of LPS order is the patient's right, low Y the front."""
    low = empty_predictions(dataset)
    for classes in low.values():
        np.moveaxis(classes, axis, 0)[:4] = spec.ET
    _, draw = drawn
    empty = draw(empty_predictions(dataset))[0]
    changed = np.nonzero(np.any(draw(low)[0] != empty, axis=-1))
    height, width = empty.shape[:2]
    if part == "left":
        assert np.mean(changed[1]) < width * 5 / 6 - 50
    else:
        assert np.mean(changed[0]) < height / 2 - 50


def test_the_slice_with_most_core_is_chosen_or_else_with_most_tumour():
    classes = np.zeros((4, 5, 6), np.uint8)
    assert overlays.choose_slice(classes) == 3
    classes[:, :, 1] = spec.ED
    assert overlays.choose_slice(classes) == 1
    classes[0, :2, 4], classes[0, 0, 5] = spec.ET, spec.NCR
    assert overlays.choose_slice(classes) == 4


def test_the_background_is_black_and_the_brain_covers_the_grey_levels():
    stored = np.full((20, 30), -0.4, np.float32)  # the value of 0 after z-scoring
    stored[5:15, 5:25] = np.linspace(-1.5, 3, 200).reshape(10, 20)
    grey, brain = overlays.window(stored)
    assert brain.sum() == 200 and (grey[~brain] == 0).all()
    assert grey[brain].min() > 0 and grey.max() == 1
    grey, brain = overlays.window(np.zeros((3, 4), np.float32))
    assert not grey.any() and not brain.any()


def test_t1ce_is_shown_or_else_the_best_available(dataset):
    assert overlays.Overlays(dataset, (0,), ("t2", "t1ce")).modality == "t1ce"
    assert overlays.Overlays(dataset, (0,), ("t1", "t2")).modality == "t2"


def test_without_tumour_nothing_is_drawn(dataset):
    without_tumour = overlays.Overlays(with_sizes(dataset, {}), FOLDS, MODALITIES)
    assert without_tumour.case_ids == [] and without_tumour.draw(1, {}).shape[0] == 0
