"""What TensorFlow found wrong with data, disk or memory, in a user's terms."""

import contextlib
import errno
import re

import tensorflow as tf

from brats_tfrecord.errors import InputError, Stopped


@contextlib.contextmanager
def named(options):
    """Says in a user's terms what TensorFlow found wrong with data, disk or memory."""
    full = Stopped(
        f"--model_dir={options.model_dir}: the disk is full; make room and run the same "
        "command again to go on from the last saved state"
    )
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full from error
        raise
    except tf.errors.OpError as error:
        # What the loader's threads raise comes back within TensorFlow's own words.
        found = re.search(r"InputError: (.*)", error.message)
        if found:
            raise InputError(
                f"--data_dir={options.data_dir}: {found[1]}; what was saved until then is kept"
            ) from error
        if "No space left" in error.message or "Disk quota" in error.message:
            raise full from error
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise InputError(
                "out of memory on a device; give a smaller --batch_size (with "
                "--accumulate), a smaller --patch_size or fewer --filters"
            ) from error
        raise
