"""A model folder that differs from the exported one is refused at load."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.pieces import Piece
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
    Piece((8, 8, 8), 4, 10**6),
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
    """A copy that a test may damage."""
    shutil.copytree(sound, tmp_path / "model")
    return tmp_path / "model"


def never_called(image):
    raise AssertionError("a model with altered files must not be run")


def check_error(model):
    """Returns the message of checking the model's files, without running the model."""
    return error_message(model, lambda: golden.check(never_called, model, cards.read(model)))


def error_message(model, check):
    """Returns the message of the `InputError` that `check` raises: one line with the folder."""
    with pytest.raises(InputError) as error:
        check()
    assert "\n" not in str(error.value) and str(model) in str(error.value)
    return str(error.value)


def test_the_golden_image_is_deterministic_and_has_three_different_extents():
    image = golden.make_image(CARD)
    assert image.shape == (1, 8, 16, 23, 2) and image.dtype == np.float32
    np.testing.assert_array_equal(image, golden.make_image(CARD))
    coarse = dataclasses.replace(CARD, piece=Piece((64, 64, 64), 32))
    assert golden.make_image(coarse).shape == (1, 32, 64, 95, 2)
    assert np.abs(image[..., 0] - image[..., 1]).mean() > 0.1 and 0.2 < image.std() < 2


def test_an_unaltered_model_is_accepted(sound):
    card = Segmenter(sound).card
    assert card == dataclasses.replace(
        CARD, assets={"golden.npz": files.sha256(sound / "assets" / "golden.npz")}
    )
    with np.load(sound / "assets" / "golden.npz") as stored:
        np.testing.assert_array_equal(stored["image"], golden.make_image(CARD))
        assert stored["probabilities"].shape == (1, 8, 16, 23, 3)


def test_damaged_weights_are_refused(model):
    [data] = (model / "variables").glob("variables.data-*")
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 1
    data.write_bytes(content)
    assert "does not load" in error_message(model, lambda: Segmenter(model))
    data.unlink()
    assert "does not load" in error_message(model, lambda: Segmenter(model))


def test_weights_of_another_model_are_refused(model, tmp_path):
    export(tmp_path / "other", 0.5)
    shutil.rmtree(model / "variables")
    shutil.copytree(tmp_path / "other" / "variables", model / "variables")
    message = error_message(model, lambda: Segmenter(model))
    assert "the probabilities of its golden case differ by up to" in message


def test_an_altered_or_missing_golden_case_is_refused(model):
    path = model / "assets" / "golden.npz"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    expected = "golden.npz: is not the file that was exported with the model"
    assert expected in check_error(model) == error_message(model, lambda: Segmenter(model))
    path.unlink()
    assert "golden.npz: cannot be read (No such file or directory)" in check_error(model)
    path.mkdir()
    assert "golden.npz: cannot be read (not a regular file)" in check_error(model)


def test_a_golden_case_that_cannot_be_read_is_refused(model):
    for content in (b"", b"PK\x03\x04 no archive"):
        (model / "assets" / "golden.npz").write_bytes(content)
        change_card(model, assets={"golden.npz": files.sha256(model / "assets" / "golden.npz")})
        assert "golden.npz: is not a golden case" in check_error(model)


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
    assert "model.json: was altered or belongs to another model" in check_error(model)


def test_a_card_that_does_not_list_its_golden_case_is_refused(model):
    change_card(model, assets={})
    assert "golden.npz: is not the file" in check_error(model)


def test_every_asset_of_the_card_is_checked(model):
    (model / "assets" / "names.txt").write_text("x")
    digest = files.sha256(model / "assets" / "golden.npz")
    change_card(model, assets={"golden.npz": digest, "names.txt": "0" * 64})
    assert "names.txt: is not the file" in check_error(model)


@pytest.mark.parametrize("probability", [np.nan, 0.5])
def test_other_probabilities_are_refused(sound, probability):
    def predict(image):
        filled = tf.fill([*image.shape[:4], 3], tf.constant(probability, tf.float32))
        return {"probabilities": filled}

    with pytest.raises(InputError, match="differ by up to (nan|0.[0-9]+) from"):
        golden.check(predict, sound, cards.read(sound))


def test_a_model_with_other_channels_or_outputs_is_refused(sound):
    def predict(image):
        return {"probabilities": image[..., :1]}

    with pytest.raises(InputError, match="differ by up to inf"):
        golden.check(predict, sound, cards.read(sound))
    with pytest.raises(InputError, match="fails on its golden case"):
        golden.check(lambda image: {"labels": image}, sound, cards.read(sound))
