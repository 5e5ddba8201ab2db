"""A model folder that is not what was exported is refused before it segments anything."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import golden
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.predict import Segmenter

CARD = ModelCard(
    Recipe("none", crop_shape=(8, 9, 10)),
    ("flair", "t2"),
    "brats2023",
    "regions",
    4,
    10**6,
    "f" * 64,
    (),
    (),
    {"loss": 0.1},
    PostProcessing(7, (1, 2, 3)),
)


def export(path, shift):
    """A model of one convolution of 3 voxels."""
    inputs = tf.keras.Input((None, None, None, 2))
    network = tf.keras.Model(
        inputs, tf.keras.layers.Conv3D(3, 3, padding="same", activation="sigmoid")(inputs)
    )
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 2, 3)).astype(np.float32)
    network.set_weights([weights, np.full(3, shift, np.float32)])
    export_saved_model(network, CARD, path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "saved_model"
    export(path, 0)
    return path


@pytest.fixture
def model(sound, tmp_path):
    """A copy to spoil."""
    shutil.copytree(sound, tmp_path / "model")
    return tmp_path / "model"


def never(image):
    raise AssertionError("files that are not whole are not run")


def refused(model):
    """The error of checking its files, one line."""
    return message_of(model, lambda: golden.check(never, model, cards.read(model)))


def message_of(model, check):
    with pytest.raises(InputError) as found:
        check()
    assert "\n" not in str(found.value) and str(model) in str(found.value)
    return str(found.value)


def test_the_golden_case_is_small_deterministic_and_like_no_other_axis():
    image = golden.image(CARD)
    assert image.shape == (1, 8, 16, 23, 2) and image.dtype == np.float32
    np.testing.assert_array_equal(image, golden.image(CARD))
    assert golden.image(dataclasses.replace(CARD, stride=32)).shape == (1, 32, 64, 95, 2)
    assert np.abs(image[..., 0] - image[..., 1]).mean() > 0.1 and 0.2 < image.std() < 2


def test_what_was_exported_is_taken(sound):
    card = Segmenter(sound).card
    assert card == dataclasses.replace(
        CARD, assets={"golden.npz": files.sha256(sound / "assets" / "golden.npz")}
    )
    with np.load(sound / "assets" / "golden.npz") as stored:
        np.testing.assert_array_equal(stored["image"], golden.image(CARD))
        assert stored["probabilities"].shape == (1, 8, 16, 23, 3)


def test_damaged_weights_are_refused(model):
    [data] = (model / "variables").glob("variables.data-*")
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 1
    data.write_bytes(content)
    assert "does not load" in message_of(model, lambda: Segmenter(model))
    data.unlink()
    assert "does not load" in message_of(model, lambda: Segmenter(model))


def test_weights_of_another_model_are_refused(model, tmp_path):
    export(tmp_path / "other", 0.5)
    shutil.rmtree(model / "variables")
    shutil.copytree(tmp_path / "other" / "variables", model / "variables")
    assert "answers its golden case otherwise" in message_of(model, lambda: Segmenter(model))


def test_an_altered_or_missing_golden_case_is_refused(model):
    path = model / "assets" / "golden.npz"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    wrong = "golden.npz: is not the file that the model was exported with"
    assert wrong in refused(model) == message_of(model, lambda: Segmenter(model))
    path.unlink()
    assert "golden.npz: cannot be read (No such file or directory)" in refused(model)
    path.mkdir()
    assert "golden.npz: cannot be read (not a regular file)" in refused(model)


def test_a_golden_case_that_is_none_is_refused(model):
    for content in (b"", b"PK\x03\x04 no archive"):
        (model / "assets" / "golden.npz").write_bytes(content)
        change_card(model, assets={"golden.npz": files.sha256(model / "assets" / "golden.npz")})
        assert "golden.npz: is not a golden case" in refused(model)


def change_card(model, **fields):
    path = model / "assets" / cards.FILE_NAME
    files.write_json(path, {**json.loads(path.read_text()), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"label_scheme": "brats2020"},
        {"modalities": ["t2", "flair"]},
        {"flips": True},
        {"recipe": Recipe("none", crop_shape=(8, 9, 11)).to_json()},
        {"train_case_ids": ["A_001"]},
        {"post_processing": PostProcessing(8, (1, 2, 3)).to_json()},
        {"training": {"loss": 0.2}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_an_altered_card_is_refused(model, fields):
    change_card(model, **fields)
    assert "model.json: was altered" in refused(model)


def test_a_card_without_its_golden_case_is_refused(model):
    change_card(model, assets={})
    assert "golden.npz: is not the file" in refused(model)


def test_a_further_asset_is_looked_at_too(model):
    (model / "assets" / "names.txt").write_text("x")
    digest = files.sha256(model / "assets" / "golden.npz")
    change_card(model, assets={"golden.npz": digest, "names.txt": "0" * 64})
    assert "names.txt: is not the file" in refused(model)


@pytest.mark.parametrize("answer", [np.nan, 0.5])
def test_an_answer_that_is_far_off_is_refused(sound, answer):
    def predict(image):
        return {"probabilities": tf.fill([*image.shape[:4], 3], tf.constant(answer, tf.float32))}

    with pytest.raises(InputError, match="by up to (nan|0.[0-9]+) of a probability"):
        golden.check(predict, sound, cards.read(sound))


def test_a_model_of_other_channels_is_refused(sound):
    def predict(image):
        return {"probabilities": image[..., :1]}

    with pytest.raises(InputError, match="by up to inf"):
        golden.check(predict, sound, cards.read(sound))
    with pytest.raises(InputError, match="does not run on its golden case"):
        golden.check(lambda image: {"labels": image}, sound, cards.read(sound))
