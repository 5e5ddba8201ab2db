import errno

import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.training import tensorflow_errors
from brats_tfrecord.training.train_options import TrainOptions

FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
FULL_DISK_OF_TENSORFLOW = tf.errors.ResourceExhaustedError(
    None, None, "tensorboard/events; No space left on device"
)
OUT_OF_MEMORY = tf.errors.ResourceExhaustedError(None, None, "OOM on a GPU")
DAMAGED_RECORD = tf.errors.InvalidArgumentError(
    None, None, "{{node}} InputError: a: ends\nTraceback"
)
LOST_PEER = tf.errors.AbortedError(
    None, None, "Collective ops is aborted by: worker 1 went away. Restart it.\nAdditional text"
)


def raise_explained(error, strategy="mirrored"):
    with tensorflow_errors.explained(TrainOptions("data", "model", strategy=strategy)):
        raise error


@pytest.mark.parametrize(
    "error, replaced_by, message",
    [
        (FULL_DISK, Stopped, "--model_dir=model: the disk is full"),
        (FULL_DISK_OF_TENSORFLOW, Stopped, "--model_dir=model: the disk is full"),
        (OUT_OF_MEMORY, InputError, "out of memory .*--batch_size"),
        (DAMAGED_RECORD, InputError, "--data_dir=data: a: ends; everything saved before"),
    ],
)
def test_errors_that_a_user_can_solve_are_explained(error, replaced_by, message):
    with pytest.raises(replaced_by, match=message) as caught:
        raise_explained(error)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [LOST_PEER, tf.errors.UnavailableError(None, None, "gone")])
def test_a_lost_peer_stops_a_multiworker_run_only(error):
    with pytest.raises(Stopped, match=r"a peer was lost \((worker 1 went away|gone)\); run"):
        raise_explained(error, "multiworker")
    with pytest.raises(type(error)):
        raise_explained(error)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), KeyError("epoch")])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught:
        raise_explained(error)
    assert caught.value is error
