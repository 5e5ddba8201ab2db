"""Where patients come from: layouts on disk, NIfTI files, phantoms."""
