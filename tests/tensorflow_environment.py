"""Sets what TensorFlow reads from the environment on import; imported before everything else."""

import os

import brats_tfrecord  # noqa: F401 - sets its part of the environment

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
