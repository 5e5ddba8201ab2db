"""BraTS-like brain-tumour MRI to TFRecords, a 3D U-Net, reports and a viewer."""

import os

__version__ = "0.2.0"

# TensorFlow 2.15 enables oneDNN's convolutions by default only on processors with AVX-512 VNNI or
# newer; on others its own convolutions take three times as long. It reads this variable on import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# From TensorFlow 2.16 on, `tf.keras` is Keras 3 unless this is set; see BUILD.md, "Two stacks".
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
