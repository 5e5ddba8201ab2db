"""Exports models, loads them with TensorFlow alone and compares their output."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.phantom import generate
from brats_tfrecord.pieces import Piece
from brats_tfrecord.preprocess import crop, masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import export, golden
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.training.network.unet import build_unet

pytestmark = pytest.mark.slow

RECIPE = Recipe("none", crop_origin=(3, 2, -1), crop_shape=(18, 20, 14), crop="fixed")
MODALITIES = ("t1ce", "flair", "t2")
STRIDE = 4
WHOLE = Piece((128, 128, 128), STRIDE, 10**7)
CARD = ModelCard(
    RECIPE,
    MODALITIES,
    "brats2020",
    "classes",
    Piece((12, 12, 12), STRIDE, 10**6),
    "f" * 64,
    ("A_001",),
    ("A_002",),
    {"epochs": 3},
)


def unet(seed=1):
    return build_unet((None, None, None, 3), 4, (4, 8), (0.3,) * 3, seed=seed)


def signatures(path):
    """Returns both signatures, and the object that keeps their weights alive."""
    model = tf.saved_model.load(str(path))
    return {**model.signatures, "owner": model}


def segment(served, raw):
    result = served["segment"](volume=tf.constant(raw))
    return result["labels"].numpy(), result["probabilities"].numpy()


@pytest.fixture(scope="module")
def network():
    return unet()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    export_saved_model(network, CARD, path)
    return path


@pytest.fixture(scope="module")
def served(exported):
    return signatures(exported)


@pytest.fixture(scope="module", params=["fixed", "brain"])
def cropping(request, network, served, tmp_path_factory):
    """Returns (recipe, signatures) of a model with a fixed window, or one around the brain."""
    recipe = dataclasses.replace(RECIPE, crop=request.param)
    if recipe == RECIPE:
        return recipe, served
    path = tmp_path_factory.mktemp("export") / "saved_model"
    export_saved_model(network, dataclasses.replace(CARD, recipe=recipe), path)
    return recipe, signatures(path)


def volume(shape, brain, seed=0):
    """Makes three channels whose voxels are positive in 70 % of a box.

    Args:
        shape: (X, Y, Z).
        brain: (first, stop) of the box along each axis.
        seed: seed of the intensities.
    """
    rng = np.random.default_rng(seed)
    raw, inside = np.zeros((*shape, 3), np.float32), tuple(slice(*ends) for ends in brain)
    part = raw[inside]
    part[...] = rng.gamma(2, 200, part.shape) * (rng.random((*part.shape[:3], 1)) < 0.7)
    return raw


def expected_probabilities(network, raw, recipe, low, extents):
    """Computes the probabilities of the box at `low` in NumPy, on the whole grid.

    The box is normalised with mean and deviation of the recipe's window.
    """
    origin = recipe.window(raw, MODALITIES)
    window = crop.crop(raw, origin, recipe.crop_shape).astype(np.float64)
    mean = window.mean(axis=(0, 1, 2)).astype(np.float32).astype(np.float64)
    deviation = window.std(axis=(0, 1, 2)).astype(np.float32)
    image = (crop.crop(raw, low, extents) - mean) / deviation
    image = image.astype(np.float32).astype(recipe.image_dtype).astype(np.float32)
    probabilities = network(padded(image)[None]).numpy()[0][tuple(slice(n) for n in extents)]
    return recipe.to_grid(probabilities, low, raw.shape[:3], fill=(1, 0, 0, 0))


def padded(image):
    """Pads [X, Y, Z, C] to the stride with the fourth smallest of the corners of each channel."""
    shape = image.shape[:3]
    corners = [image[corner] for corner in itertools.product(*((0, n - 1) for n in shape))]
    result = np.empty((*(n + -n % STRIDE for n in shape), image.shape[3]), image.dtype)
    result[...] = np.sort(corners, axis=0)[3]
    result[tuple(slice(n) for n in shape)] = image
    return result


@pytest.mark.parametrize("shape", [(16, 12, 8), (7, 9, 13)])
def test_serving_default_returns_the_networks_probabilities(served, network, shape):
    image = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    probabilities = served["serving_default"](image=tf.constant(image))["probabilities"]
    expected = network(np.stack([padded(example) for example in image]))
    expected = expected[:, : shape[0], : shape[1], : shape[2]]
    assert probabilities.shape == (2, *shape, 4)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(
    "shape, brain",
    [
        ((40, 44, 38), ((5, 20), (3, 21), (1, 12))),
        ((21, 22, 12), ((4, 21), (2, 20), (0, 12))),
        ((10, 18, 9), ((3, 10), (2, 18), (0, 9))),
    ],
    ids=["larger", "cut by the volume's end", "smaller"],
)
def test_segment_crops_predicts_and_returns_to_the_grid(cropping, network, shape, brain):
    recipe, served = cropping
    raw = volume(shape, brain)
    labels, probabilities = segment(served, raw)
    window = recipe.window(raw, MODALITIES)
    expected = expected_probabilities(network, raw, recipe, window, recipe.crop_shape)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    scheme = spec.LABEL_SCHEMES["brats2020"]
    np.testing.assert_array_equal(
        labels, masks.to_file_values(probabilities.argmax(axis=-1), scheme)
    )
    assert len(np.unique(labels)) > 1 and set(np.unique(labels)) <= {0, 1, 2, 4}
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(
    "brain, low, extents",
    [
        (((2, 21), (2, 22), (0, 13)), (-1, 2, -1), (22, 20, 14)),  # one voxel beyond: one stride
        (((3, 30), (2, 22), (0, 13)), (3, 2, -1), (30, 20, 14)),  # nine beyond: three strides
        (((3, 21), (0, 31), (0, 37)), (3, -2, -1), (18, 36, 38)),
        (((39, 40), (43, 44), (37, 38)), (3, 2, -1), (38, 44, 42)),  # no brain in the window
    ],
)
def test_segment_extends_the_window_to_the_whole_brain(served, network, brain, low, extents):
    raw = volume((40, 44, 38), brain)
    for near, far in ((0, 0), (-1, -1)):  # corners of the brain's box
        raw[tuple(ends[near] - (far != 0) for ends in brain)] = 300
    raw[5:9, 5:9, 5:9] = np.random.default_rng(1).gamma(2, 200, (4, 4, 4, 3))
    _, probabilities = segment(served, raw)
    np.testing.assert_allclose(
        probabilities, expected_probabilities(network, raw, RECIPE, low, extents), atol=1e-5
    )
    inside = crop.uncrop(np.ones(extents, bool), low, raw.shape[:3])
    assert (probabilities[~inside] == [1, 0, 0, 0]).all() and probabilities[inside].any()


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """Returns a network that labels bright voxels ET, its card and its signatures.

    The recipe has the default window of 144³ voxels.
    """
    inputs = tf.keras.Input((None, None, None, 1))
    network = tf.keras.Model(inputs, tf.keras.layers.Conv3D(3, 1, activation="sigmoid")(inputs))
    network.set_weights([np.full((1, 1, 1, 1, 3), 99.0, np.float32), np.zeros(3, np.float32)])
    path = tmp_path_factory.mktemp("documented") / "saved_model"
    card = dataclasses.replace(
        CARD,
        recipe=Recipe("none"),
        modalities=("flair",),
        piece=Piece((128, 128, 128), 16, 192**3),
        targets="regions",
    )
    export_saved_model(network, card, path)
    return network, card, signatures(path)


@pytest.mark.parametrize("shape", [(182, 218, 182), (97, 113, 80), (50, 60, 70)])
def test_the_default_recipe_accepts_grids_of_other_sizes(documented, shape):
    brain = np.zeros(shape, bool)
    brain[tuple(slice(n // 10, n - n // 10) for n in shape)] = True
    raw = np.where(brain, 1, 0).astype(np.float32)
    bright = brain & (np.indices(shape, sparse=True)[2] % 3 == 0)
    raw[bright] = 100
    labels, probabilities = segment(documented[2], raw[..., None])
    assert probabilities.shape == (*shape, 3)
    np.testing.assert_array_equal(labels, np.where(bright, 4, 0))


def assert_equals_numpy(network, raw, recipe, path):
    export_saved_model(network, dataclasses.replace(CARD, recipe=recipe, piece=WHOLE), path)
    _, probabilities = segment(signatures(path), raw)
    window, (brain, _) = recipe.window(raw, MODALITIES), _box(raw)
    low = [w - max(-(-(w - b) // STRIDE) * STRIDE, 0) for w, b in zip(window, brain)]
    end = [
        w + n + max(-(-(stop - w - n) // STRIDE) * STRIDE, 0)
        for w, n, stop in zip(window, recipe.crop_shape, _box(raw)[1])
    ]
    extents = [b - a for a, b in zip(low, end)]
    assert extents != list(recipe.crop_shape), "the brain must exceed the window for this test"
    np.testing.assert_allclose(
        probabilities, expected_probabilities(network, raw, recipe, low, extents), atol=1e-5
    )


def _box(raw):
    """Returns the first voxel and the end of the brain in FLAIR."""
    where = np.argwhere(raw[..., MODALITIES.index("flair")] > 0)
    return where.min(axis=0), where.max(axis=0) + 1


def test_segmenting_a_phantom_equals_the_numpy_computation(network, tmp_path):
    recipe = Recipe("none", crop_shape=(32, 36, 28), crop="brain")
    channels = [spec.MODALITIES.index(name) for name in MODALITIES]
    raw = generate.make_case(5, 0, shape=(56, 60, 44)).volumes[..., channels].astype(np.float32)
    assert_equals_numpy(network, raw, recipe, tmp_path / "model")


@pytest.mark.soak
def test_segmenting_a_real_case_equals_the_numpy_computation(network, tmp_path, real_cases):
    case = layouts.find_cases(real_cases)[0]
    raw = nifti.read_case(case, MODALITIES, with_mask=False).volumes
    assert_equals_numpy(network, raw, Recipe("none"), tmp_path / "model")


def test_an_ensemble_with_flips_is_the_mean_of_all_predictions(network, tmp_path):
    networks, path = [network, unet(2)], tmp_path / "model"
    export_saved_model(networks, dataclasses.replace(CARD, flips=True), path)
    assert cards.read(path).members == 2 and cards.read(path).flips
    raw = volume((24, 26, 20), ((3, 21), (2, 22), (0, 13)))
    image = RECIPE.network_input(raw, RECIPE.crop_origin).astype(np.float32)
    served = signatures(path)
    mean = served["serving_default"](image=tf.constant(image[None]))["probabilities"][0].numpy()

    def predict(member, axes):
        flipped = padded(np.flip(image, axes))
        return np.flip(member(flipped[None])[0].numpy()[:18, :20, :14], axes)

    predictions = [
        predict(member, axes)
        for member in networks
        for count in range(4)
        for axes in itertools.combinations(range(3), count)
    ]
    assert len(predictions) == 16
    np.testing.assert_allclose(mean, np.mean(predictions, axis=0), atol=1e-5)
    assert np.abs(mean - np.mean(predictions[:8], axis=0)).max() > 1e-3
    assert np.abs(mean - (predictions[0] + predictions[8]) / 2).max() > 1e-3
    _, probabilities = segment(served, raw)
    np.testing.assert_allclose(
        probabilities,
        RECIPE.to_grid(mean, RECIPE.crop_origin, raw.shape[:3], (1, 0, 0, 0)),
        atol=1e-6,
    )


def test_a_small_enhancing_tumour_becomes_necrosis_in_the_labels_only(documented, tmp_path):
    network, card, served = documented
    raw = np.zeros((60, 70, 50, 1), np.float32)
    raw[20:24, 30:33, 20:25] = 100
    plain, before = segment(served, raw)
    assert set(np.unique(plain)) == {0, 4} and np.count_nonzero(plain) == 60
    export_saved_model(
        network, dataclasses.replace(card, post_processing=PostProcessing(61)), tmp_path / "model"
    )
    replacing = signatures(tmp_path / "model")
    labels, after = segment(replacing, raw)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(labels, plain // 4)
    raw[40, 40, 40] = 100
    assert set(np.unique(segment(replacing, raw)[0])) == {0, 4}


def test_the_loaded_model_says_whether_it_replaced_the_enhancing_tumour(documented, tmp_path):
    """Not replaced: no threshold, no enhancing tumour, or enough of it."""
    network, card, served = documented
    export_saved_model(
        network, dataclasses.replace(card, post_processing=PostProcessing(61)), tmp_path / "model"
    )
    replacing = signatures(tmp_path / "model")
    raw = np.zeros((60, 70, 50, 1), np.float32)
    assert not replaced(replacing, raw)
    raw[20:24, 30:33, 20:25] = 100  # 60 voxels
    assert replaced(replacing, raw) and not replaced(served, raw)
    raw[40, 40, 40] = 100
    assert not replaced(replacing, raw)


def replaced(served, raw):
    output = served["segment"](volume=tf.constant(raw))["enhancing_replaced"]
    assert output.dtype == tf.bool and output.shape == ()
    return bool(output)


@pytest.mark.parametrize("min_voxels", [0, 1, 119, 120, 121])
def test_graph_and_numpy_replace_the_same_enhancing_tumour(min_voxels):
    classes = np.repeat(np.arange(5, dtype=np.uint8), 120).reshape(5, 8, 15).transpose(1, 0, 2)
    result, replaced = export.without_small_enhancing_tumour(tf.constant(classes), min_voxels)
    expected = PostProcessing(min_voxels).without_small_enhancing_tumour(classes)
    np.testing.assert_array_equal(result, expected)
    assert replaced.numpy() == (expected != classes).any() == (min_voxels > 120)
    assert result.dtype == tf.uint8 and (3 in result.numpy()) == (min_voxels <= 120)


def test_exporting_again_replaces_the_whole_folder(documented, tmp_path):
    network, card, _ = documented
    path = tmp_path / "saved_model"
    path.mkdir()
    (path / "stray").touch()
    export_saved_model(network, card, path)
    assert not (path / "stray").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved_model"]
    assert sorted(entry.name for entry in (path / "assets").iterdir()) == [
        "golden.npz",
        "model.json",
    ]


def test_the_graph_contains_the_network_once(documented, tmp_path):
    """Although both signatures run it, in one piece and in windows."""
    network, card, _ = documented
    export_saved_model(network, card, tmp_path / "saved_model")
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "saved_model/saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    convolving = [any(node.op == "Conv3D" for node in function.node_def) for function in functions]
    assert sum(convolving) == 1
    assert saved.ByteSize() < 1 << 20, "neither window weights nor copies of the network"


def test_a_model_that_differs_from_its_network_is_not_published(documented, tmp_path, monkeypatch):
    network, card, _ = documented
    path = tmp_path / "saved_model"
    monkeypatch.setattr(golden, "max_difference", lambda *_: 2e-5)
    with pytest.raises(RuntimeError, match="differs from its networks by 2e-05 .* at most 1e-05"):
        export_saved_model(network, card, path)
    assert not list(tmp_path.iterdir())


def test_the_golden_case_is_computed_in_full_float32(network, tmp_path, monkeypatch):
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled
    states, original = [tf32()], golden.max_difference
    monkeypatch.setattr(
        golden, "max_difference", lambda *given: (states.append(tf32()), original(*given))[1]
    )
    export_saved_model(network, CARD, tmp_path / "m")
    assert [*states, tf32()] == [True, False, True]


def test_networks_with_other_channels_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="3 input and 4 output channels; the card expects 3 and 3"):
        export_saved_model([network], dataclasses.replace(CARD, targets="regions"), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_depends_on_the_content_only(exported, tmp_path):
    before = cards.fingerprint(exported)
    shutil.copytree(exported, tmp_path / "b")
    assert before == cards.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "assets" / "model.json").write_text("{}")
    assert cards.fingerprint(tmp_path / "b") != before
