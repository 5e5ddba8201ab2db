"""The recipe in NumPy and in a graph: one window, one network input."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import recipe_graph

MODALITIES = ("t2", "flair", "t1ce")


def volume(shape, seed):
    """Channels that are positive in boxes of their own."""
    rng = np.random.default_rng(seed)
    raw = np.zeros((*shape, 3), np.float32)
    for channel in range(3):
        box = tuple(slice(*sorted(rng.integers(0, n + 1, 2))) for n in shape)
        part = raw[(*box, channel)]
        part[...] = rng.gamma(2, 200, part.shape) * (rng.random(part.shape) < 0.7)
    return raw


def in_graph(recipe, modalities=MODALITIES):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, len(modalities)])])
    def run(raw):
        origin = recipe_graph.window(raw, recipe, modalities)
        return origin, recipe_graph.network_input(raw, origin, recipe)

    return run


@pytest.mark.parametrize("crop", ["fixed", "brain", "auto"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("seed", range(4))
def test_the_network_input_is_the_recipes_bit_for_bit(crop, dtype, seed):
    recipe = Recipe(crop_origin=(3, 2, -1), crop_shape=(70, 60, 50), image_dtype=dtype, crop=crop)
    raw = volume((78, 66, 47), seed)
    raw[..., 2] *= seed > 0  # a channel that does not vary gives zeros on both sides
    origin, image = in_graph(recipe)(raw)
    assert tuple(origin.numpy()) == recipe.window(raw, MODALITIES)
    np.testing.assert_array_equal(
        image, recipe.network_input(raw, tuple(origin.numpy())).astype(np.float32))


@pytest.mark.parametrize("shape", [(20, 30, 40), (9, 12, 10), (11, 8, 25), (1, 1, 1)])
def test_windows_agree_whatever_box_and_volume(shape):
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    run = in_graph(recipe)
    boxes = set()
    for seed in range(40):
        raw = volume(shape, seed)
        boxes.add(recipe.window(raw, MODALITIES))
        assert tuple(run(raw)[0].numpy()) == recipe.window(raw, MODALITIES)
    assert len(boxes) > 20 or max(shape) < 20


@pytest.mark.parametrize("origin", [(30, 2, 1), (2, -9, 1)])
def test_a_fixed_window_wholly_outside_is_zeros(origin):
    recipe = Recipe(crop_origin=origin, crop_shape=(10, 9, 8), crop="fixed")
    _, image = in_graph(recipe)(volume((12, 13, 14), 0) + 1)
    assert image.shape == (10, 9, 8, 3) and not image.numpy().any()


@pytest.mark.parametrize("modalities", [("t1", "t2"), ("t2", "t1", "t1ce"), ("t1",)])
def test_without_flair_both_take_the_same_next_channel(modalities):
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    for seed in range(5):
        raw = volume((30, 31, 32), seed)[..., :len(modalities)]
        found, _ = in_graph(recipe, modalities)(raw)
        assert tuple(found.numpy()) == recipe.window(raw, modalities)


def test_denormal_and_negative_voxels_are_brain_on_neither_side():
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    raw = np.zeros((40, 40, 40, 3), np.float32)
    raw[20:24, 20:25, 20:26] = 9
    raw[0, 0, 0], raw[39, 39, 39] = 1e-40, -5
    assert recipe.window(raw, MODALITIES) == (17, 17, 17)
    assert in_graph(recipe)(raw)[0].numpy().tolist() == [17, 17, 17]


def test_auto_knows_the_documented_grid():
    run, raw = in_graph(Recipe()), np.zeros((240, 240, 155, 3), np.float32)
    raw[100:110, 20:30, 60:70] = 9
    assert run(raw)[0].numpy().tolist() == [48, 48, 5]
    assert run(raw[:, :, :154])[0].numpy().tolist() == [33, 0, 0]


@pytest.mark.parametrize("origin", [(-2, -1, -3), (1, 2, 0), (4, 6, 5), (0, 0, 0)])
def test_the_undo_is_the_recipes_for_negative_origins_too(origin):
    recipe = Recipe(crop_shape=(5, 6, 7))
    window = np.random.default_rng(0).normal(size=(5, 6, 7, 2)).astype(np.float32)
    for shape in [(8, 9, 10), (3, 4, 4), (6, 3, 9)]:
        found = recipe_graph.to_grid(tf.constant(window), tf.constant(origin), shape, 1)
        np.testing.assert_array_equal(found, recipe.to_grid(window, origin, shape, 1))
