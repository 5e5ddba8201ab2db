"""Conversion of masks between label values, canonical classes, one-hot and packed masks."""

from __future__ import annotations

import numpy as np

from brats_tfrecord.errors import CaseError
from brats_tfrecord.spec import LabelScheme

_UNKNOWN = 255


def to_classes(
    values: np.ndarray, scheme: LabelScheme, name: str, way_out: str = "give its --label_scheme"
) -> np.ndarray:
    """Converts label values of a file to canonical classes.

    Args:
        values: integer [X, Y, Z] label values of `scheme`.
        scheme: label scheme of the file.
        name: name of the case or file, for the error message.
        way_out: advice if the mask has another label scheme, for the error message.

    Returns:
        uint8 [X, Y, Z] canonical class ids.

    Raises:
        CaseError: a value does not belong to the scheme.
    """
    values = np.asarray(values)
    table = np.full(256, _UNKNOWN, np.uint8)
    table[list(scheme.values)] = range(scheme.classes)
    # Most voxels are background, which is 0 in every scheme: only the others are looked up.
    classes = np.zeros(values.shape, np.uint8)
    index = np.flatnonzero(values)
    labels = values.take(index)
    label_classes = table.take(labels, mode="clip")
    unknown = (label_classes == _UNKNOWN) | (labels < 0) | (labels > 255)
    if unknown.any():
        listed = ", ".join(str(value) for value in np.unique(labels[unknown])[:8])
        expected = ", ".join(map(str, sorted(scheme.values)))
        raise CaseError(
            f"{name}: the mask holds label {listed}; scheme {scheme.name} knows "
            f"{expected}; if it is a mask of another BraTS release, {way_out}"
        )
    classes.put(index, label_classes)
    return classes


def to_file_values(classes: np.ndarray, scheme: LabelScheme) -> np.ndarray:
    """Converts canonical classes [X, Y, Z] to the label values of a scheme, uint8 [X, Y, Z]."""
    return np.asarray(scheme.values, np.uint8)[classes]


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Converts classes [X, Y, Z] to a one-hot mask, uint8 [X, Y, Z, count]."""
    return np.eye(count, dtype=np.uint8)[classes]


def pack_classes(classes: np.ndarray) -> np.ndarray:
    """Packs the one-hot mask of classes [X, Y, Z] into bytes: bit c is set for class c.

    Args:
        classes: uint8 [X, Y, Z], class ids below 8.

    Returns:
        uint8 [X, Y, Z], one bit set per voxel.
    """
    return np.left_shift(np.uint8(1), classes, dtype=np.uint8)


def unpack_classes(packed: np.ndarray) -> np.ndarray:
    """Inverts `pack_classes`: uint8 [X, Y, Z] to class ids, uint8 [X, Y, Z]."""
    table = np.zeros(256, np.uint8)
    table[1 << np.arange(8)] = np.arange(8)
    return table[packed]
