"""What an update does, by hand, and that a restored one goes on bit for bit."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.optimization import optimizers, schedules, updates
from brats_tfrecord.training.train_options import TrainOptions

NAMES = ("adam", "adamw", "sgd", "lamb", "ranger", "novograd")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
BATCHES = np.random.default_rng(5).normal(size=(24, 4, 3, 2, 2, 2)).astype(np.float32)


class Training:
    """A network of one convolution and one dense layer, over `replicas` of the CPU."""

    def __init__(
        self,
        name="sgd",
        precision="float32",
        replicas=1,
        learning_rate=0.05,
        weight_decay=0.0,
        **chosen,
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
                **chosen,
            )
        self.checkpoint = tf.train.Checkpoint(model=self.model, updates=self.updates)
        self._step = tf.function(self._learn)

    def _learn(self, batch):
        def replica_step():
            rank = tf.distribute.get_replica_context().replica_id_in_sync_group
            share = tf.split(batch, self.replicas)
            mine = tf.stack(share)[rank]
            with tf.GradientTape() as tape:
                distance = tf.cast(self.model(mine, training=True), tf.float32) - 3
                loss = self.updates.scaled(tf.reduce_sum(distance**2) / batch.shape[0])
            return tape.gradient(loss, self.model.trainable_variables)

        self.updates.take(self.strategy.run(replica_step))

    @property
    def made(self):
        return int(self.updates.optimizer.iterations.numpy())

    def learn(self, batches):
        for batch in batches:
            self._step(tf.constant(batch))
        return self

    def state(self, path):
        """Every tensor that a checkpoint keeps: name -> array."""
        reader = tf.train.load_checkpoint(self.checkpoint.write(str(path)))
        return {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
        }


class Line:
    """One weight, whose gradients are given."""

    def __init__(self, name="sgd", learning_rate=1.0, start=(0.0, 0.0), **chosen):
        self.strategy = devices.make_strategy()
        with self.strategy.scope():
            self.weight = tf.Variable(start)
            if name == "descent":
                optimizer = tf.keras.optimizers.SGD(learning_rate)
            else:
                optimizer = optimizers.make_optimizer(name, learning_rate)
            self.updates = updates.Updates(self.strategy, optimizer, [self.weight], **chosen)
        self._take = tf.function(self._take_one)

    def _take_one(self, gradient):
        self.updates.take(self.strategy.run(lambda: [self.updates.scaled(gradient)]))

    def take(self, *gradients):
        for gradient in gradients:
            self._take(tf.constant(gradient))
        return self.weight.numpy().tolist()

    @property
    def made(self):
        return int(self.updates.optimizer.iterations.numpy())


@pytest.mark.parametrize(
    "precision",
    [
        "float32",
        pytest.param("mixed_bfloat16", marks=pytest.mark.soak),
        pytest.param("mixed_float16", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_run_goes_on_bit_for_bit(tmp_path, name, precision):
    check_restored(tmp_path, lambda: Training(name, precision), updates_made=24)


QUICK = {("adamw", "mixed_float16"), ("ranger", "mixed_float16")}


@pytest.mark.parametrize(
    "name, precision",
    [
        pytest.param(*both, marks=() if both in QUICK else pytest.mark.soak)
        for both in itertools.product(NAMES, PRECISIONS)
    ],
)
def test_with_everything_on_it_does_so_too(tmp_path, name, precision):
    """Two replicas, warm-up, clipping, averages; by threes, so the break cuts an update."""
    check_restored(
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
        updates_made=8,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_stochastic_averages_go_on_bit_for_bit(tmp_path, precision):
    """A mean of the updates 21 and 24, broken off between them."""

    def begin():
        return Training("sgd", precision, averaging=schedules.make_averaging("swa", 8, 24))

    check_restored(tmp_path, begin, updates_made=24, broken_after=22)


def check_restored(tmp_path, begin, updates_made, broken_after=10):
    unbroken = begin().learn(BATCHES[:broken_after])
    halfway = unbroken.state(tmp_path / "halfway")
    goal = unbroken.learn(BATCHES[broken_after:]).state(tmp_path / "goal")

    resumed = begin()
    resumed.checkpoint.read(str(tmp_path / "halfway")).assert_consumed()
    assert_same(resumed.state(tmp_path / "again"), halfway)
    assert_same(resumed.learn(BATCHES[broken_after:]).state(tmp_path / "resumed"), goal)
    with unbroken.updates.averaged(), resumed.updates.averaged():
        for a, b in zip(unbroken.model.get_weights(), resumed.model.get_weights()):
            np.testing.assert_array_equal(a, b)
    if resumed.updates.loss_scale is None:
        assert resumed.made == updates_made
    else:
        # The loss begins near 9: its gradients, scaled by 2**15, do not fit float16 at first.
        assert 0 < resumed.made < updates_made
        assert 1 < float(resumed.updates.loss_scale.numpy()) < updates.FIRST_SCALE
    kernel = next(name for name in goal if name.startswith("model/") and "kernel" in name)
    assert (goal[kernel] != halfway[kernel]).all()


def assert_same(state, other):
    assert state.keys() == other.keys() and len(state) > 4
    for name in state:
        np.testing.assert_array_equal(state[name], other[name], err_msg=name)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_three_batches_accumulated_are_one_that_large(precision, replicas):
    small = Training("sgd", precision, replicas, accumulate=3, clip_norm=1.0)
    large = Training("sgd", precision, replicas, clip_norm=1.0)
    small.learn(BATCHES[:12])
    # The replicas share each batch by position, which a mean does not see.
    large.learn(BATCHES[:12].reshape(4, 12, 3, 2, 2, 2))
    # float16 gradients differ by their rounding, 2**-11 of the largest.
    tolerance = 1e-5 if precision == "float32" else 3e-3
    for a, b in zip(small.model.get_weights(), large.model.get_weights()):
        np.testing.assert_allclose(a, b, atol=tolerance)
    # float16 skips the first ones, until it has found its loss scale.
    assert small.made == large.made
    assert small.made == 4 if precision == "float32" else 1 < small.made < 4


def test_two_replicas_are_one():
    one, two = (Training("adam", replicas=n, clip_norm=0.1).learn(BATCHES[:6]) for n in (1, 2))
    for a, b in zip(one.model.get_weights(), two.model.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_clipping_is_of_the_summed_unscaled_gradient():
    line = Line("descent", clip_norm=1.0, loss_scaling=True)
    np.testing.assert_allclose(line.take([3.0, 4.0]), [-0.6, -0.8], rtol=1e-6)
    # Accumulated: the mean (0.5, 0) is short enough, though a part of it was not.
    line = Line("descent", clip_norm=1.0, accumulate=2)
    assert line.take([3.0, 0.0]) == [0, 0]
    np.testing.assert_allclose(line.take([-2.0, 0.0]), [-0.5, 0], rtol=1e-6)


def test_gradients_that_are_not_finite_are_skipped_and_not_counted():
    line = Line("descent", loss_scaling=True, averaging=schedules.make_averaging("ema", 1, 9))
    scale = float(line.updates.loss_scale.numpy())
    assert line.take([float("inf"), 0.0], [0.0, float("nan")]) == [0, 0]
    assert (line.made, float(line.updates.loss_scale.numpy())) == (0, scale / 4)
    assert line.take([1.0, 2.0]) == [-1, -2] and line.made == 1
    with line.updates.averaged():
        assert line.weight.numpy().tolist() == [-1, -2]  # the first update's average


def test_one_bad_batch_spoils_its_accumulated_update_alone():
    line = Line("descent", loss_scaling=True, accumulate=2)
    assert line.take([1.0, 1.0], [float("inf"), 0.0]) == [0, 0]
    assert line.take([1.0, 1.0], [3.0, 1.0]) == [-2, -1] and line.made == 1


def test_the_scale_doubles_after_many_finite_updates(monkeypatch):
    monkeypatch.setattr(updates, "DOUBLE_AFTER", 3)
    line = Line("descent", loss_scaling=True)
    scales = []
    for gradient in (1.0, 1.0, 1.0, 1.0, float("inf"), 1.0, 1.0, 1.0):
        line.take([gradient, 0.0])
        scales.append(float(line.updates.loss_scale.numpy()) / updates.FIRST_SCALE)
    assert scales == [1, 1, 2, 2, 1, 1, 1, 2]


def test_without_loss_scaling_nothing_is_skipped():
    """The loop stops at weights that are not finite; skipping would hide why they are."""
    assert np.isnan(Line("descent").take([float("nan"), 1.0])[0])


def test_novograd_begins_right_after_a_skipped_update():
    """Its first second moment is the first gradient's, not a thousandth of it."""
    line = Line("novograd", 0.1, loss_scaling=True)
    line.take([float("inf"), 0.0])
    np.testing.assert_allclose(line.take([3.0, 4.0]), [-0.06, -0.08], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "ranger"])
def test_averages_are_shown_and_the_trained_weights_come_back(name):
    run = Training(name, replicas=2, averaging=schedules.make_averaging("ema", 1, 4))
    variables, seen = run.model.trainable_variables, []
    for update in range(1, 5):
        run.learn(BATCHES[update - 1 : update])
        seen.append([variable.numpy() for variable in variables])
    # Shares 1, 10/11, 10/12, 10/13 of the newest, by hand in float64.
    expected = seen[0]
    for done, newest in enumerate(seen[1:], start=1):
        expected = [a + 10 / (10 + done) * (b.astype(float) - a) for a, b in zip(expected, newest)]
    with run.updates.averaged():
        for variable, average in zip(variables, expected):
            for copy in run.strategy.experimental_local_results(variable):
                np.testing.assert_allclose(copy.numpy(), average, rtol=1e-5, atol=1e-7)
    for variable, trained in zip(variables, seen[-1]):
        for copy in run.strategy.experimental_local_results(variable):
            np.testing.assert_array_equal(copy.numpy(), trained)


def test_the_trained_weights_come_back_after_an_error_too():
    line = Line("descent", averaging=schedules.make_averaging("ema", 1, 9))
    line.take([1.0, 0.0], [1.0, 0.0])
    with pytest.raises(InterruptedError), line.updates.averaged():
        assert line.weight.numpy()[0] > -2
        raise InterruptedError
    assert line.weight.numpy().tolist() == [-2, 0]


def made_from(epoch_steps=5, **flags):
    chosen = TrainOptions(data_dir="data", model_dir="model", **flags)
    strategy = devices.make_strategy()
    with strategy.scope():
        return updates.make_updates(chosen, epoch_steps, strategy, [tf.Variable([1.0])])


def test_the_flags_count_in_updates():
    """4 epochs of 5 batches, 2 an update: 10 updates, the first 5 of them warm-up."""
    made = made_from(
        epochs=4,
        accumulate=2,
        warmup_epochs=2,
        schedule="cosine",
        optimizer="lamb",
        learning_rate=0.5,
    )
    rate = made.optimizer.learning_rate
    np.testing.assert_allclose([rate(n) for n in (0, 4, 5, 10)], [0.1, 0.5, 0.5, 0], atol=1e-7)


def test_more_accumulation_than_batches_is_refused():
    assert made_from(epochs=4, accumulate=20).optimizer
    with pytest.raises(InputError, match="--accumulate=21: the whole run has 20 batches"):
        made_from(epochs=4, accumulate=21)
