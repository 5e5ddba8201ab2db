"""BraTS-like brain-tumour MRI to TFRecords, a 3D U-Net, reports and a viewer."""

import os

__version__ = "0.1.0"

# TensorFlow 2.15 takes oneDNN's convolutions by itself only where a processor has AVX-512 VNNI or
# better; elsewhere its own take three times as long. It reads this when it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
