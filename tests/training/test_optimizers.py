import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training import devices, optimizers


class Descent:
    """Weights on two replicas that walk towards a target, replica by replica."""

    def __init__(self, name, loss_scaling):
        self.strategy = devices.make_strategy(virtual_devices=2)
        with self.strategy.scope():
            self.weights = tf.Variable(tf.ones([3, 2]))
            self.optimizer = optimizers.make_optimizer(name, 0.05, loss_scaling=loss_scaling)
            optimizers.create_slots(self.optimizer, [self.weights])
        self.checkpoint = tf.train.Checkpoint(weights=self.weights, optimizer=self.optimizer)
        self.scaling = loss_scaling
        self.step = tf.function(lambda: self.strategy.run(self._replica_step))

    def _replica_step(self):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((self.weights - [3.0, -2.0]) ** 2) / 2
            if self.scaling:
                loss = self.optimizer.get_scaled_loss(loss)
        gradients = tape.gradient(loss, [self.weights])
        if self.scaling:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.optimizer.apply_gradients(zip(gradients, [self.weights]))

    def walk(self, steps):
        for _ in range(steps):
            self.step()
        return self.weights.numpy()


@pytest.mark.parametrize("loss_scaling", [False, True])
@pytest.mark.parametrize("name", ["adam", "lamb"])
def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path, name, loss_scaling):
    unbroken = Descent(name, loss_scaling)
    start = unbroken.walk(3)
    path = unbroken.checkpoint.write(str(tmp_path / "state"))
    goal = unbroken.walk(3)
    assert np.abs(goal - [3, -2]).sum() < np.abs(start - [3, -2]).sum()

    resumed = Descent(name, loss_scaling)
    status = resumed.checkpoint.read(path)
    np.testing.assert_array_equal(resumed.weights.numpy(), start)
    np.testing.assert_array_equal(resumed.walk(3), goal)
    status.assert_consumed()
    assert int(resumed.optimizer.iterations.numpy()) == 6


@pytest.mark.parametrize("name", ["adam", "lamb"])
def test_the_learning_rate_arrives(name):
    optimizer = optimizers.make_optimizer(name, 0.25)
    assert float(optimizer.learning_rate) == 0.25


def test_schedules():
    assert optimizers.make_schedule("constant", 0.5, 8) == 0.5
    cosine = optimizers.make_schedule("cosine", 0.5, 8)
    np.testing.assert_allclose([cosine(step) for step in (0, 4, 8)], [0.5, 0.25, 0], atol=1e-7)
    assert optimizers.make_optimizer("lamb", cosine).learning_rate is cosine
