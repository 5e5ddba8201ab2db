"""Segmentation of thick slices: resampled to 1 mm, predicted, resampled to the case's own grid."""

import nibabel
import numpy as np
import pytest
import stand_in
import tensorflow as tf

from brats_tfrecord import metrics, spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.predict import Segmenter

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    bias_correction="none", crop_shape=(48, 44, 48), image_dtype="float32", resample="1mm"
)
NATIVE = (44, 36, 16)
AFFINE = np.array([[0, 0, 3.0, -20], [1.0, 0, 0, 11], [0, -1.25, 0, 7], [0, 0, 0, 1]])
"""File axes A, I, R; in LPS order the case has 16 x 44 x 36 voxels of 3 x 1 x 1.25 mm."""


def radius():
    """Returns the distance from the centre, 1 on an ellipsoid that nearly fills the grid."""
    grid = np.indices(NATIVE).transpose(1, 2, 3, 0) - (np.array(NATIVE) - 1) / 2
    return np.sqrt(((grid / (0.46 * np.array(NATIVE))) ** 2).sum(axis=-1))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Writes a brain with nested NCR, ET and ED, each of one intensity, in slices of 3 mm."""
    root = tmp_path_factory.mktemp("cohort")
    folder = root / "BraTS20_Training_001"
    folder.mkdir()
    brain = radius() < 1
    mask = np.select([radius() < 0.3, radius() < 0.5, radius() < 0.75], [1, 4, 2]).astype(np.uint8)
    intensity = np.array([100, 400, 200, 0, 300], np.int16)[mask] * brain
    for name in spec.MODALITIES:
        path = folder / f"BraTS20_Training_001_{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(intensity, AFFINE), path)
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), folder / "BraTS20_Training_001_seg.nii.gz")
    return layouts.find_cases(root)[0]


@pytest.fixture(scope="module")
def segmenter(case, tmp_path_factory):
    """Loads a model that separates the tissues of `case` by thresholds on FLAIR.

    Each threshold is halfway between the intensities of two tissues.
    """
    raw = nifti.read_case(case, any_spacing=True)
    image = RECIPE.apply(raw).image[..., spec.MODALITIES.index("flair")]
    # z-scores are linear: intensities 0 and 400 have the smallest and the largest.
    low, high = float(image.min()), float(image.max())
    cuts = [low + (high - low) * value / 400 for value in (150, 250, 350)]
    # Logits are lines over the z-score; the largest one changes at each threshold.
    lines = {
        0: (0, 0),
        spec.ED: (1, -cuts[0]),
        spec.ET: (2, -sum(cuts[:2])),
        spec.NCR: (3, -sum(cuts)),
    }
    kernel, bias = np.zeros((1, 1, 1, 1, 4), np.float32), np.zeros(4, np.float32)
    for class_id, (slope, offset) in lines.items():
        kernel[..., class_id], bias[class_id] = 60 * slope, 60 * offset
    inputs = tf.keras.Input((None, None, None, 1))
    network = tf.keras.Model(inputs, tf.keras.layers.Conv3D(4, 1, activation="softmax")(inputs))
    network.set_weights([kernel, bias])
    path = tmp_path_factory.mktemp("model") / "saved_model"
    card = stand_in.model_card(RECIPE, ("flair",))
    export_saved_model(network, card, path)
    return Segmenter(path)


def test_the_segmentation_has_the_cases_own_grid(segmenter, case, tmp_path):
    stages = []
    result = segmenter.segment(case, stages.append)
    assert stages == ["reading", "bias correction", "network", "resampling"] == list(result.seconds)
    assert result.labels.shape == result.geometry.lps_shape == (16, 44, 36)
    assert result.geometry.spacing_mm == pytest.approx((3, 1, 1.25))
    np.testing.assert_allclose(result.probabilities.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(result.probabilities.argmax(axis=-1), result.classes)
    result.write(tmp_path / "seg.nii.gz")
    written = nibabel.load(tmp_path / "seg.nii.gz")
    assert written.shape == NATIVE
    np.testing.assert_array_equal(written.affine, AFFINE)
    assert set(np.unique(written.dataobj)) == {0, 1, 2, 4}


def test_the_segmentation_is_not_displaced(segmenter, case):
    """Tumours are complete except for voxels at edges."""
    raw = nifti.read_case(case, any_spacing=True)
    preprocessed = RECIPE.apply(raw)
    assert preprocessed.grid_shape == (48, 44, 45) and preprocessed.crop_origin == (0, 0, -2)
    truth, classes = preprocessed.native_classes, segmenter.segment_raw(raw).classes
    scores = metrics.case_metrics(truth, classes, raw.geometry.spacing_mm)
    assert min(scores[region]["dice"] for region in spec.REGIONS) > 0.8
    for axis in range(3):  # a displacement of one voxel lowers the Dice by more than 0.02
        shifted = metrics.case_metrics(truth, np.roll(classes, 1, axis), raw.geometry.spacing_mm)
        assert shifted["WT"]["dice"] < scores["WT"]["dice"] - 0.02


def test_a_record_and_its_files_give_the_same_segmentation(segmenter, case):
    raw = nifti.read_case(case, any_spacing=True)
    stored = example.decode(example.encode(raw, RECIPE.apply(raw), RECIPE), "float32")
    from_record, from_files = segmenter.segment_stored(stored), segmenter.segment_raw(raw)
    np.testing.assert_allclose(from_record.probabilities, from_files.probabilities, atol=1e-6)
    np.testing.assert_array_equal(from_record.labels, from_files.labels)
    np.testing.assert_array_equal(
        np.array(spec.LABEL_SCHEMES["brats2020"].values)[stored.native_classes()], raw.mask
    )


def test_a_model_without_resampling_refuses_the_case(tiny_model, case):
    with pytest.raises(CaseError, match="--resample=1mm"):
        Segmenter(tiny_model).segment(case)
