import errno

import pytest
import tensorflow as tf

from brats_tfrecord import workflow
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.training.train_options import TrainOptions

NO_SPACE = "tensorboard/events; No space left on device"


@pytest.mark.parametrize(
    "raised, told, message",
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            Stopped,
            "--model_dir=model: the disk is",
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, NO_SPACE),
            Stopped,
            "model: the disk is full",
        ),
        (tf.errors.ResourceExhaustedError(None, None, "OOM on a GPU"), InputError, "--batch_size"),
        (
            tf.errors.InvalidArgumentError(None, None, "{{node}} InputError: a: ends\nTraceback"),
            InputError,
            "--data_dir=data: a: ends; what was saved",
        ),
    ],
)
def test_what_ran_out_is_named(monkeypatch, raised, told, message):
    def train(options):
        raise raised

    monkeypatch.setattr(workflow, "train", train)
    with pytest.raises(told, match=message):
        workflow.train_and_export(TrainOptions("data", "model"))
