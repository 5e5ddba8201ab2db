"""The recipe as TensorFlow operations is equal to the recipe in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.preprocess import crop
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import tf_recipe

MODALITIES = ("t2", "flair", "t1ce")


def volume(shape, seed):
    """Makes three channels, each positive in a random box of its own."""
    rng = np.random.default_rng(seed)
    raw = np.zeros((*shape, 3), np.float32)
    for channel in range(3):
        box = tuple(slice(*sorted(rng.integers(0, n + 1, 2))) for n in shape)
        part = raw[(*box, channel)]
        part[...] = rng.gamma(2, 200, part.shape) * (rng.random(part.shape) < 0.7)
    return raw


def in_graph(recipe, modalities=MODALITIES):
    """Makes a graph: volume -> (origin of the window, network input of the window)."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, len(modalities)])])
    def run(raw):
        origin = tf_recipe.window(raw, recipe, modalities)
        box = origin, tf.constant(recipe.crop_shape)
        return origin, tf_recipe.network_input(raw, origin, box, recipe)

    return run


@pytest.mark.parametrize("crop", ["fixed", "brain", "auto"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("normalize", ["crop", "brain"])
@pytest.mark.parametrize("seed", range(4))
def test_the_network_input_is_bit_equal(crop, dtype, normalize, seed):
    recipe = Recipe(
        crop_origin=(3, 2, -1),
        crop_shape=(70, 60, 50),
        image_dtype=dtype,
        crop=crop,
        normalize=normalize,
    )
    raw = volume((78, 66, 47), seed)
    raw[..., 2] *= seed > 0  # a constant channel gives zeros
    origin, image = in_graph(recipe)(raw)
    assert tuple(origin.numpy()) == recipe.window(raw, MODALITIES)
    np.testing.assert_array_equal(
        image, recipe.network_input(raw, tuple(origin.numpy())).astype(np.float32)
    )


@pytest.mark.parametrize("shape", [(20, 30, 40), (9, 12, 10), (11, 8, 25), (1, 1, 1)])
def test_windows_around_the_brain_are_equal(shape):
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    run = in_graph(recipe)
    boxes = set()
    for seed in range(40):
        raw = volume(shape, seed)
        boxes.add(recipe.window(raw, MODALITIES))
        assert tuple(run(raw)[0].numpy()) == recipe.window(raw, MODALITIES)
    assert len(boxes) > 20 or max(shape) < 20


@pytest.mark.parametrize("origin", [(30, 2, 1), (2, -9, 1)])
def test_a_fixed_window_outside_the_volume_is_zeros(origin):
    recipe = Recipe(crop_origin=origin, crop_shape=(10, 9, 8), crop="fixed")
    _, image = in_graph(recipe)(volume((12, 13, 14), 0) + 1)
    assert image.shape == (10, 9, 8, 3) and not image.numpy().any()


@pytest.mark.parametrize("modalities", [("t1", "t2"), ("t2", "t1", "t1ce"), ("t1",)])
def test_without_flair_the_window_is_placed_by_the_same_channel(modalities):
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    for seed in range(5):
        raw = volume((30, 31, 32), seed)[..., : len(modalities)]
        origin, _ = in_graph(recipe, modalities)(raw)
        assert tuple(origin.numpy()) == recipe.window(raw, modalities)


def test_denormal_and_negative_voxels_are_not_brain():
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    raw = np.zeros((40, 40, 40, 3), np.float32)
    raw[20:24, 20:25, 20:26] = 9
    raw[0, 0, 0], raw[39, 39, 39] = 1e-40, -5
    assert recipe.window(raw, MODALITIES) == (17, 17, 17)
    assert in_graph(recipe)(raw)[0].numpy().tolist() == [17, 17, 17]


def test_auto_uses_the_fixed_window_on_the_brats_grid_only():
    run, raw = in_graph(Recipe()), np.zeros((240, 240, 155, 3), np.float32)
    raw[100:110, 20:30, 60:70] = 9
    assert run(raw)[0].numpy().tolist() == [48, 48, 5]
    assert run(raw[:, :, :154])[0].numpy().tolist() == [33, 0, 0]


@pytest.mark.parametrize("origin", [(-2, -1, -3), (1, 2, 0), (4, 6, 5), (0, 0, 0)])
def test_to_grid_is_equal_also_for_negative_origins(origin):
    recipe = Recipe(crop_shape=(5, 6, 7))
    window = np.random.default_rng(0).normal(size=(5, 6, 7, 2)).astype(np.float32)
    for shape in [(8, 9, 10), (3, 4, 4), (6, 3, 9)]:
        on_grid = tf_recipe.to_grid(tf.constant(window), tf.constant(origin), shape, 1)
        np.testing.assert_array_equal(on_grid, recipe.to_grid(window, origin, shape, 1))


def boxed(recipe, alignment, modalities=MODALITIES):
    """Makes a graph: volume -> (origin of the window, origin of the box, input of the box)."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, len(modalities)])])
    def run(raw):
        origin = tf_recipe.window(raw, recipe, modalities)
        box = tf_recipe.covering_box(raw, origin, recipe, modalities, alignment)
        return origin, box[0], tf_recipe.network_input(raw, origin, box, recipe)

    return run


@pytest.mark.parametrize(
    "brain, low, extents",
    [
        (((10, 20), (12, 23), (8, 20)), (10, 12, 8), (10, 11, 12)),  # exactly the window
        (((9, 20), (12, 24), (8, 20)), (6, 12, 8), (14, 15, 12)),  # one voxel beyond costs a stride
        (((6, 24), (8, 27), (3, 25)), (6, 8, 0), (18, 19, 28)),
        (((5, 25), (7, 28), (0, 29)), (2, 4, 0), (26, 27, 32)),
        (((0, 2), (12, 23), (8, 20)), (-2, 12, 8), (22, 11, 12)),  # the box leaves the volume
    ],
    ids=["within", "one beyond", "both sides", "one further", "outside alone"],
)
def test_the_box_is_extended_by_strides_on_the_sides_where_the_brain_is_cut(brain, low, extents):
    recipe = Recipe(crop_origin=(10, 12, 8), crop_shape=(10, 11, 12), crop="fixed")
    raw = np.zeros((34, 35, 36, 3), np.float32)
    raw[(*(slice(*ends) for ends in brain), MODALITIES.index("flair"))] = 5
    raw[0, 0, 0, 0] = 7  # only the reference channel counts
    _, first, image = boxed(recipe, 4)(raw)
    assert tuple(first.numpy()) == low and image.shape == (*extents, 3)
    assert recipe.covering_box(raw, MODALITIES, recipe.crop_origin, 4) == (low, extents)


def test_with_alignment_1_the_box_ends_with_the_brain():
    recipe = Recipe(crop_origin=(10, 12, 8), crop_shape=(10, 11, 12), crop="fixed")
    raw = np.zeros((34, 35, 36, 3), np.float32)
    raw[7:21, 13:20, :, MODALITIES.index("flair")] = 5
    _, first, image = boxed(recipe, 1)(raw)
    assert tuple(first.numpy()) == (7, 12, 0) and image.shape == (14, 11, 36, 3)
    box = recipe.covering_box(raw, MODALITIES, recipe.crop_origin, 1)
    assert box == ((7, 12, 0), (14, 11, 36))


def test_without_brain_the_box_is_the_window():
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    origin, first, image = boxed(recipe, 4)(np.zeros((34, 35, 36, 3), np.float32))
    assert tuple(origin.numpy()) == tuple(first.numpy()) and image.shape == (10, 11, 12, 3)
    none = np.zeros((34, 35, 36, 3), np.float32)
    assert recipe.covering_box(none, MODALITIES, (1, 2, 3), 4) == ((1, 2, 3), (10, 11, 12))


def assert_window_equals_record(run, recipe, raw, modalities=MODALITIES, alignment=4):
    """Checks that graph and NumPy give equal bits, in the window those of a record's image.

    The rest of the box must be normalised with the window's statistics. Returns the extents of
    the box.
    """
    origin, first, image = (part.numpy() for part in run(raw))
    stored = recipe.network_input(raw, recipe.window(raw, modalities))
    part = tuple(slice(a, a + n) for a, n in zip(origin - first, recipe.crop_shape))
    assert not ((origin - first) % 4).any()
    np.testing.assert_array_equal(image[part], stored.astype(np.float32))
    box = recipe.covering_box(raw, modalities, origin, alignment)
    np.testing.assert_array_equal(image, recipe.network_input(raw, origin, box).astype(np.float32))
    whole = crop.crop(raw, first, image.shape[:3]).astype(np.float64)
    window = whole[part]
    inside = (window != 0) | (recipe.normalize == "crop")
    mean, deviation = (f((0, 1, 2), where=inside) for f in (window.mean, window.std))
    expected = (whole - mean) / deviation * ((whole != 0) | (recipe.normalize == "crop"))
    np.testing.assert_allclose(image, expected, atol=5e-3, rtol=1e-3)
    return image.shape[:3]


@pytest.mark.parametrize("crop_kind", ["fixed", "brain"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("normalize", ["crop", "brain"])
def test_the_window_in_the_box_is_bit_equal_to_the_record(crop_kind, dtype, normalize):
    recipe = Recipe(
        crop_origin=(11, 9, 13),
        crop_shape=(25, 30, 22),
        image_dtype=dtype,
        crop=crop_kind,
        normalize=normalize,
    )
    run = boxed(recipe, 4)
    for shape in ((60, 51, 46), (27, 60, 20)):
        for seed in range(4):
            rng = np.random.default_rng(seed)
            raw = rng.gamma(2, 200, (*shape, 3)).astype(np.float32)
            raw *= rng.random((*shape, 1)) < 0.7
            raw[:seed] = 0
            assert assert_window_equals_record(run, recipe, raw) != (25, 30, 22)
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("normalize", ["crop", "brain"])
def test_the_window_of_a_real_case_is_bit_equal_to_the_record(real_cases, normalize):
    names = ("flair", "t1ce")
    raw = nifti.read_case(layouts.find_cases(real_cases)[0], names, with_mask=False).volumes
    recipe = Recipe("none", crop_shape=(144, 144, 112), normalize=normalize)
    extents = assert_window_equals_record(boxed(recipe, 16, names), recipe, raw, names, 16)
    assert extents != recipe.crop_shape


@pytest.mark.parametrize("empty", [("flair",), ("flair", "t1ce"), ("t2",), MODALITIES])
def test_the_window_and_the_box_of_a_case_that_lacks_modalities_are_equal(empty):
    recipe = Recipe(crop_shape=(10, 11, 12), crop="brain")
    run, places = boxed(recipe, 4), set()
    for seed in range(12):
        raw = volume((30, 31, 32), seed)
        raw[..., [name in empty for name in MODALITIES]] = 0
        origin, low, image = run(raw)
        expected = recipe.window(raw, MODALITIES)
        box = recipe.covering_box(raw, MODALITIES, expected, 4)
        assert tuple(origin.numpy()) == expected and tuple(low.numpy()) == box[0]
        np.testing.assert_array_equal(image, recipe.network_input(raw, expected, box))
        assert not image.numpy()[..., [name in empty for name in MODALITIES]].any()
        places.add(expected)
    assert len(places) > 5 or empty == MODALITIES, "the window follows the brain"
