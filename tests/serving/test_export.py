"""Save, reload with nothing but TensorFlow, compare."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.preprocess import masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.training.unet import build_unet

RECIPE = Recipe(crop_origin=(3, 2, -1), crop_shape=(18, 20, 14), crop="fixed")
MODALITIES = ("t1ce", "flair", "t2")
CARD = ModelCard(RECIPE, MODALITIES, "brats2020", "classes", 4, 10**6, "f" * 64,
                 ("A_001",), ("A_002",), {"epochs": 3})


@pytest.fixture(scope="module")
def network():
    return build_unet((None, None, None, 3), 4, (4, 8, 16), (0.3,) * 5, seed=1)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    export_saved_model(network, CARD, path)
    return path


@pytest.fixture(scope="module", params=["fixed", "brain"])
def cropping(request, network, exported, tmp_path_factory):
    """(recipe, signatures) of a model for each kind of crop."""
    recipe, path = dataclasses.replace(RECIPE, crop=request.param), exported
    if request.param != RECIPE.crop:
        path = tmp_path_factory.mktemp("export") / "saved_model"
        export_saved_model(network, dataclasses.replace(CARD, recipe=recipe), path)
    model = tf.saved_model.load(str(path))
    yield recipe, model.signatures


def volume(shape, seed=0):
    """A brain off the middle: 70 % of the voxels of the far two thirds of each axis."""
    rng = np.random.default_rng(seed)
    raw = rng.gamma(2, 200, (*shape, 3)) * (rng.random((*shape, 1)) < 0.7)
    for axis, length in enumerate(shape):
        raw[(slice(None),) * axis + (slice(length // 3),)] = 0
    return raw.astype(np.float32)


@pytest.mark.parametrize("shape", [(16, 12, 8), (7, 9, 13)])
def test_serving_default_is_the_network(exported, network, shape):
    model = tf.saved_model.load(str(exported))
    image = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    found = model.signatures["serving_default"](image=tf.constant(image))["probabilities"]
    padding = [(0, 0), *((0, -n % 4) for n in shape), (0, 0)]
    expected = network(np.pad(image, padding))[:, :shape[0], :shape[1], :shape[2]]
    assert found.shape == (2, *shape, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 44, 38), (24, 26, 20), (21, 22, 12), (10, 30, 9)],
                         ids=["much larger", "larger", "cut by the volume's end", "smaller"])
def test_segment_is_crop_network_and_undo(cropping, network, shape):
    recipe, signatures = cropping
    raw = volume(shape)
    found = signatures["segment"](volume=tf.constant(raw))
    origin = recipe.window(raw, MODALITIES)
    image = recipe.network_input(raw, origin).astype(np.float32)
    padded = np.pad(image[None], [(0, 0), (0, 2), (0, 0), (0, 2), (0, 0)])
    window = network(padded).numpy()[0, :18, :20, :14]
    probabilities = recipe.to_grid(window, origin, shape)
    probabilities[..., 0] = recipe.to_grid(window[..., 0], origin, shape, fill=1)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    classes = found["probabilities"].numpy().argmax(axis=-1)
    scheme = spec.LABEL_SCHEMES["brats2020"]
    np.testing.assert_array_equal(found["labels"], masks.to_file_values(classes, scheme))
    assert set(np.unique(found["labels"])) <= {0, 1, 2, 4}
    assert found["labels"].dtype == tf.uint8


def test_the_card_travels_with_the_model(exported):
    assert cards.read(exported) == CARD
    assert json.loads((exported / "assets" / "model.json").read_text())["classes"] == [
        "background", "NCR/NET", "ED", "ET"]
    assert CARD.use_of("A_001") == "train" and CARD.use_of("A_002") == "select"
    assert CARD.use_of("A_003") == "unseen"


def test_exporting_again_replaces_the_folder_whole(network, exported, tmp_path):
    path = tmp_path / "saved_model"
    export_saved_model(network, CARD, path)
    (path / "stray").touch()
    export_saved_model(network, CARD, path)
    assert not (path / "stray").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved_model"]


def test_fingerprint_follows_content(exported, network, tmp_path):
    before = cards.fingerprint(exported)
    assert before == cards.fingerprint(exported)
    export_saved_model(network, CARD, tmp_path / "b")
    (tmp_path / "b" / "assets" / "model.json").write_text("{}")
    assert cards.fingerprint(tmp_path / "b") != before
