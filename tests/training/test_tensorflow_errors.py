import errno
import re

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


LOST = [
    # TensorFlow 2.15 and 2.21: collectives, health check, coordination service.
    ("Collective ops is aborted by: worker 1 went away. Restart it.\nMore", "worker 1 went away"),
    (
        "Collective ops is aborted by: Collective ops is aborted by: Socket closed\nAdditional "
        "GRPC error information from remote target /job:worker/replica:0/task:1:\n:{}",
        "Socket closed",
    ),
    ("Collective ops is aborted by: cluster check alive failed, /task:1 is down", "cluster check"),
    (
        "Task /job:worker/replica:0/task:1 heartbeat timeout. This indicates that the remote task "
        "has failed, got preempted, or crashed unexpectedly.",
        "Task /job:worker/replica:0/task:1 heartbeat timeout",
    ),
    (
        "/job:worker/replica:0/task:1 unexpectedly tried to connect with a different incarnation. "
        "It has likely restarted.",
        "/job:worker/replica:0/task:1 unexpectedly",
    ),
    ("RecvBuf expects a different device incarnation: 123 vs. 456.", "RecvBuf expects"),
    ("Coordination service has been shut down.", "Coordination service has"),
    ("Barrier failed from a task error. Barrier Id: 7", "Barrier failed from a task error"),
    # gRPC.
    ("Socket closed", "Socket closed"),
    ("recvmsg:Connection reset by peer", "recvmsg:Connection reset by peer"),
    ("failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.2:2222", "failed to"),
    # NCCL.
    ("NCCL: unhandled system error. Set NCCL_DEBUG=WARN for detail.", "NCCL: unhandled system"),
    ("NCCL: unhandled cuda error. Set NCCL_DEBUG=WARN for detail.", "NCCL: unhandled cuda"),
    ("remote process exited or there was a network error", "remote process exited"),
    ("Communicator aborted due to async NCCL error: unhandled system error", "Communicator"),
    (
        "NCCL operation ncclGroupEnd() failed: unhandled system error (run with NCCL_DEBUG=INFO "
        "for details). Last NCCL warning(error) log entry (may be unrelated) 'socketProgress: "
        "Connection closed by remote peer node2<42830>'.",
        "NCCL operation ncclGroupEnd",
    ),
]
"""Message -> the beginning of its reason."""


@pytest.mark.parametrize("message, reason", LOST)
def test_a_lost_peer_stops_a_multiworker_run(message, reason):
    with pytest.raises(Stopped, match=rf"a peer was lost \({re.escape(reason)}") as caught:
        raise_explained(tf.errors.InternalError(None, None, message), "multiworker")
    assert caught.value.exit_code == 75 and caught.value.is_lost_peer
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [LOST_PEER, tf.errors.UnavailableError(None, None, "gone")])
def test_without_peers_none_is_lost(error):
    with pytest.raises(Stopped, match=r"a peer was lost \((worker 1 went away|gone)\); run"):
        raise_explained(error, "multiworker")
    with pytest.raises(type(error)):
        raise_explained(error)


@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
@pytest.mark.parametrize(
    "message",
    [
        "OOM when allocating tensor with shape[2,16,128,128,128] on /GPU:0 by allocator GPU_0_bfc",
        "Out of memory while trying to allocate 1073741824 bytes.",
        "failed to allocate 2.0G bytes from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "Dst tensor is not initialized.",
        "Collective ops is aborted by: OOM when allocating tensor with shape[2,16,128]",
    ],
)
def test_a_full_gpu_is_no_lost_peer(message, strategy):
    with pytest.raises(InputError, match="out of memory on a device"):
        raise_explained(tf.errors.InternalError(None, None, message), strategy)


@pytest.mark.parametrize(
    "message, replaced_by, explanation",
    [
        (
            "Failed to synchronize: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was "
            "encountered",
            Stopped,
            "a GPU failed .*CUDA_ERROR_ILLEGAL_ADDRESS.*same command again",
        ),
        ("GPU sync failed", Stopped, "a GPU failed"),
        ("CUDNN_STATUS_EXECUTION_FAILED in conv.cc", Stopped, "a GPU failed"),
        ("DNN library is not found.", InputError, r"--gpus=all: a library.*\[gpu\]"),
        ("CUDNN_STATUS_NOT_INITIALIZED", InputError, "a library of the GPU"),
        (
            "NCCL: unhandled system error. Set NCCL_DEBUG=WARN for detail.",
            InputError,
            "NCCL cannot join the GPUs .*--shm-size",
        ),
    ],
)
def test_errors_of_gpus_are_explained(message, replaced_by, explanation):
    with pytest.raises(replaced_by, match=explanation):
        raise_explained(tf.errors.InternalError(None, None, message))


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), KeyError("epoch")])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught:
        raise_explained(error)
    assert caught.value is error
