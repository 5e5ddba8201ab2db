"""Save, reload with nothing but TensorFlow, compare."""

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
from brats_tfrecord.preprocess import crop, masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import export, golden
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.training.network.unet import build_unet

RECIPE = Recipe("none", crop_origin=(3, 2, -1), crop_shape=(18, 20, 14), crop="fixed")
MODALITIES = ("t1ce", "flair", "t2")
STRIDE = 4
CARD = ModelCard(
    RECIPE,
    MODALITIES,
    "brats2020",
    "classes",
    STRIDE,
    10**6,
    "f" * 64,
    ("A_001",),
    ("A_002",),
    {"epochs": 3},
)


def unet(seed=1):
    return build_unet((None, None, None, 3), 4, (4, 8), (0.3,) * 3, seed=seed)


def signatures(path):
    """Both signatures, and the object that keeps their weights alive."""
    model = tf.saved_model.load(str(path))
    return {**model.signatures, "owner": model}


def segment(served, raw):
    found = served["segment"](volume=tf.constant(raw))
    return found["labels"].numpy(), found["probabilities"].numpy()


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
    """(recipe, signatures) of a model for each kind of crop."""
    recipe = dataclasses.replace(RECIPE, crop=request.param)
    if recipe == RECIPE:
        return recipe, served
    path = tmp_path_factory.mktemp("export") / "saved_model"
    export_saved_model(network, dataclasses.replace(CARD, recipe=recipe), path)
    return recipe, signatures(path)


def volume(shape, brain, seed=0):
    """70 % of the voxels within `brain`, a range for each axis, in three channels."""
    rng = np.random.default_rng(seed)
    raw, inside = np.zeros((*shape, 3), np.float32), tuple(slice(*ends) for ends in brain)
    part = raw[inside]
    part[...] = rng.gamma(2, 200, part.shape) * (rng.random((*part.shape[:3], 1)) < 0.7)
    return raw


def by_hand(network, raw, recipe, low, extents):
    """Probabilities on the grid from the box at `low`, z-scored like the window in it."""
    window = recipe.window(raw, MODALITIES)
    of_window = crop.crop(raw, window, recipe.crop_shape).astype(np.float64)
    mean = of_window.mean(axis=(0, 1, 2)).astype(np.float32).astype(np.float64)
    deviation = of_window.std(axis=(0, 1, 2)).astype(np.float32)
    image = (crop.crop(raw, low, extents) - mean) / deviation
    image = image.astype(np.float32).astype(recipe.image_dtype).astype(np.float32)
    found = network(np.pad(image, [*((0, -n % STRIDE) for n in extents), (0, 0)])[None]).numpy()[0]
    found = found[tuple(slice(n) for n in extents)]
    return recipe.to_grid(found, low, raw.shape[:3], fill=(1, 0, 0, 0))


@pytest.mark.parametrize("shape", [(16, 12, 8), (7, 9, 13)])
def test_serving_default_is_the_network(served, network, shape):
    image = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    found = served["serving_default"](image=tf.constant(image))["probabilities"]
    padding = [(0, 0), *((0, -n % STRIDE) for n in shape), (0, 0)]
    expected = network(np.pad(image, padding))[:, : shape[0], : shape[1], : shape[2]]
    assert found.shape == (2, *shape, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "shape, brain",
    [
        ((40, 44, 38), ((5, 20), (3, 21), (1, 12))),
        ((21, 22, 12), ((4, 21), (2, 20), (0, 12))),
        ((10, 18, 9), ((3, 10), (2, 18), (0, 9))),
    ],
    ids=["larger", "cut by the volume's end", "smaller"],
)
def test_segment_is_crop_network_and_undo(cropping, network, shape, brain):
    recipe, served = cropping
    raw = volume(shape, brain)
    labels, probabilities = segment(served, raw)
    window = recipe.window(raw, MODALITIES)
    expected = by_hand(network, raw, recipe, window, recipe.crop_shape)
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
        (((2, 21), (2, 22), (0, 13)), (-1, 2, -1), (22, 20, 14)),  # a voxel before: a stride
        (((3, 30), (2, 22), (0, 13)), (3, 2, -1), (30, 20, 14)),  # nine behind: three strides
        (((3, 21), (0, 31), (0, 37)), (3, -2, -1), (18, 36, 38)),
        (((39, 40), (43, 44), (37, 38)), (3, 2, -1), (38, 44, 42)),  # none in the window
    ],
)
def test_segment_covers_a_brain_beyond_the_window(served, network, brain, low, extents):
    raw = volume((40, 44, 38), brain)
    for near, far in ((0, 0), (-1, -1)):  # both corners of the brain's box are brain
        raw[tuple(ends[near] - (far != 0) for ends in brain)] = 300
    raw[5:9, 5:9, 5:9] = np.random.default_rng(1).gamma(2, 200, (4, 4, 4, 3))
    _, probabilities = segment(served, raw)
    np.testing.assert_allclose(
        probabilities, by_hand(network, raw, RECIPE, low, extents), atol=1e-5
    )
    inside = crop.uncrop(np.ones(extents, bool), low, raw.shape[:3])
    assert (probabilities[~inside] == [1, 0, 0, 0]).all() and probabilities[inside].any()


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """A network that calls bright voxels ET, its card with the documented window, signatures."""
    inputs = tf.keras.Input((None, None, None, 1))
    network = tf.keras.Model(inputs, tf.keras.layers.Conv3D(3, 1, activation="sigmoid")(inputs))
    network.set_weights([np.full((1, 1, 1, 1, 3), 99.0, np.float32), np.zeros(3, np.float32)])
    path = tmp_path_factory.mktemp("documented") / "saved_model"
    card = dataclasses.replace(
        CARD,
        recipe=Recipe("none"),
        modalities=("flair",),
        stride=16,
        targets="regions",
        whole_voxels=192**3,
    )
    export_saved_model(network, card, path)
    return network, card, signatures(path)


@pytest.mark.parametrize("shape", [(182, 218, 182), (97, 113, 80), (50, 60, 70)])
def test_other_grids_pass_under_the_documented_recipe(documented, shape):
    brain = np.zeros(shape, bool)
    brain[tuple(slice(n // 10, n - n // 10) for n in shape)] = True
    raw = np.where(brain, 1, 0).astype(np.float32)
    bright = brain & (np.indices(shape, sparse=True)[2] % 3 == 0)
    raw[bright] = 100
    labels, probabilities = segment(documented[2], raw[..., None])
    assert probabilities.shape == (*shape, 3)
    np.testing.assert_array_equal(labels, np.where(bright, 4, 0))


def whole_head(shape, case=None):
    """float32 [X, Y, Z, 3] of a phantom's head, or of a real case's."""
    if case is not None:
        return nifti.read_case(case, MODALITIES, with_mask=False).volumes
    channels = [spec.MODALITIES.index(name) for name in MODALITIES]
    return generate.make_case(5, 0, shape=shape).volumes[..., channels].astype(np.float32)


def assert_the_head_is_segmented_as_by_hand(network, raw, recipe, path):
    export_saved_model(network, dataclasses.replace(CARD, recipe=recipe, whole_voxels=10**7), path)
    _, probabilities = segment(signatures(path), raw)
    window, (brain, _) = recipe.window(raw, MODALITIES), _box(raw)
    low = [w - max(-(-(w - b) // STRIDE) * STRIDE, 0) for w, b in zip(window, brain)]
    end = [
        w + n + max(-(-(stop - w - n) // STRIDE) * STRIDE, 0)
        for w, n, stop in zip(window, recipe.crop_shape, _box(raw)[1])
    ]
    extents = [b - a for a, b in zip(low, end)]
    assert extents != list(recipe.crop_shape), "a brain within the window says nothing"
    np.testing.assert_allclose(
        probabilities, by_hand(network, raw, recipe, low, extents), atol=1e-5
    )


def _box(raw):
    """First voxel and end of the brain in FLAIR."""
    where = np.argwhere(raw[..., MODALITIES.index("flair")] > 0)
    return where.min(axis=0), where.max(axis=0) + 1


def test_a_phantom_is_segmented_as_by_hand(network, tmp_path):
    recipe = Recipe("none", crop_shape=(32, 36, 28), crop="brain")
    assert_the_head_is_segmented_as_by_hand(
        network, whole_head((56, 60, 44)), recipe, tmp_path / "model"
    )


@pytest.mark.soak
def test_a_real_case_is_segmented_as_by_hand(network, tmp_path, real_cases):
    raw = whole_head(None, layouts.find_cases(real_cases)[0])
    assert_the_head_is_segmented_as_by_hand(network, raw, Recipe("none"), tmp_path / "model")


def test_an_ensemble_with_flips_is_the_mean_of_all_their_answers(network, tmp_path):
    networks, path = [network, unet(2)], tmp_path / "model"
    export_saved_model(networks, dataclasses.replace(CARD, flips=True), path)
    assert cards.read(path).members == 2 and cards.read(path).flips
    raw = volume((24, 26, 20), ((3, 21), (2, 22), (0, 13)))
    image = RECIPE.network_input(raw, RECIPE.crop_origin).astype(np.float32)
    served = signatures(path)
    found = served["serving_default"](image=tf.constant(image[None]))["probabilities"][0].numpy()

    def answer(one, axes):
        flipped = np.pad(np.flip(image, axes), [(0, 2), (0, 0), (0, 2), (0, 0)])
        return np.flip(one(flipped[None])[0].numpy()[:18, :20, :14], axes)

    answers = [
        answer(one, axes)
        for one in networks
        for count in range(4)
        for axes in itertools.combinations(range(3), count)
    ]
    assert len(answers) == 16
    np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-5)
    assert np.abs(found - np.mean(answers[:8], axis=0)).max() > 1e-3
    assert np.abs(found - (answers[0] + answers[8]) / 2).max() > 1e-3
    _, probabilities = segment(served, raw)
    np.testing.assert_allclose(
        probabilities,
        RECIPE.to_grid(found, RECIPE.crop_origin, raw.shape[:3], (1, 0, 0, 0)),
        atol=1e-6,
    )


def test_faint_enhancement_becomes_necrosis_in_labels_alone(documented, tmp_path):
    network, card, served = documented
    raw = np.zeros((60, 70, 50, 1), np.float32)
    raw[20:24, 30:33, 20:25] = 100
    plain, before = segment(served, raw)
    assert set(np.unique(plain)) == {0, 4} and np.count_nonzero(plain) == 60
    export_saved_model(
        network, dataclasses.replace(card, post_processing=PostProcessing(61)), tmp_path / "model"
    )
    faint = signatures(tmp_path / "model")
    labels, after = segment(faint, raw)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(labels, plain // 4)
    raw[40, 40, 40] = 100
    assert set(np.unique(segment(faint, raw)[0])) == {0, 4}


@pytest.mark.parametrize("at_least", [0, 1, 119, 120, 121])
def test_what_is_faint_is_the_same_in_graph_and_array(at_least):
    classes = np.repeat(np.arange(5, dtype=np.uint8), 120).reshape(5, 8, 15).transpose(1, 0, 2)
    found = export._without_faint_enhancement(tf.constant(classes), at_least)
    np.testing.assert_array_equal(
        found, PostProcessing(at_least).without_faint_enhancement(classes)
    )
    assert found.dtype == tf.uint8 and (3 in found.numpy()) == (at_least <= 120)


def test_exporting_again_replaces_the_folder_whole(documented, tmp_path):
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


def test_the_graph_holds_the_network_once(documented, tmp_path):
    # Both signatures run it, in one piece and in windows.
    network, card, _ = documented
    export_saved_model(network, card, tmp_path / "saved_model")
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "saved_model/saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    convolving = [any(node.op == "Conv3D" for node in function.node_def) for function in functions]
    assert sum(convolving) == 1
    assert saved.ByteSize() < 1 << 20, "no windows' weights, no copies"


def test_a_model_that_does_not_answer_as_its_network_is_not_published(
    documented, tmp_path, monkeypatch
):
    network, card, _ = documented
    path = tmp_path / "saved_model"
    monkeypatch.setattr(golden, "difference", lambda *_: 2e-5)
    with pytest.raises(RuntimeError, match="differs from its networks by 2e-05 .* at most 1e-05"):
        export_saved_model(network, card, path)
    assert not list(tmp_path.iterdir())


def test_networks_of_other_channels_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="3 channels in and 4 out; the card says 3 and 3"):
        export_saved_model([network], dataclasses.replace(CARD, targets="regions"), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_fingerprint_follows_content(exported, tmp_path):
    before = cards.fingerprint(exported)
    shutil.copytree(exported, tmp_path / "b")
    assert before == cards.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "assets" / "model.json").write_text("{}")
    assert cards.fingerprint(tmp_path / "b") != before
