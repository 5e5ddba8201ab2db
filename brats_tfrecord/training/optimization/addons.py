"""The door to TensorFlow Addons, which exist for Python 3.10 and 3.11 only.

The only module that imports them, and only on demand: they take a second and print a notice.
"""

import importlib.util
import sys
import warnings
from typing import Any

from brats_tfrecord.errors import InputError

OPTIMIZERS = ("ranger", "novograd")
"""Names of the optimizers that come from Addons."""


def are_installed() -> bool:
    """Tells whether Addons can be imported."""
    return importlib.util.find_spec("tensorflow_addons") is not None


def require_for(optimizer: str) -> None:
    """Raises `InputError` if the optimizer of that name needs Addons and they are missing."""
    if optimizer in OPTIMIZERS and not are_installed():
        raise InputError(
            f"--optimizer={optimizer}: comes from TensorFlow Addons, which exist for Python 3.10 "
            f"and 3.11 only (this is {sys.version_info.major}.{sys.version_info.minor}); give "
            "--optimizer=adam, adamw, sgd or lamb, or install on Python 3.11"
        )


def load_optimizers() -> Any:
    """Imports Addons; returns the module of their optimizers."""
    with warnings.catch_warnings():
        # Its end-of-life notice asks for nothing that a user could do.
        warnings.simplefilter("ignore")
        import tensorflow_addons
    return tensorflow_addons.optimizers
