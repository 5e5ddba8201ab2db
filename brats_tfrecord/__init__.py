"""BraTS-like brain-tumour MRI to TFRecords, a 3D U-Net, reports and a viewer."""

__version__ = "0.1.0"
