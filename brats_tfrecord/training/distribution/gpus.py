"""The GPUs of this machine: which to use, what they are called, and why TensorFlow shows none."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from brats_tfrecord.errors import InputError

_DRIVER_FILES = ("dev/nvidia[0-9]*", "proc/driver/nvidia/gpus/*")
"""Files of NVIDIA's driver for each GPU, below the root folder."""

_REASON = re.compile(
    r"\] (.*(?:[Cc]uda drivers|Could not load dynamic library|Cannot dlopen|call to cuInit"
    r"|no NVIDIA GPU device|kernel driver does not appear|Ignoring visible gpu device).*)"
)
"""Lines of TensorFlow's log that say why it cannot use a GPU, without time and source file."""

_LIST_GPUS = "import tensorflow as tf; tf.config.list_physical_devices('GPU')"
_REASON_SECONDS = 120
_LONGEST_REASON = 300


def choose(gpus: str) -> list:
    """Returns the physical devices that --gpus names.

    Args:
        gpus: "all", "none", or numbers such as "0,1".

    Raises:
        InputError: a GPU does not exist, or the machine has GPUs that TensorFlow cannot use.
    """
    if gpus == "none":
        return []
    available = tf.config.list_physical_devices("GPU")
    if not available:
        _require_no_driver(gpus)
    if gpus == "all":
        return available
    numbers = [int(part) for part in gpus.split(",")]
    if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(len(available))):
        shown = f"GPUs 0 to {len(available) - 1}" if available else "no GPU"
        raise InputError(
            f"--gpus={gpus}: this machine shows {shown}; expected distinct numbers of those, all "
            "or none"
        )
    return [available[n] for n in numbers]


def lowest_capability(gpus: Iterable) -> tuple[int, int]:
    """Returns the lowest compute capability of some GPUs, such as (8, 0); (0, 0) if unknown."""
    return min(_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus)


def describe(gpus: Sequence) -> str:
    """Names GPUs, for example "2 x NVIDIA A100-SXM4-80GB"."""
    names = Counter(_details(gpu).get("device_name", "GPU") for gpu in gpus)
    return ", ".join(f"{count} x {name}" for name, count in names.items())


def driver_files(root: Path | str = "/") -> list[Path]:
    """Returns the driver's files of the GPUs that this machine has, if any.

    CUDA_VISIBLE_DEVICES may hide all GPUs from this process; it then counts as having none.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    return [] if hidden else sorted(p for name in _DRIVER_FILES for p in Path(root).glob(name))


def reason_in(log: str) -> str:
    """Extracts from TensorFlow's log why it cannot use the GPUs; "" if the log does not say."""
    reasons = dict.fromkeys(match.strip().rstrip(".") for match in _REASON.findall(log))
    return "; ".join(reasons)[:_LONGEST_REASON]


def _require_no_driver(gpus):
    """Refuses to train on the CPU without a word if the machine has GPUs."""
    present = driver_files()
    if present:
        reason = reason_in(_log_of_start()) or "TensorFlow gives no reason"
        raise InputError(
            f"--gpus={gpus}: this machine has a GPU ({present[0]}), but TensorFlow cannot use it: "
            f"{reason}; install the CUDA libraries with pip install 'brats-tfrecord[gpu]', or "
            "give --gpus=none to train on the CPU"
        )


def _log_of_start() -> str:
    """The log of a new TensorFlow process; this one has kept its reasons to itself."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "TF_CPP_VMODULE": "dso_loader=1",  # names the libraries that it does not find
    }
    try:
        child = subprocess.run(
            [sys.executable, "-c", _LIST_GPUS],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_REASON_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return child.stderr


def _details(gpu: tf.config.PhysicalDevice) -> dict:
    return tf.config.experimental.get_device_details(gpu)
