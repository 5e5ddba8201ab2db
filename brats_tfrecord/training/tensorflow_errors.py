"""Replaces TensorFlow's errors about data, disk, memory, GPUs and lost peers by messages."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.training.train_options import TrainOptions

_OUT_OF_MEMORY = re.compile(
    r"OOM when allocating|[Oo]ut of memory|CUDA_ERROR_OUT_OF_MEMORY|Exceeded memory limit"
    r"|CUDNN_STATUS_ALLOC_FAILED|Dst tensor is not initialized|failed to allocate memory"
)
"""What TensorFlow, XLA, CUDA and cuDNN say if a device has too little memory."""

_LOST_PEER = re.compile(
    # TensorFlow's collectives, and its service that watches the processes.
    r"[Cc]ollective ops is aborted|remote target|check alive failed|heartbeat timeout"
    r"|incarnation|[Cc]oordination service (?:has been|is) shut|Barrier failed|Shutdown barrier"
    # gRPC.
    r"|Socket closed|Connection (?:reset|refused)|Broken pipe|failed to connect to all addresses"
    r"|keepalive watchdog timeout"
    # NCCL.
    r"|unhandled (?:system|cuda) error|remote process exited|async NCCL error|NCCL operation"
)
"""What is said in a multiworker run if another process has ended or cannot be reached."""

_BROKEN_NCCL = re.compile(r"NCCL: |NCCL operation|unhandled (?:system|cuda) error")

_MISSING_LIBRARY = re.compile(
    r"DNN library (?:is not found|initialization failed)|CUDNN_STATUS_NOT_INITIALIZED"
    r"|libdevice (?:is required|not found)|no kernel image is available"
)

_FAILED_GPU = re.compile(
    r"CUDA_ERROR_\w+|illegal memory access|unspecified launch failure|GPU sync failed"
    r"|CUDNN_STATUS_\w+|uncorrectable ECC error"
)


@contextlib.contextmanager
def explained(options: TrainOptions) -> Iterator[None]:
    """Replaces errors that the user can do something about; others pass unchanged.

    Args:
        options: options of the run, whose flags the messages name.

    Raises:
        InputError: a record is damaged, a device is out of memory, or CUDA's libraries or NCCL
            cannot be used.
        Stopped: the disk is full, a GPU failed, or another process of a multiworker run was lost.
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
    if _OUT_OF_MEMORY.search(message):
        return _out_of_memory()
    if options.strategy == "multiworker" and (
        isinstance(error, tf.errors.UnavailableError) or _LOST_PEER.search(message)
    ):
        aborted = re.search(r".*aborted by: (.*)", message)
        return Stopped(
            f"a peer was lost ({_short(aborted[1] if aborted else message)}); run the same "
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
        return _out_of_memory()
    return _gpu_error(message, options)


def _gpu_error(message: str, options: TrainOptions) -> InputError | Stopped | None:
    """Explains errors of CUDA, cuDNN and NCCL; None if the message is of none of them."""
    if _BROKEN_NCCL.search(message):
        return InputError(
            f"--gpus={options.gpus}: NCCL cannot join the GPUs ({_short(message)}); with "
            "NCCL_DEBUG=WARN in the environment it says why. In a container the shared memory is "
            "often too small (docker run --shm-size=1g)"
        )
    if _MISSING_LIBRARY.search(message):
        return InputError(
            f"--gpus={options.gpus}: a library of the GPU cannot be used ({_short(message)}); "
            "install those of pip install 'brats-tfrecord[gpu]', and see with nvidia-smi that no "
            "other program fills the GPU's memory"
        )
    if _FAILED_GPU.search(message):
        return Stopped(
            f"a GPU failed ({_short(message)}); run the same command again to continue from the "
            "last saved state, on another GPU (--gpus) if it fails again; nvidia-smi shows its "
            "state"
        )
    return None


def _short(message: str) -> str:
    """The last line of a message up to its first sentence, at most 200 characters."""
    return message.strip().splitlines()[-1].strip().split(". ")[0][:200]


def _out_of_memory() -> InputError:
    return InputError(
        "out of memory on a device; give a smaller --batch_size (with "
        "--accumulate), a smaller --patch_size or fewer --filters"
    )


def _disk_full(options: TrainOptions) -> Stopped:
    return Stopped(
        f"--model_dir={options.model_dir}: the disk is full; make room and run the same "
        "command again to continue from the last saved state"
    )
