"""No big tensor of a step or of an exported graph is in host memory while a GPU runs it.

Needs no GPU, because the graphs are only traced. To see the figures of every graph:
`python -m pytest tests/training/test_gpu_audit.py -m "slow or soak" -s`.
"""

import itertools

import pytest
import tensorflow as tf
from gpu_kernels import audit

from brats_tfrecord import spec
from brats_tfrecord.pieces import Piece
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import export
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.predictor import Predictor
from brats_tfrecord.targets import NAMES as TARGETS
from brats_tfrecord.targets import make_targets
from brats_tfrecord.training import steps
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.network import networks
from brats_tfrecord.training.network.network_options import (
    NETWORKS,
    NetworkOptions,
    most_coarse_outputs,
)
from brats_tfrecord.training.optimization import losses, optimizers
from brats_tfrecord.training.optimization.updates import Updates

BATCH, EXTENTS = 2, (128, 128, 128)
FILTERS = (8, 16, 32)  # levels only repeat each other's operations
MODALITIES = ("t1ce", "flair", "t2")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
QUICK = {
    ("unet", "classes", "batch_dice_cross_entropy", "mixed_float16"),
    ("unet", "regions", "focal", "float32"),
    ("unet_nn", "classes", "dice_cross_entropy", "mixed_bfloat16"),
}


class Steps:
    """Both steps of a small network, with the operations it has on GPUs."""

    def __init__(self, name, targets, loss, precision, brain_channel=False, first_stride=1):
        self.targets = make_targets(targets, 4)
        self.strategy = devices.make_strategy("none")
        self.brain_channel = brain_channel
        options = network_options(name, self.targets, brain_channel, first_stride)
        self.piece = Piece.of_network(NETWORKS[name].takes_statistics, options.stride, EXTENTS)
        with self.strategy.scope():
            self.network = networks.build_network(options, precision=precision, seed=1, on_gpu=True)
            self.updates = Updates(
                self.strategy,
                optimizers.make_optimizer("adam"),
                self.network.trainer.trainable_variables,
                loss_scaling=precision == "mixed_float16",
            )
        self.loss = losses.deep_supervision(losses.make_loss(loss, self.targets))

    def trace_training(self):
        step = steps.make_train_step(
            self.strategy,
            self.network,
            self.targets,
            self.loss,
            self.updates,
            BATCH,
            brain_channel=self.brain_channel,
        )
        return step.get_concrete_function(batch(EXTENTS, number=tf.int64))

    def trace_evaluation(self):
        step = steps.make_eval_step(
            self.strategy, self.network, self.targets, self.loss, self.piece, self.brain_channel
        )
        whole = batch((144, 144, 144), weight=tf.float32)
        return step.get_concrete_function(whole, tf.TensorSpec([None], tf.int32))


def network_options(name, targets, brain_channel, first_stride):
    defaults = NETWORKS[name]
    return NetworkOptions(
        name,
        len(spec.input_names(MODALITIES, brain_channel)),
        targets.channels,
        targets.activation,
        FILTERS,
        defaults.rates(FILTERS),
        first_stride,
        most_coarse_outputs(FILTERS, first_stride) if defaults.deep_supervision else 0,
    )


def batch(extents, **scalars):
    """Specification of a batch of `input_pipeline` for one replica."""
    return {
        "image": tf.TensorSpec([BATCH, *extents, len(MODALITIES)], tf.float16),
        "mask": tf.TensorSpec([BATCH, *extents], tf.uint8),
        "case": tf.TensorSpec([BATCH], tf.int32),
        **{name: tf.TensorSpec([BATCH], dtype) for name, dtype in scalars.items()},
    }


def exported_module(name, targets, brain_channel, first_stride=1):
    """The exported module of a small network, traced but not saved."""
    kind = make_targets(targets, 4)
    options = network_options(name, kind, brain_channel, first_stride)
    card = ModelCard(
        Recipe("none"),
        MODALITIES,
        "brats2020",
        targets,
        Piece.of_network(NETWORKS[name].takes_statistics, options.stride, EXTENTS),
        "f" * 64,
        (),
        (),
        {},
        post_processing=PostProcessing(min_enhancing_voxels=100),
        brain_channel=brain_channel,
    )
    predictor = Predictor(networks.build_network(options).model, card)
    return export._ServedModule(predictor, card, [])


def require_nothing_on_host(title, graph):
    found = audit(graph)
    print(
        f"\n{title}: {len(found.on_host)} big tensors on the host ({found.megabytes:.0f} MB), "
        f"{found.casts} casts, {found.transposes} transposes, {len(found.waits)} waits"
    )
    assert not found.on_host
    return found


def require_steps_on_gpu(title, *arguments):
    traced = Steps(*arguments)
    assert not require_nothing_on_host(f"training {title}", traced.trace_training()).waits
    require_nothing_on_host(f"evaluation {title}", traced.trace_evaluation())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, targets, loss, precision",
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.soak)
        for each in itertools.product(NETWORKS, TARGETS, losses.NAMES, PRECISIONS)
    ],
)
def test_steps_keep_volumes_on_the_gpu(name, targets, loss, precision):
    require_steps_on_gpu(f"{name} {targets} {loss} {precision}", name, targets, loss, precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, precision",
    [
        ("unet_res", "mixed_bfloat16"),
        *(
            pytest.param(*each, marks=pytest.mark.soak)
            for each in itertools.product(NETWORKS, PRECISIONS)
            if each != ("unet_res", "mixed_bfloat16")
        ),
    ],
)
def test_steps_with_a_brain_channel_and_first_stride_keep_volumes_on_the_gpu(name, precision):
    title = f"{name} with a brain channel and a first stride of 2, {precision}"
    require_steps_on_gpu(title, name, "regions", "dice_cross_entropy", precision, True, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, targets, brain_channel, first_stride",
    [
        ("unet_res", "regions", True, 2),
        pytest.param("unet", "classes", False, 1, marks=pytest.mark.soak),
        pytest.param("unet", "regions", True, 1, marks=pytest.mark.soak),
        pytest.param("unet_nn", "classes", False, 1, marks=pytest.mark.soak),
        pytest.param("unet_nn", "regions", True, 1, marks=pytest.mark.soak),
        pytest.param("unet_nn", "regions", False, 1, marks=pytest.mark.soak),
    ],
)
def test_exported_graphs_keep_volumes_on_the_gpu(name, targets, brain_channel, first_stride):
    module = exported_module(name, targets, brain_channel, first_stride)
    require_nothing_on_host(f"serving_default {name} {targets}", module.predict)
    require_nothing_on_host(f"segment {name} {targets}", module.segment)


VOLUME, TRUTH = tf.TensorSpec([100, 100, 100], tf.int32), tf.TensorSpec([], tf.bool)


def trace(function, *arguments):
    return audit(tf.function(function, autograph=False).get_concrete_function(*arguments))


def test_the_audit_finds_int32_arithmetic():
    found = trace(lambda x: x + 1, VOLUME)
    assert len(found.on_host) == 3 and found.megabytes == 12  # argument, sum and result
    assert not trace(lambda x: tf.cast(x, tf.float32) + 1, VOLUME).on_host


def test_the_audit_finds_operations_without_a_kernel():
    assert trace(lambda x: tf.unstack(tf.cast(x, tf.int64)), VOLUME).on_host
    assert not trace(lambda x: tf.unstack(tf.cast(x, tf.float32)), VOLUME).on_host


def test_the_audit_looks_into_loops_branches_and_calls():
    add = tf.function(lambda x: x + 1)
    assert trace(add, VOLUME).on_host
    assert trace(lambda x: tf.while_loop(lambda x: True, lambda x: [add(x)], [x]), VOLUME).on_host
    assert trace(lambda x, y: tf.cond(y, lambda: add(x), lambda: x), VOLUME, TRUTH).on_host


def test_the_audit_takes_volumes_of_unknown_extents_for_big():
    assert trace(lambda x: x + 1, tf.TensorSpec([None] * 3, tf.int32)).on_host
    assert not trace(lambda x: x + 1, tf.TensorSpec([None], tf.int32)).on_host


def test_the_audit_counts_casts_transposes_and_waits():
    def function(x):
        y = tf.cast(x, tf.float32)
        length = tf.cast(tf.reduce_max(y), tf.int32)  # decided by the GPU, needed by the host
        return tf.transpose(y), tf.zeros([length])

    found = trace(function, VOLUME)
    assert (found.casts, found.transposes) == (1, 1)
    assert found.waits and not found.on_host
    assert not trace(lambda x: tf.zeros(tf.shape(x)), VOLUME).waits
