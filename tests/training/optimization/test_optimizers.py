"""The first steps of each optimizer, by hand: one kernel of 2, gradient 0.5, learning rate 0.1."""

import subprocess
import sys

import numpy as np
import optimizer_names
import pytest
import tensorflow as tf
from optimizer_names import needs_addons, parameters

from brats_tfrecord.training.network import networks
from brats_tfrecord.training.network.network_options import NETWORKS, NetworkOptions
from brats_tfrecord.training.optimization import optimizers

pytestmark = pytest.mark.slow


def after(name, steps, weight_decay=0.0, gradient=0.5):
    """The kernel after some steps with one gradient."""
    return both_after(name, steps, weight_decay, gradient)[0]


def both_after(name, steps, weight_decay=0.0, gradient=0.5):
    """A kernel and a bias that begin at 2, after the same steps."""
    kernel, bias = tf.Variable([[2.0]]), tf.Variable([2.0])
    optimizer = optimizers.make_optimizer(name, 0.1, weight_decay)
    optimizers.create_slots(optimizer, [kernel, bias])
    for _ in range(steps):
        optimizer.apply_gradients(
            [(tf.constant([[gradient]]), kernel), (tf.constant([gradient]), bias)]
        )
    assert int(optimizer.iterations) == steps
    return float(kernel[0, 0]), float(bias[0])


@pytest.mark.parametrize(
    "name, decay, expected",
    [
        ("adam", 0, 2 - 0.1),  # normalised gradient 1
        ("adamw", 0, 2 - 0.1),
        ("adamw", 0.5, 2 - 0.1 * 0.5 * 2 - 0.1),
        ("sgd", 0, 2 - 0.1 * 0.5 * (1 + 0.99)),  # Nesterov looks one step ahead
        ("sgd", 0.5, 2 - 0.1 * 0.5 * 2 - 0.1 * 0.5 * (1 + 0.99)),
        ("lamb", 0, 2 - 0.1 * 2),  # as long as the weight
        parameters("ranger", 0, 2 - 0.1 * 0.5),  # not rectified yet: the gradient itself
        parameters("ranger", 0.5, 2 - 0.1 * (0.5 + 0.5 * 2)),
        parameters("novograd", 0, 2 - 0.1),
        parameters("novograd", 0.5, 2 - 0.1 * (1 + 0.5 * 2)),
    ],
)
def test_the_first_step_by_hand(name, decay, expected):
    np.testing.assert_allclose(after(name, 1, decay), expected, rtol=1e-5)


@pytest.mark.parametrize("name", optimizer_names.ALL[1:])
def test_weight_decay_leaves_a_bias_alone(name):
    """Eight steps, past Ranger's first synchronisation; LAMB needs a gradient against the decay."""
    gradient = -0.5 if name == "lamb" else 0.5
    kernel, bias = both_after(name, 8, 0.5, gradient)
    kernel_without, bias_without = both_after(name, 8, 0.0, gradient)
    assert bias == bias_without == pytest.approx(kernel_without)
    assert kernel < kernel_without - 0.05


def test_norm_parameters_and_biases_of_the_networks_do_not_decay():
    for name in NETWORKS:
        options = NetworkOptions(name, 3, 4, "softmax", (2, 4, 8), (0.0,) * 5, 2, 1)
        for variable in networks.build_network(options).trainer.trainable_variables:
            kind = variable.name.split("/")[-1].split(":")[0]
            assert kind in ("kernel", "bias", "gamma", "beta")
            assert optimizers.decays(variable) == (kind == "kernel")


def test_lamb_decays_against_the_gradient():
    """Its steps are as long as the weight, so only the direction shows the decay."""
    assert after("lamb", 1, 0, gradient=-0.5) > 2 > after("lamb", 1, 1.0, gradient=-0.5)


@needs_addons
def test_ranger_steps_half_back_at_the_sixth_step():
    fast = after("ranger", 5) - 2
    sixth = after("ranger", 6) - 2
    assert fast < sixth < 0


@pytest.mark.parametrize("name", optimizer_names.ALL)
def test_a_schedule_sets_the_learning_rate(name):
    """Learning rates 0 and then 0.1: the first update changes nothing."""
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.0, 0.1])
    weight = tf.Variable([2.0])
    optimizer = optimizers.make_optimizer(name, schedule)
    optimizers.create_slots(optimizer, [weight])
    weights = []
    for _ in range(2):
        optimizer.apply_gradients([(tf.constant([0.5]), weight)])
        weights.append(float(weight[0]))
    assert weights[0] == 2 > weights[1]


@needs_addons
def test_lamb_equals_that_of_addons():
    import tensorflow_addons

    rng = np.random.default_rng(0)
    kernels = [tf.Variable(np.full((3, 2), 0.3, np.float32)) for _ in range(2)]
    ours = optimizers.make_optimizer("lamb", 0.1, weight_decay=0.05)
    optimizers.create_slots(ours, [kernels[0]])
    theirs = tensorflow_addons.optimizers.LAMB(0.1, weight_decay=0.05)
    for _ in range(10):
        gradient = tf.constant(rng.normal(size=(3, 2)), tf.float32)
        ours.apply_gradients([(gradient, kernels[0])])
        theirs.apply_gradients([(gradient, kernels[1])])
        np.testing.assert_allclose(kernels[0].numpy(), kernels[1].numpy(), rtol=1e-5, atol=1e-6)


def test_lamb_moves_a_weight_of_zero():
    kernel = tf.Variable([[0.0]])
    optimizer = optimizers.make_optimizer("lamb", 0.1)
    optimizers.create_slots(optimizer, [kernel])
    optimizer.apply_gradients([(tf.constant([[0.5]]), kernel)])
    assert float(kernel[0, 0]) == pytest.approx(-0.1, rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lamb"])
def test_updates_are_not_compiled_even_if_there_is_a_gpu(monkeypatch, name):
    # The module that Keras sees it through.
    monkeypatch.setattr(tf.compat.v2.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    assert tf.keras.optimizers.Adam().jit_compile
    assert not optimizers.make_optimizer(name).jit_compile


@needs_addons
def test_addons_are_imported_only_for_their_optimizers():
    code = (
        "import sys; from brats_tfrecord.training.optimization import optimizers as o; "
        "o.make_optimizer('lamb'); print('tensorflow_addons' in sys.modules); "
        "o.make_optimizer('ranger'); print('tensorflow_addons' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
    assert "end of life" not in run.stderr
