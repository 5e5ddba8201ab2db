"""The optimizer as a trainer makes it from the options."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import trainer
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.train_options import TrainOptions


def make_updates(**flags):
    """Updates of a run with 5 batches per epoch."""
    options = TrainOptions(data_dir="data", model_dir="model", **flags)
    strategy = devices.make_strategy()
    with strategy.scope():
        return trainer.make_updates(options, 5, strategy, [tf.Variable([1.0])])


def test_schedules_count_updates():
    """4 epochs of 5 batches, 2 per update: 10 updates, the first 5 of them warm-up."""
    updates = make_updates(
        epochs=4,
        accumulate=2,
        warmup_epochs=2,
        schedule="cosine",
        optimizer="lamb",
        learning_rate=0.5,
    )

    def rate(number):
        updates.optimizer.iterations.assign(number + 1)
        return updates.learning_rate()

    np.testing.assert_allclose([rate(n) for n in (0, 4, 5, 10)], [0.1, 0.5, 0.5, 0], atol=1e-7)


def test_the_learning_rate_is_that_of_the_update_that_the_last_batch_is_part_of():
    """Warm-up over 10 updates of 2 batches each: the k-th takes k / 10."""
    updates = make_updates(epochs=8, accumulate=2, warmup_epochs=4, learning_rate=1.0)
    rates = [updates.learning_rate()]
    step = tf.function(lambda: updates.apply_gradients([tf.constant([0.5])]))
    for _ in range(4):
        step()
        rates.append(updates.learning_rate())
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.1, 0.2, 0.2], rtol=1e-6)


def test_more_accumulation_than_batches_is_refused():
    assert make_updates(epochs=4, accumulate=20).optimizer
    with pytest.raises(InputError, match="--accumulate=21: the whole run has 20 batches"):
        make_updates(epochs=4, accumulate=21)
