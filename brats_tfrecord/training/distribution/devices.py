"""Where training runs, and in what arithmetic."""

import contextlib
import re
import signal
from pathlib import Path

import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.stopping import StopRequest
from brats_tfrecord.training.distribution import cluster

TENSOR_CORES_SINCE = (7, 0)
"""First compute capability whose GPUs multiply float16 faster than float32 (Volta)."""

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def make_strategy(
    gpus="all", virtual_devices=0, kind="mirrored", peer_wait_minutes=10.0, stop=None
):
    """Makes the strategy that mirrors the network over the chosen devices.

    GPU memory grows with need, always. Device choices are fixed once TensorFlow has run its
    first operation; a later call in the same process must ask for the same.

    Args:
        gpus: "all", "none", or numbers such as "0,1". Without GPUs, training runs on the CPU.
        virtual_devices: if above 0, splits the CPU into that many replicas and uses no GPU.
        kind: "mirrored", or "multiworker" for the processes that TF_CONFIG names: returns when
            all of them are there.
        peer_wait_minutes: how long to wait for them.
        stop: `stopping.StopRequest` that ends this wait, or None.

    Returns:
        A `tf.distribute.MirroredStrategy`, over one device too, or a
        `tf.distribute.MultiWorkerMirroredStrategy`.

    Raises:
        InputError: a GPU that is not there, a process whose CPU is split otherwise already, or a
            TF_CONFIG that is missing or wrong.
        Stopped: a peer did not appear, or `stop` was asked for meanwhile.
    """
    members = cluster.from_environment() if kind == "multiworker" else None
    chosen = [] if virtual_devices else _choose_gpus(gpus)
    # GPUs that are not used are hidden: TensorFlow would take all of their memory.
    _configure("gpus", lambda: _show_gpus(chosen))
    if members:
        cluster.wait_for_peers(members, peer_wait_minutes, stop or StopRequest())
        return _multiworker()
    if virtual_devices:
        _split_cpu(virtual_devices)
    if not chosen:
        return _mirrored_cpu(virtual_devices or 1)
    return tf.distribute.MirroredStrategy([f"GPU:{n}" for n in range(len(chosen))])


def per_replica_batch(batch_size, strategy):
    """Splits the global batch; raises `InputError` with both numbers if it does not divide."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(
            f"--batch_size={batch_size}: does not divide by the {replicas} replicas it is shared "
            f"by; choose a multiple of {replicas}, or fewer devices"
        )
    return batch_size // replicas


def resolve_precision(precision, strategy):
    """The Keras dtype policy to build the network with.

    "auto" takes float16 where every GPU has tensor cores: one rule from Volta on, while bfloat16
    needs Ampere and must be asked for. It takes bfloat16 on CPUs that have it in hardware, and
    float32 elsewhere: float16 on a CPU is hundreds of times slower.

    Args:
        precision: "auto" or a policy's name, which is returned as it is.
        strategy: from `make_strategy`.
    """
    if precision != "auto":
        return precision
    if _has_gpus(strategy):
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
            for gpu in tf.config.get_visible_devices("GPU")
        ]
        return "mixed_float16" if min(capabilities) >= TENSOR_CORES_SINCE else "float32"
    return "mixed_bfloat16" if _cpu_flags() & _BFLOAT16_FLAGS else "float32"


def emulates(precision, strategy):
    """Whether the CPU that trains computes in `precision` without having it in hardware.

    TensorFlow then rounds after every operation: bfloat16 takes many times as long as float32,
    float16 hundreds of times. Never true of GPUs, nor of bfloat16 where the CPU does not tell.

    Args:
        precision: a policy's name, of `resolve_precision`.
        strategy: from `make_strategy`.
    """
    if _has_gpus(strategy) or precision == "float32":
        return False
    flags = _cpu_flags()
    return precision == "mixed_float16" or (bool(flags) and not flags & _BFLOAT16_FLAGS)


def _has_gpus(strategy):
    return any("GPU" in device for device in strategy.extended.worker_devices)


def _mirrored_cpu(count):
    # Virtual devices share one memory: reducing on one of them is all the exchange they need.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{n}" for n in range(count)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def _multiworker():
    """The strategy of TF_CONFIG: NCCL between GPUs, rings over gRPC between CPUs."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with contextlib.suppress(ValueError):  # not the main thread: it has no signals to lose
        # TensorFlow's server has put its own handler of SIGTERM in the place of ours.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


def _split_cpu(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    now = tf.config.get_logical_device_configuration(cpu)
    if now is not None and len(now) >= count:
        return
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    _configure("virtual_devices", lambda: tf.config.set_logical_device_configuration(cpu, parts))


def _choose_gpus(gpus):
    there = tf.config.list_physical_devices("GPU")
    if gpus == "all":
        return there
    if gpus == "none":
        return []
    numbers = [int(part) for part in gpus.split(",")]
    if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(len(there))):
        found = f"GPUs 0 to {len(there) - 1}" if there else "no GPU"
        raise InputError(
            f"--gpus={gpus}: this machine shows {found}; expected distinct numbers of those, all "
            "or none"
        )
    return [there[n] for n in numbers]


def _show_gpus(chosen):
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:
        tf.config.experimental.set_memory_growth(gpu, True)


def _configure(flag, setting):
    """Applies a device setting; TensorFlow refuses changes after its first operation."""
    try:
        setting()
    except RuntimeError as error:
        raise InputError(
            f"--{flag}: TensorFlow has started with other devices in this process; start a new "
            "process"
        ) from error


def _cpu_flags():
    """The CPU's feature flags as Linux spells them; empty where it does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(match.group(1).split()) if match else set()
