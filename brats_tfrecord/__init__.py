"""BraTS-like brain-tumour MRI to TFRecords, a 3D U-Net, reports and a viewer."""

import importlib.util
import os

__version__ = "0.2.0"

# TensorFlow 2.15 enables oneDNN's convolutions by default only on processors with AVX-512 VNNI or
# newer; on others its own convolutions take three times as long. It reads this variable on import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Since TensorFlow 2.16 `tf.keras` is Keras 3 unless tf-keras is asked for; BUILD.md, "Two stacks".
# TensorFlow 2.15 fails if it is asked for and not installed.
if importlib.util.find_spec("tf_keras"):
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
else:
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
