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
    rate = updates.optimizer.learning_rate
    np.testing.assert_allclose([rate(n) for n in (0, 4, 5, 10)], [0.1, 0.5, 0.5, 0], atol=1e-7)


def test_more_accumulation_than_batches_is_refused():
    assert make_updates(epochs=4, accumulate=20).optimizer
    with pytest.raises(InputError, match="--accumulate=21: the whole run has 20 batches"):
        make_updates(epochs=4, accumulate=21)
