"""The devices that training runs on, and the arithmetic that suits them."""

import contextlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.stopping import StopRequest
from brats_tfrecord.training.distribution import cluster
from brats_tfrecord.training.distribution import gpus as available_gpus

_GPU_POLICIES = {(8, 0): "mixed_bfloat16", (7, 0): "mixed_float16", (0, 0): "float32"}
"""Lowest compute capability of all GPUs -> policy, from Ampere, from Volta, and before.

The tensor cores of Ampere are as fast with bfloat16 as with float16. bfloat16 has the range of
float32: it needs no loss scaling, whose check for infinite gradients precedes each update.
"""

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def make_strategy(
    gpus: str = "all",
    virtual_devices: int = 0,
    kind: str = "mirrored",
    peer_wait_minutes: float = 10.0,
    stop: StopRequest | None = None,
    deterministic: bool = False,
) -> tf.distribute.Strategy:
    """Makes the strategy that mirrors the network over the chosen devices.

    GPU memory is allocated as needed, not all at the start. TensorFlow fixes its devices with
    its first operation; later calls in the same process must ask for the same devices.

    Args:
        gpus: "all", "none", or numbers such as "0,1". Without GPUs, training runs on the CPU.
        virtual_devices: if above 0, splits the CPU into that many replicas and uses no GPU.
        kind: "mirrored" for this process alone, or "multiworker" for the processes that
            TF_CONFIG names; the call then returns when all of them have started.
        peer_wait_minutes: how long to wait for the other processes.
        stop: request that ends this wait early, or None.
        deterministic: makes every operation of this process give the same bits each time. On a
            GPU that needs `gpu_settings.tuned` too, and takes time.

    Returns:
        A `tf.distribute.MirroredStrategy`, also for a single device, or a
        `tf.distribute.MultiWorkerMirroredStrategy`.

    Raises:
        InputError: a GPU does not exist or cannot be used, TensorFlow has started with other
            devices, TF_CONFIG is missing or malformed, or the processes have unequal GPUs.
        Stopped: a process did not appear in time, or a stop was requested.
    """
    members = cluster.from_environment() if kind == "multiworker" else None
    chosen = [] if virtual_devices else available_gpus.choose(gpus)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    # TensorFlow would take all memory of unused GPUs, so they are hidden from it.
    _configure("gpus", lambda: _show_gpus(chosen))
    if members:
        cluster.wait_for_peers(members, peer_wait_minutes, stop or StopRequest())
        return _multiworker(members)
    if virtual_devices:
        _split_cpu(virtual_devices)
    if not chosen:
        return _mirrored_cpu(virtual_devices or 1)
    return tf.distribute.MirroredStrategy([f"GPU:{n}" for n in range(len(chosen))])


def require_divisible_batch(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Raises `InputError` if the global batch cannot be split evenly over the replicas."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(
            f"--batch_size={batch_size}: cannot be split evenly over {replicas} replicas; "
            f"choose a multiple of {replicas}, or fewer devices"
        )


def resolve_precision(precision: str, strategy: tf.distribute.Strategy) -> str:
    """Chooses the Keras dtype policy of the network.

    "auto" is bfloat16 if every GPU is of compute capability 8.0 (Ampere) or later, float16 if
    every GPU has tensor cores (7.0, Volta), else float32. On CPUs "auto" is bfloat16 if the CPU
    supports it in hardware, else float32, because float16 is hundreds of times slower there.

    Args:
        precision: "auto", or the name of a policy, which is returned unchanged.
        strategy: strategy of `make_strategy`.
    """
    if precision != "auto":
        return precision
    if has_gpus(strategy):
        lowest = available_gpus.lowest_capability(tf.config.get_visible_devices("GPU"))
        return next(policy for since, policy in _GPU_POLICIES.items() if lowest >= since)
    return "mixed_bfloat16" if cpu_flags() & _BFLOAT16_FLAGS else "float32"


def describe(strategy: tf.distribute.Strategy) -> str:
    """Names the devices: "2 x NVIDIA A100-SXM4-80GB", "CPU (2 cores)", or that on N workers each.

    Args:
        strategy: strategy of `make_strategy`.
    """
    if has_gpus(strategy):
        devices = available_gpus.describe(tf.config.get_visible_devices("GPU"))
    else:
        devices = f"CPU ({len(os.sched_getaffinity(0))} cores)"
    workers = strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)
    return devices if workers == 1 else f"{workers} workers with {devices} each"


def emulates(precision: str, strategy: tf.distribute.Strategy) -> bool:
    """Tells whether the CPU has to emulate a precision that it does not support in hardware.

    TensorFlow then rounds after every operation: bfloat16 takes many times as long as float32,
    float16 hundreds of times. The answer is False for GPUs, and for bfloat16 if the features of
    the CPU are unknown.

    Args:
        precision: name of a policy, from `resolve_precision`.
        strategy: strategy of `make_strategy`.
    """
    if has_gpus(strategy) or precision == "float32":
        return False
    flags = cpu_flags()
    return precision == "mixed_float16" or (bool(flags) and not flags & _BFLOAT16_FLAGS)


def has_gpus(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the replicas of the strategy are GPUs."""
    return any("GPU" in device for device in strategy.extended.worker_devices)


def _mirrored_cpu(count: int) -> tf.distribute.Strategy:
    # Virtual devices share their memory, so gradients can be summed on one of them.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{n}" for n in range(count)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def _multiworker(members: cluster.Cluster) -> tf.distribute.Strategy:
    """Makes the strategy of TF_CONFIG: NCCL between GPUs, rings over gRPC between CPUs."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # All processes have equally many batches of one shape. Otherwise they would have to ask each
    # other before every batch whether there is another one.
    strategy.extended.experimental_enable_get_next_as_optional = False
    with contextlib.suppress(ValueError):  # not the main thread, which has the handlers
        # TensorFlow's server has replaced our handler of SIGTERM by its own.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    # From here on TensorFlow lists the devices of all processes.
    cluster.require_equal_gpus(members, [d.name for d in tf.config.list_logical_devices("GPU")])
    return strategy


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    current = tf.config.get_logical_device_configuration(cpu)
    if current is not None and len(current) >= count:
        return
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    _configure("virtual_devices", lambda: tf.config.set_logical_device_configuration(cpu, parts))


def _show_gpus(chosen: list) -> None:
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:
        tf.config.experimental.set_memory_growth(gpu, True)


def _configure(flag: str, apply_setting: Callable[[], None]) -> None:
    """Applies a device setting, which TensorFlow allows before its first operation only."""
    try:
        apply_setting()
    except RuntimeError as error:
        raise InputError(
            f"--{flag}: TensorFlow has started with other devices in this process; start a new "
            "process"
        ) from error


def cpu_flags() -> set[str]:
    """Feature flags of the CPU as Linux names them; empty if they are unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(match.group(1).split()) if match else set()
