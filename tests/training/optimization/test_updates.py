"""Updates computed by hand, and restored runs that continue bit for bit."""

import itertools

import numpy as np
import optimizer_names
import pytest
import tensorflow as tf
from optimizer_names import needs_addons, parameters

from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.optimization import optimizers, schedules, updates

pytestmark = pytest.mark.slow

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
BATCHES = np.random.default_rng(5).normal(size=(24, 4, 3, 2, 2, 2)).astype(np.float32)


class Training:
    """A network of one convolution and one dense layer on `replicas` of the CPU."""

    def __init__(
        self,
        name="sgd",
        precision="float32",
        replicas=1,
        learning_rate=0.05,
        weight_decay=0.0,
        **options,
    ):
        self.strategy = devices.make_strategy(virtual_devices=replicas if replicas > 1 else 0)
        self.replicas = replicas
        with self.strategy.scope():
            layers = [
                tf.keras.layers.Conv3D(
                    2,
                    2,
                    activation="tanh",
                    dtype=precision,
                    kernel_initializer=tf.keras.initializers.GlorotUniform(1),
                ),
                tf.keras.layers.Flatten(dtype=precision),
                tf.keras.layers.Dense(
                    1, dtype=precision, kernel_initializer=tf.keras.initializers.GlorotUniform(2)
                ),
            ]
            self.model = tf.keras.Sequential(layers)
            self.model.build((None, 3, 2, 2, 2))
            self.updates = updates.Updates(
                self.strategy,
                optimizers.make_optimizer(name, learning_rate, weight_decay),
                self.model.trainable_variables,
                loss_scaling=precision == "mixed_float16",
                **options,
            )
        self.checkpoint = tf.train.Checkpoint(model=self.model, updates=self.updates)
        self._step = tf.function(self._train_step)

    def _train_step(self, batch):
        def replica_step():
            rank = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = tf.stack(tf.split(batch, self.replicas))[rank]
            with tf.GradientTape() as tape:
                distance = tf.cast(self.model(mine, training=True), tf.float32) - 3
                loss = self.updates.scale_loss(tf.reduce_sum(distance**2) / batch.shape[0])
            return tape.gradient(loss, self.model.trainable_variables)

        self.updates.apply_gradients(self.strategy.run(replica_step))

    @property
    def updates_applied(self):
        return int(self.updates.optimizer.iterations.numpy())

    def train(self, batches):
        for batch in batches:
            self._step(tf.constant(batch))
        return self

    def state(self, path):
        """Every tensor of a checkpoint: name -> array."""
        reader = tf.train.load_checkpoint(self.checkpoint.write(str(path)))
        return {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
        }


class GivenGradients:
    """One weight [2] from (0, 0), by default with plain gradient descent of step size 1."""

    def __init__(self, optimizer=None, **options):
        self.strategy = devices.make_strategy()
        with self.strategy.scope():
            self.weight = tf.Variable([0.0, 0.0])
            optimizer = optimizer or tf.keras.optimizers.SGD(1.0)
            self.updates = updates.Updates(self.strategy, optimizer, [self.weight], **options)
        self._step = tf.function(self._apply_one)

    def _apply_one(self, gradient):
        scaled = self.strategy.run(lambda: [self.updates.scale_loss(gradient)])
        return self.updates.apply_gradients(scaled)

    def apply(self, *gradients):
        """Applies one gradient after the other; returns the weight."""
        for gradient in gradients:
            self.sound = bool(self._step(tf.constant(gradient)))
        return self.weight.numpy().tolist()

    @property
    def updates_applied(self):
        return int(self.updates.optimizer.iterations.numpy())


@pytest.mark.parametrize(
    "precision",
    [
        "float32",
        pytest.param("mixed_bfloat16", marks=pytest.mark.soak),
        pytest.param("mixed_float16", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("name", optimizer_names.ALL)
def test_a_restored_run_continues_bit_for_bit(tmp_path, name, precision):
    check_continues(tmp_path, lambda: Training(name, precision), updates_applied=24)


QUICK = {("adamw", "mixed_float16"), ("ranger", "mixed_float16")}


@pytest.mark.parametrize(
    "name, precision",
    [
        parameters(*both, marks=[] if both in QUICK else [pytest.mark.soak])
        for both in itertools.product(optimizer_names.NAMES, PRECISIONS)
    ],
)
def test_a_restored_run_with_all_options_continues_bit_for_bit(tmp_path, name, precision):
    """Two replicas, warm-up, clipping, averages; the break lies between accumulated batches."""
    check_continues(
        tmp_path,
        lambda: Training(
            name,
            precision,
            2,
            schedules.make_schedule("cosine", 0.05, 8, warmup=2),
            weight_decay=0.01,
            clip_norm=0.5,
            accumulate=3,
            averaging=schedules.make_averaging("ema", 8, 8),
        ),
        updates_applied=8,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_restored_stochastic_averages_continue_bit_for_bit(tmp_path, precision):
    """The mean of the updates 21 and 24, interrupted between them."""

    def begin():
        return Training("sgd", precision, averaging=schedules.make_averaging("swa", 8, 24))

    check_continues(tmp_path, begin, updates_applied=24, interrupted_after=22)


def check_continues(tmp_path, begin, updates_applied, interrupted_after=10):
    unbroken = begin().train(BATCHES[:interrupted_after])
    halfway = unbroken.state(tmp_path / "halfway")
    final = unbroken.train(BATCHES[interrupted_after:]).state(tmp_path / "final")

    resumed = begin()
    resumed.checkpoint.read(str(tmp_path / "halfway")).assert_consumed()
    assert_same(resumed.state(tmp_path / "again"), halfway)
    assert_same(resumed.train(BATCHES[interrupted_after:]).state(tmp_path / "resumed"), final)
    with unbroken.updates.averaged(), resumed.updates.averaged():
        for a, b in zip(unbroken.model.get_weights(), resumed.model.get_weights()):
            np.testing.assert_array_equal(a, b)
    if resumed.updates.loss_scale is None:
        assert resumed.updates_applied == updates_applied
    else:
        # The loss begins near 9: its gradients, scaled by 2**15, do not fit float16 at first.
        assert 0 < resumed.updates_applied < updates_applied
        assert 1 < float(resumed.updates.loss_scale.numpy()) < updates.FIRST_SCALE
    kernel = next(name for name in final if name.startswith("model/") and "kernel" in name)
    assert (final[kernel] != halfway[kernel]).all()


def assert_same(state, other):
    assert state.keys() == other.keys() and len(state) > 4
    for name in state:
        np.testing.assert_array_equal(state[name], other[name], err_msg=name)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_three_accumulated_batches_equal_one_of_three_times_the_size(precision, replicas):
    small = Training("sgd", precision, replicas, accumulate=3, clip_norm=1.0)
    large = Training("sgd", precision, replicas, clip_norm=1.0)
    small.train(BATCHES[:12])
    # The replicas split each batch by position, which does not change the mean.
    large.train(BATCHES[:12].reshape(4, 12, 3, 2, 2, 2))
    # float16 gradients differ by their rounding, 2**-11 of the largest.
    tolerance = 1e-5 if precision == "float32" else 3e-3
    for a, b in zip(small.model.get_weights(), large.model.get_weights()):
        np.testing.assert_allclose(a, b, atol=tolerance)
    # float16 skips the first updates, until its loss scale is small enough.
    assert small.updates_applied == large.updates_applied
    assert small.updates_applied == 4 if precision == "float32" else 1 < small.updates_applied < 4


def test_two_replicas_equal_one():
    one, two = (Training("adam", replicas=n, clip_norm=0.1).train(BATCHES[:6]) for n in (1, 2))
    for a, b in zip(one.model.get_weights(), two.model.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_summed_unscaled_gradient_is_clipped():
    run = GivenGradients(clip_norm=1.0, loss_scaling=True)
    np.testing.assert_allclose(run.apply([3.0, 4.0]), [-0.6, -0.8], rtol=1e-6)
    # Accumulated: the mean (0.5, 0) is short enough, although its summands are not.
    run = GivenGradients(clip_norm=1.0, accumulate=2)
    assert run.apply([3.0, 0.0]) == [0, 0]
    np.testing.assert_allclose(run.apply([-2.0, 0.0]), [-0.5, 0], rtol=1e-6)


def test_gradients_that_are_not_finite_are_skipped_and_not_counted():
    run = GivenGradients(loss_scaling=True, averaging=schedules.make_averaging("ema", 1, 9))
    scale = float(run.updates.loss_scale.numpy())
    assert run.apply([float("inf"), 0.0], [0.0, float("nan")]) == [0, 0]
    assert (run.updates_applied, float(run.updates.loss_scale.numpy())) == (0, scale / 4)
    assert run.apply([1.0, 2.0]) == [-1, -2] and run.updates_applied == 1
    with run.updates.averaged():
        assert run.weight.numpy().tolist() == [-1, -2]  # the first update's average


def test_a_batch_that_is_not_finite_spoils_only_its_accumulated_update():
    run = GivenGradients(loss_scaling=True, accumulate=2)
    assert run.apply([1.0, 1.0], [float("inf"), 0.0]) == [0, 0]
    assert run.apply([1.0, 1.0], [3.0, 1.0]) == [-2, -1] and run.updates_applied == 1


def test_the_scale_doubles_after_many_finite_updates(monkeypatch):
    monkeypatch.setattr(updates, "DOUBLE_AFTER", 3)
    run = GivenGradients(loss_scaling=True)
    scales = []
    for gradient in (1.0, 1.0, 1.0, 1.0, float("inf"), 1.0, 1.0, 1.0):
        run.apply([gradient, 0.0])
        scales.append(float(run.updates.loss_scale.numpy()) / updates.FIRST_SCALE)
    assert scales == [1, 1, 2, 2, 1, 1, 1, 2]


@pytest.mark.parametrize(
    "loss_scale, expected", [(None, False), (2.0, True), (1.0, False)], ids=["none", "2", "1"]
)
def test_gradients_that_are_not_finite_are_sound_while_the_scale_can_shrink(loss_scale, expected):
    run = GivenGradients(loss_scaling=loss_scale is not None)
    if loss_scale is not None:
        run.updates.loss_scale.assign(loss_scale)
    run.apply([1.0, 2.0])
    assert run.sound
    run.apply([float("nan"), 0.0])
    assert run.sound == expected


def test_without_loss_scaling_nothing_is_skipped():
    """The loop stops at weights that are not finite; skipping would hide the cause."""
    assert np.isnan(GivenGradients().apply([float("nan"), 1.0])[0])


@needs_addons
def test_novograd_starts_correctly_after_a_skipped_update():
    """Its initial second moment is that of the first gradient, not a thousandth of it."""
    run = GivenGradients(optimizers.make_optimizer("novograd", 0.1), loss_scaling=True)
    run.apply([float("inf"), 0.0])
    np.testing.assert_allclose(run.apply([3.0, 4.0]), [-0.06, -0.08], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", parameters("ranger")])
def test_averages_are_swapped_in_and_the_trained_weights_restored(name):
    run = Training(name, replicas=2, averaging=schedules.make_averaging("ema", 1, 4))
    variables, states = run.model.trainable_variables, []
    for update in range(1, 5):
        run.train(BATCHES[update - 1 : update])
        states.append([variable.numpy() for variable in variables])
    # Shares 1, 10/11, 10/12, 10/13 of the newest, by hand in float64.
    expected = states[0]
    for earlier, newest in enumerate(states[1:], start=1):
        share = 10 / (10 + earlier)
        expected = [a + share * (b.astype(float) - a) for a, b in zip(expected, newest)]
    with run.updates.averaged():
        for variable, average in zip(variables, expected):
            for copy in run.strategy.experimental_local_results(variable):
                np.testing.assert_allclose(copy.numpy(), average, rtol=1e-5, atol=1e-7)
    for variable, trained in zip(variables, states[-1]):
        for copy in run.strategy.experimental_local_results(variable):
            np.testing.assert_array_equal(copy.numpy(), trained)


def test_the_trained_weights_are_restored_after_an_error_too():
    run = GivenGradients(averaging=schedules.make_averaging("ema", 1, 9))
    run.apply([1.0, 0.0], [1.0, 0.0])
    with pytest.raises(InterruptedError), run.updates.averaged():
        assert run.weight.numpy()[0] > -2
        raise InterruptedError
    assert run.weight.numpy().tolist() == [-2, 0]
