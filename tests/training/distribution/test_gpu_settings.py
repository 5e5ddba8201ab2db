import os
import subprocess
import sys

import pytest

from brats_tfrecord.training.distribution import gpu_settings

COMPILE = """
import tensorflow as tf
print(float(tf.function(lambda x: 2 * x, jit_compile=True)(21.0)))
"""


def test_settings_follow_the_flags():
    assert gpu_settings.tuned({"A": "b"}) == {"A": "b", "TF_GPU_THREAD_MODE": "gpu_private"}
    assert gpu_settings.tuned({}, xla=True)["XLA_FLAGS"] == "--xla_gpu_force_conv_nhwc=true"
    both = gpu_settings.tuned({}, xla=True, deterministic=True)
    assert both["XLA_FLAGS"].split() == [
        "--xla_gpu_force_conv_nhwc=true",
        "--xla_gpu_deterministic_ops=true",
    ]
    assert both["TF_CUDNN_USE_AUTOTUNE"] == "0"


def test_settings_of_the_user_are_kept():
    own = {"TF_GPU_THREAD_MODE": "global", "TF_CUDNN_USE_AUTOTUNE": "1"}
    assert gpu_settings.tuned(own, deterministic=True) == own
    own = {"XLA_FLAGS": "--xla_gpu_force_conv_nhwc=false --xla_x=1"}
    assert gpu_settings.tuned(own, xla=True)["XLA_FLAGS"] == own["XLA_FLAGS"]
    own = {"XLA_FLAGS": "--xla_gpu_force_conv_nchw"}
    assert gpu_settings.tuned(own, xla=True)["XLA_FLAGS"] == own["XLA_FLAGS"]
    own = {"XLA_FLAGS": "--xla_x=1"}
    assert gpu_settings.tuned(own, xla=True)["XLA_FLAGS"] == (
        "--xla_x=1 --xla_gpu_force_conv_nhwc=true"
    )


@pytest.mark.slow
def test_xla_knows_the_flags():
    """XLA aborts the process if it does not know a flag."""
    environment = gpu_settings.tuned(os.environ, xla=True, deterministic=True)
    child = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert child.stdout == "42.0\n", child.stderr
