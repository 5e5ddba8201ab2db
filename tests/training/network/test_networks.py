"""Every registered network: build, mirrored step, checkpoint, rebuild, export, reload."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.pieces import Piece
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.network import layers
from brats_tfrecord.training.network.network_options import NETWORKS, NetworkOptions
from brats_tfrecord.training.network.networks import build_network
from brats_tfrecord.training.network.unet import build_unet

pytestmark = pytest.mark.slow

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
TARGETS = {"softmax": 4, "sigmoid": 3}
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 16, 8, 2)).astype(np.float32)


def tiny(name, **changes):
    """Two levels of 4 and 8 channels, dropout in every block."""
    options = NetworkOptions(name, 2, 3, "softmax", (4, 8), (0.2,) * 3)
    return dataclasses.replace(options, **changes)


def deep(name, **changes):
    """Four levels, logits at two of the decoder's three."""
    changes = {"coarse_outputs": 1, **changes}
    return tiny(name, filters=(2, 3, 4, 5), dropout=(0.2,) * 7, **changes)


def images(options):
    """Two images whose extents are multiples of the network's stride."""
    return np.tile(IMAGES, (1, *[options.first_stride] * 3, 1))


def mirrored_step(options, precision):
    """Returns a network after one step on two replicas with one example each."""
    strategy = devices.make_strategy("none", 2)
    with strategy.scope():
        network = build_network(options, precision=precision, seed=1)
        optimizer = tf.keras.optimizers.SGD(0.1)

    def replica(batch):
        image, number = batch
        with tf.GradientTape() as tape, layers.dropout_numbers(number):
            logits = network.trainer(image, training=True)
            loss = sum(tf.reduce_mean(level[..., 0] ** 2 - level[..., 1]) for level in logits)
        variables = network.trainer.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    @tf.function
    def step(batch):
        return strategy.run(replica, args=(batch,))

    numbers = np.array([8, 9], np.int64)
    batches = tf.data.Dataset.from_tensor_slices((images(options), numbers)).batch(
        2, drop_remainder=True
    )
    before = network.trainer.get_weights()
    losses = step(next(iter(strategy.experimental_distribute_dataset(batches))))
    assert np.isfinite(strategy.experimental_local_results(losses)).all()
    moved = [not np.array_equal(a, b) for a, b in zip(before, network.trainer.get_weights())]
    assert all(moved), [w.name for w, m in zip(network.trainer.weights, moved) if not m]
    return network


def train_and_restore(options, precision, folder):
    """Trains, saves, rebuilds and restores a network; returns a float32 copy of it."""
    trained = mirrored_step(options, precision)
    path = tf.train.Checkpoint(trainer=trained.trainer).write(str(folder / "state"))
    restored = build_network(options, precision=precision)
    tf.train.Checkpoint(trainer=restored.trainer).read(path).assert_consumed()
    exact = build_network(options)
    exact.model.set_weights(restored.model.get_weights())
    probabilities = exact.model(images(options)).numpy()
    assert probabilities.dtype == np.float32 and probabilities.min() >= 0
    if options.activation == "softmax":
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    tolerance = 1e-5 if precision == "float32" else 0.1
    np.testing.assert_allclose(trained.model(images(options)), probabilities, atol=tolerance)
    return exact


QUICK = {("unet", "softmax", "float32")}
STRIDED = {("unet_res", "sigmoid", "mixed_bfloat16")}


@pytest.mark.parametrize(
    "name, activation, precision, first_stride",
    [
        pytest.param(*case, stride, marks=() if case in quick else pytest.mark.soak)
        for stride, quick in ((1, QUICK), (2, STRIDED))
        for case in itertools.product(NETWORKS, TARGETS, PRECISIONS)
    ],
)
def test_a_trained_network_is_restored_and_exported(
    name, activation, precision, first_stride, tmp_path
):
    options = deep(
        name, activation=activation, outputs=TARGETS[activation], first_stride=first_stride
    )
    network = train_and_restore(options, precision, tmp_path)
    card = ModelCard(
        Recipe("none", crop_shape=(8, 16, 8)),
        ("flair", "t1ce"),
        "brats2020",
        "classes" if activation == "softmax" else "regions",
        Piece((8, 8, 8), network.stride, 10**6),
        "f" * 64,
        (),
        (),
        {},
    )
    export_saved_model(network.model, card, tmp_path / "saved")
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    np.testing.assert_allclose(
        serve(image=tf.constant(images(options)))["probabilities"],
        network.model(images(options)),
        atol=1e-5,
    )


def test_parameters_are_those_counted_by_hand():
    # Kernel by kernel, without those that differ: biases (4 or 8 a convolution) in unet, scale
    # and shift of the norms (2 * 4 or 2 * 8) in unet_nn.
    shared = 27 * (2 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 4 + 4 * 4) + 8 * (8 * 4) + (4 * 3 + 3)
    unet, unet_nn = (build_network(tiny(name)).model.count_params() for name in ("unet", "unet_nn"))
    assert unet == shared + 4 * 4 + 2 * 8 + 4
    assert unet_nn == shared + 4 * (2 * 4) + 2 * (2 * 8)


def test_parameters_of_residual_blocks_are_those_counted_by_hand():
    # Finest level: 2 -> 4 channels, skip of 1 voxel. Below: two blocks, the first with a skip of
    # 2x2x2 voxels. Decoder: up, and one convolution. Norms: scale and shift.
    encoder = 27 * (2 * 4 + 4 * 4) + 2 * 4 + 2 * (2 * 4)
    bottleneck = 27 * (4 * 8 + 3 * 8 * 8) + 8 * (4 * 8) + 4 * (2 * 8)
    decoder = 8 * (8 * 4) + 27 * (8 * 4) + 2 * 4 + (4 * 3 + 3)
    model = build_network(tiny("unet_res")).model
    assert model.count_params() == encoder + bottleneck + decoder


@pytest.mark.parametrize("name", NETWORKS)
def test_with_a_first_stride_no_convolution_runs_at_the_resolution_of_the_image(name):
    network = build_network(deep(name, first_stride=2, coarse_outputs=2), seed=1)
    assert network.stride == 16
    image = np.zeros((1, 16, 32, 48, 2), np.float32)
    shapes = [tuple(level.shape) for level in network.trainer(image)]
    assert shapes == [(1, 16, 32, 48, 3), (1, 8, 16, 24, 3), (1, 4, 8, 12, 3)]
    joined = network.model.get_layer("first_level")
    assert joined.output_shape[-1] == 2 and joined.strides == (2, 2, 2)
    kernel = network.model.get_layer("logits").get_weights()[0]
    assert kernel.shape == (2, 2, 2, 3, 2)


def test_a_first_stride_can_reproduce_any_pattern_of_voxels():
    """The last layer has a kernel for each of the eight voxels of a block."""
    network = build_network(tiny("unet", first_stride=2, outputs=1), seed=1)
    layer = network.model.get_layer("logits")
    kernel, bias = layer.get_weights()
    pattern = np.arange(8.0).reshape(2, 2, 2)
    layer.set_weights([pattern[..., None, None] + 0 * kernel, bias])
    features = np.zeros((1, 2, 3, 1, 4), np.float32)
    features[0, 1, 2, 0] = (1, 0, 0, 0)
    expected = np.zeros((4, 6, 2))
    expected[2:, 4:] = pattern
    np.testing.assert_array_equal(layer(features)[0, ..., 0], expected)


@pytest.mark.parametrize("change", [{"coarse_outputs": 2}, {"first_stride": 3}])
def test_impossible_options_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        deep("unet_res", **change)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_come_finest_first_and_the_deepest_level_has_none(name):
    network = build_network(deep(name), seed=1)
    assert network.stride == 8
    image = np.zeros((1, 16, 24, 8, 2), np.float32)
    shapes = [tuple(level.shape) for level in network.trainer(image)]
    assert shapes == [(1, 16, 24, 8, 3), (1, 8, 12, 4, 3)]
    single = build_network(deep(name, coarse_outputs=0), seed=1)
    assert [tuple(level.shape) for level in single.trainer(image)] == shapes[:1]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_the_activation_of_the_finest_logits(name):
    network = build_network(deep(name, activation="sigmoid"), seed=1)
    probabilities, logits = network.model(IMAGES), network.trainer(IMAGES)[0]
    np.testing.assert_allclose(probabilities, tf.sigmoid(logits), atol=1e-6)
    exported = {id(weight) for weight in network.model.weights}
    assert exported < {id(weight) for weight in network.trainer.weights}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_a_function_of_the_seed_and_differ_between_layers(name):
    first, again, other = (build_network(tiny(name), seed=seed).model for seed in (5, 5, 6))
    for a, b, c in zip(first.get_weights(), again.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
        assert a.ndim == 1 or not np.array_equal(a, c)
    kernels = [weights for weights in first.get_weights() if weights.ndim == 5]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(kernels, 2))
    seeds = [layer.seed for layer in first.layers if hasattr(layer, "seed")]
    assert len(seeds) == len(set(seeds)) == 3


def test_deep_supervision_leaves_the_initial_weights_of_the_model():
    plain = build_network(deep("unet", coarse_outputs=0), seed=1)
    supervised = build_network(deep("unet"), seed=1)
    for a, b in zip(plain.model.get_weights(), supervised.model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_for_gpus_computes_the_same(name):
    """Predictions and gradients, on the CPU, of equal weights."""
    results = []
    for on_gpu in (False, True):
        network = build_network(deep(name), seed=1, on_gpu=on_gpu)
        with tf.GradientTape() as tape, layers.dropout_numbers(tf.constant([8, 9], tf.int64)):
            loss = tf.reduce_sum(network.trainer(IMAGES, training=True)[0] ** 2)
        variables = network.model.trainable_variables
        results.append([network.model(IMAGES), *tape.gradient(loss, variables)])
    for ours, plain in zip(*results, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5 * max(1, np.abs(plain).max()))


def test_max_pooling_has_the_precision_of_the_network_on_gpus():
    for on_gpu, dtype in ((False, tf.float32), (True, tf.float16)):
        network = build_network(tiny("unet"), precision="mixed_float16", on_gpu=on_gpu)
        pools = [layer for layer in network.model.layers if layer.name.endswith("_pool")]
        assert {layer.compute_dtype for layer in pools} == {dtype.name}


def test_build_unet_builds_the_network_called_unet():
    options = tiny("unet")
    documented = build_unet((None, None, None, 2), 3, options.filters, options.dropout, seed=1)
    np.testing.assert_array_equal(build_network(options, seed=1).model(IMAGES), documented(IMAGES))


def test_activations_of_unet_nn_start_at_unit_scale():
    """He's rule: values neither vanish nor explode before the norms, on any level."""
    network = build_network(tiny("unet_nn", channels=8, filters=(32, 32), dropout=(0,) * 3), seed=1)
    layer = network.model.get_layer("encoder1_conv2")
    outputs = tf.keras.Model(network.model.inputs, layer.output)
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16, 8)).astype(np.float32)
    inner = outputs(image)[:, 2:-2, 2:-2, 2:-2]
    assert 0.8 < np.std(inner) < 1.25


def test_defaults_are_the_documented_ones():
    unet, unet_nn = NETWORKS["unet"], NETWORKS["unet_nn"]
    assert unet.rates(unet.filters) == (0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1)
    assert unet.rates((8, 16)) == (0.1, 0.3, 0.1)
    assert unet_nn.filters == (32, 64, 128, 256, 320, 320)
    assert unet_nn.rates(unet_nn.filters) == (0,) * 11


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "vnet"}, r"unet\|unet_nn"),
        ({"activation": "tanh"}, r"softmax\|sigmoid"),
        ({"filters": (8,), "dropout": (0,)}, "two levels"),
        ({"dropout": (0, 0)}, "expected 3 rates"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny("unet"), **changes)
