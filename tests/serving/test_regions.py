"""A network of overlapping regions through the whole chain, each voxel's answer known."""

import json

import nibabel
import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort.geometry import Geometry, RawCase
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.predict import Segmenter

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
"""Slabs of every class, all brain; the last two lie outside the window."""

CHANNELS = {"brats2020": ["WT", "TC", "ET"], "brats2024": ["WT", "TC", "ET", "RC"]}
INTENSITY = {spec.BACKGROUND: 100, spec.ED: 200, spec.NCR: 300, spec.ET: 400, spec.RC: 500}


def raw_case(scheme):
    """A case whose FLAIR tells the class: every region lies above an intensity of its own."""
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
    """(scheme, canonical classes, raw case, folder of the model that tells them)."""
    scheme = request.param
    classes, raw = raw_case(scheme)
    image = RECIPE.apply(raw).image[..., 0]
    dark, bright = float(image.min()), float(image.max())
    top = 100 * spec.LABEL_SCHEMES[scheme].classes
    # The z-score is linear, and the window holds the darkest and the brightest slab.
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
        ModelCard(RECIPE, ("flair",), scheme, "regions", 4, 10**6, "f" * 64, (), (), {}),
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


def test_every_voxel_gets_its_class_beyond_the_window_too(served, tmp_path):
    scheme, classes, raw, path = served
    found = Segmenter(path).segment_raw(raw)
    np.testing.assert_array_equal(found.classes, classes)
    assert set(np.unique(found.classes)) == set(range(spec.LABEL_SCHEMES[scheme].classes))
    np.testing.assert_array_equal(
        found.labels, np.array(spec.LABEL_SCHEMES[scheme].values)[classes]
    )
    found.write(tmp_path / "seg.nii.gz")
    assert nibabel.load(tmp_path / "seg.nii.gz").shape == SHAPE


def test_probabilities_are_the_regions(served):
    scheme, _classes, raw, path = served
    found = Segmenter(path).segment_raw(raw).probabilities
    assert found.shape == (*SHAPE, len(CHANNELS[scheme])) and found.dtype == np.float32
    at_most = {"WT": 150, "TC": 250, "ET": 350, "RC": 450}
    for channel, name in enumerate(CHANNELS[scheme]):
        expected = raw.volumes[..., 3] > at_most[name]
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-6)


def test_a_record_gives_the_same_within_its_window_and_background_outside(served):
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


def test_a_batch_of_images_gives_probabilities_of_every_channel(served):
    scheme, _, raw, path = served
    predict = tf.saved_model.load(str(path)).signatures["serving_default"]
    image = np.repeat(RECIPE.apply(raw).image[None, ..., :1], 2, axis=0)
    found = predict(image=tf.constant(image))["probabilities"]
    assert found.shape == (2, 8, 7, 9, len(CHANNELS[scheme]))
    whole = Segmenter(path).segment_raw(raw).probabilities
    np.testing.assert_allclose(found[1], whole[WINDOW], atol=1e-6)
