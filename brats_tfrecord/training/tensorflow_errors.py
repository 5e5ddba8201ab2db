"""Replaces TensorFlow's errors about data, disk, memory and lost peers by messages for users."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.training.train_options import TrainOptions

_LOST_PEER = re.compile(r"[Cc]ollective ops is aborted|remote target|check alive failed")


@contextlib.contextmanager
def explained(options: TrainOptions) -> Iterator[None]:
    """Replaces errors that the user can do something about; others pass unchanged.

    Args:
        options: options of the run, whose flags the messages name.

    Raises:
        InputError: a record is damaged, or a device is out of memory.
        Stopped: the disk is full, or another process of a multiworker run was lost.
    """
    try:
        yield
    except OSError as error:
        if error.errno in files.DISK_FULL:
            raise _disk_full(options) from error
        raise
    except tf.errors.OpError as error:
        explanation = _explanation(error, options)
        if explanation:
            raise explanation from error
        raise


def _explanation(error: tf.errors.OpError, options: TrainOptions) -> InputError | Stopped | None:
    message = error.message
    if options.strategy == "multiworker" and (
        isinstance(error, tf.errors.UnavailableError) or _LOST_PEER.search(message)
    ):
        aborted = re.search(r"aborted by: (.*)", message)
        reason = aborted[1] if aborted else message.strip().splitlines()[-1]
        return Stopped(
            f"a peer was lost ({reason.strip().split('. ')[0][:200]}); run the same "
            "command again on all workers to continue",
            is_lost_peer=True,
        )
    # TensorFlow puts errors of the loader's threads into messages of its own.
    input_error = re.search(r"InputError: (.*)", message)
    if input_error:
        return InputError(
            f"--data_dir={options.data_dir}: {input_error[1]}; everything saved before is kept"
        )
    if "No space left" in message or "Disk quota" in message:
        return _disk_full(options)
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return InputError(
            "out of memory on a device; give a smaller --batch_size (with "
            "--accumulate), a smaller --patch_size or fewer --filters"
        )
    return None


def _disk_full(options: TrainOptions) -> Stopped:
    return Stopped(
        f"--model_dir={options.model_dir}: the disk is full; make room and run the same "
        "command again to continue from the last saved state"
    )
