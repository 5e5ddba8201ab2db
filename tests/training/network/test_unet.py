import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.network.layers import SeededDropout
from brats_tfrecord.training.network.unet import build_unet

TINY = {"filters": (2, 3, 4), "dropout": (0, 0, 0, 0, 0)}


def test_default_is_the_documented_network():
    model = build_unet()
    assert model.count_params() == 5_645_828
    assert model.input_shape == (None, 144, 144, 144, 3)
    assert model.output_shape == (None, 144, 144, 144, 4)
    rates = [layer.rate for layer in model.layers if isinstance(layer, SeededDropout)]
    assert rates == [0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1]


def test_a_fourth_channel_adds_one_kernel_slice_for_each_first_filter():
    assert build_unet((144, 144, 144, 4), 4).count_params() == 5_645_828 + 27 * 16


def test_dropout_lies_between_the_two_convolutions_of_a_block():
    model = build_unet((8, 8, 8, 1), 2, **TINY)
    assert model.get_layer("encoder1_dropout").input is model.get_layer("encoder1_conv1").output
    assert model.get_layer("encoder1_conv2").input is model.get_layer("encoder1_dropout").output


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_probabilities_are_float32_under_every_policy(precision):
    model = build_unet((8, 12, 4, 2), 3, **TINY, precision=precision, seed=1)
    reference = build_unet((8, 12, 4, 2), 3, **TINY, seed=1)
    image = np.random.default_rng(0).normal(size=(2, 8, 12, 4, 2)).astype(np.float32)
    probabilities = model(image)
    assert probabilities.dtype == tf.float32
    assert all(weight.dtype == tf.float32 for weight in model.weights)
    np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities, reference(image), atol=0.03)
    assert tf.keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.parametrize("shape", [(4, 8, 12), (16, 4, 4)])
def test_open_extents_accept_any_multiple_of_the_stride(shape):
    model = build_unet((None, None, None, 1), 2, **TINY)
    assert model(np.zeros((1, *shape, 1), np.float32)).shape == (1, *shape, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (144, 150, 144, 3)}, "multiples of 16"),
        ({"input_shape": (16, 16, 16)}, "expected \\(X, Y, Z, C\\)"),
        ({"filters": (8, 16)}, "expected 3 rates"),
        ({"filters": (8,), "dropout": (0,)}, "two levels"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_unet(**arguments)
