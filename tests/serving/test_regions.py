"""Models whose channels are overlapping regions; the class of every voxel is known."""

import json

import nibabel
import numpy as np
import pytest
import stand_in
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.predict import Segmenter

pytestmark = pytest.mark.slow

SHAPE = (12, 10, 9)
RECIPE = Recipe(
    bias_correction="none",
    crop="fixed",
    crop_origin=(2, 1, 0),
    crop_shape=(8, 7, 9),
    image_dtype="float32",
)
WINDOW = (slice(2, 10), slice(1, 8), slice(0, 9))
CLASS_ALONG_Y = [
    spec.BACKGROUND,
    spec.BACKGROUND,
    spec.ED,
    spec.NCR,
    spec.ET,
    spec.RC,
    spec.BACKGROUND,
    spec.ET,
    spec.ET,
    spec.ET,
]
"""Class of each slab along y, all brain; the last two slabs are outside the window."""

CHANNELS = {"brats2020": ["WT", "TC", "ET"], "brats2024": ["WT", "TC", "ET", "RC"]}
INTENSITY = {spec.BACKGROUND: 100, spec.ED: 200, spec.NCR: 300, spec.ET: 400, spec.RC: 500}


def raw_case(scheme):
    """Makes a case whose FLAIR intensity encodes the class.

    Each region consists of the voxels above a certain intensity.
    """
    count = spec.LABEL_SCHEMES[scheme].classes
    line = [class_id if class_id < count else spec.BACKGROUND for class_id in CLASS_ALONG_Y]
    classes = np.broadcast_to(np.reshape(line, (1, -1, 1)), SHAPE)
    flair = np.vectorize(INTENSITY.get)(classes).astype(np.float32)
    values = np.asarray(spec.LABEL_SCHEMES[scheme].values, np.int16)[classes]
    return classes, RawCase(
        "A_001",
        "A",
        None,
        scheme,
        spec.MODALITIES,
        np.repeat(flair[..., None], 4, axis=-1),
        values,
        Geometry(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0])),
    )


@pytest.fixture(scope="module", params=["brats2020", "brats2024"])
def served(request, tmp_path_factory):
    """Returns (label scheme, canonical classes, raw case, folder of a model that segments it)."""
    scheme = request.param
    classes, raw = raw_case(scheme)
    image = RECIPE.apply(raw).image[..., 0]
    dark, bright = float(image.min()), float(image.max())
    top = 100 * spec.LABEL_SCHEMES[scheme].classes
    # z-scores are linear, and the window contains the darkest and the brightest slab.
    cuts = [
        dark + (bright - dark) * (cut - 100) / (top - 100)
        for cut in (150, 250, 350, 450)[: len(CHANNELS[scheme])]
    ]
    inputs = tf.keras.Input((None, None, None, 1))
    outputs = tf.keras.layers.Conv3D(len(cuts), 1, activation="sigmoid")(inputs)
    network = tf.keras.Model(inputs, outputs)
    slope = 99.0
    network.set_weights(
        [np.full((1, 1, 1, 1, len(cuts)), slope, np.float32), -slope * np.array(cuts, np.float32)]
    )
    path = tmp_path_factory.mktemp("regions") / "saved_model"
    export_saved_model(
        network,
        stand_in.model_card(RECIPE, ("flair",), label_scheme=scheme, targets="regions"),
        path,
    )
    return scheme, classes, raw, path


def test_the_card_names_the_channels(served):
    scheme, _, _, path = served
    card = cards.read(path)
    assert card.targets == "regions" and list(card.channels.channel_names) == CHANNELS[scheme]
    written = json.loads((path / "assets" / "model.json").read_text())
    assert written["channels"] == CHANNELS[scheme]
    assert written["classes"] == list(spec.LABEL_SCHEMES[scheme].class_names)


def test_every_voxel_has_its_class_also_outside_the_window(served, tmp_path):
    scheme, classes, raw, path = served
    segmentation = Segmenter(path).segment_raw(raw)
    np.testing.assert_array_equal(segmentation.classes, classes)
    assert set(np.unique(segmentation.classes)) == set(range(spec.LABEL_SCHEMES[scheme].classes))
    np.testing.assert_array_equal(
        segmentation.labels, np.array(spec.LABEL_SCHEMES[scheme].values)[classes]
    )
    segmentation.write(tmp_path / "seg.nii.gz")
    assert nibabel.load(tmp_path / "seg.nii.gz").shape == SHAPE


def test_each_channel_is_the_probability_of_its_region(served):
    scheme, _classes, raw, path = served
    probabilities = Segmenter(path).segment_raw(raw).probabilities
    assert probabilities.shape == (*SHAPE, len(CHANNELS[scheme]))
    assert probabilities.dtype == np.float32
    threshold = {"WT": 150, "TC": 250, "ET": 350, "RC": 450}
    for channel, name in enumerate(CHANNELS[scheme]):
        expected = raw.volumes[..., 3] > threshold[name]
        np.testing.assert_allclose(probabilities[..., channel], expected, atol=1e-6)


def test_a_record_gives_the_same_in_its_window_and_background_outside(served):
    _, classes, raw, path = served
    segmenter = Segmenter(path)
    stored = example.decode(example.encode(raw, RECIPE.apply(raw), RECIPE), "float32")
    from_record, from_raw = segmenter.segment_stored(stored), segmenter.segment_raw(raw)
    expected = np.zeros(SHAPE, int)
    expected[WINDOW] = classes[WINDOW]
    np.testing.assert_array_equal(from_record.classes, expected)
    outside = from_raw.probabilities.copy()
    outside[WINDOW] = 0
    np.testing.assert_allclose(
        from_record.probabilities, from_raw.probabilities - outside, atol=1e-6
    )


def test_serving_default_returns_every_channel_of_a_batch(served):
    scheme, _, raw, path = served
    predict = tf.saved_model.load(str(path)).signatures["serving_default"]
    image = np.repeat(RECIPE.apply(raw).image[None, ..., :1], 2, axis=0)
    probabilities = predict(image=tf.constant(image))["probabilities"]
    assert probabilities.shape == (2, 8, 7, 9, len(CHANNELS[scheme]))
    whole = Segmenter(path).segment_raw(raw).probabilities
    np.testing.assert_allclose(probabilities[1], whole[WINDOW], atol=1e-6)
