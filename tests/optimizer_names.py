"""All optimizers as test parameters; those of TensorFlow Addons skip where there are none."""

import pytest

from brats_tfrecord.training.optimization import addons

NAMES = ("adam", "adamw", "sgd", "lamb", "ranger", "novograd")

needs_addons = pytest.mark.skipif(
    not addons.are_installed(), reason="TensorFlow Addons have no release for this Python"
)


def parameters(*values, marks=()):
    """A `pytest.param` of these values, the first of which is the name of an optimizer."""
    skips = [needs_addons] if values[0] in addons.OPTIMIZERS else []
    return pytest.param(*values, marks=[*marks, *skips])


ALL = [parameters(name) for name in NAMES]
