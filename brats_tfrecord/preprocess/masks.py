"""Label values, canonical classes, one-hot masks and their packing."""

import numpy as np

from brats_tfrecord.errors import CaseError

UNKNOWN = 255


def to_classes(values, scheme, name, way_out="give its --label_scheme"):
    """Maps a file's label values to canonical classes.

    Args:
        values: integer [X, Y, Z], the values of `scheme`.
        scheme: `spec.LabelScheme`.
        name: the case or file, for the error.
        way_out: what to do if the mask follows another scheme, for the error.

    Returns:
        uint8 [X, Y, Z] canonical class ids.

    Raises:
        CaseError: a value that the scheme does not know.
    """
    values = np.asarray(values)
    table = np.full(256, UNKNOWN, np.uint8)
    table[list(scheme.values)] = range(scheme.classes)
    # Nearly all voxels are background, in every scheme: only the others are looked up.
    classes = np.zeros(values.shape, np.uint8)
    index = np.flatnonzero(values)
    found = values.take(index)
    of_found = table.take(found, mode="clip")
    unknown = (of_found == UNKNOWN) | (found < 0) | (found > 255)
    if unknown.any():
        listed = ", ".join(str(value) for value in np.unique(found[unknown])[:8])
        expected = ", ".join(map(str, sorted(scheme.values)))
        raise CaseError(
            f"{name}: the mask holds label {listed}; scheme {scheme.name} knows "
            f"{expected}; if it is a mask of another BraTS release, {way_out}"
        )
    classes.put(index, of_found)
    return classes


def to_file_values(classes, scheme):
    """Maps canonical classes [X, Y, Z] to the scheme's own label values, uint8 [X, Y, Z]."""
    return np.asarray(scheme.values, np.uint8)[classes]


def one_hot(classes, count):
    """Classes [X, Y, Z] to uint8 one-hot [X, Y, Z, count]."""
    return np.eye(count, dtype=np.uint8)[classes]


def pack(one_hot_mask):
    """Packs a one-hot mask [X, Y, Z, K <= 8] to uint8 [X, Y, Z]: bit c is channel c."""
    return np.packbits(one_hot_mask, axis=-1, bitorder="little")[..., 0]


def pack_classes(classes):
    """`pack(one_hot(classes))` in one step: uint8 [X, Y, Z] with the bit of its class set."""
    return np.left_shift(np.uint8(1), classes, dtype=np.uint8)


def unpack(packed, count):
    """Undoes `pack`: uint8 [X, Y, Z] to uint8 one-hot [X, Y, Z, count]."""
    return np.unpackbits(packed[..., None], axis=-1, count=count, bitorder="little")


def unpack_classes(packed):
    """Undoes `pack_classes`: uint8 [X, Y, Z] with one bit set a voxel to uint8 class ids."""
    table = np.zeros(256, np.uint8)
    table[1 << np.arange(8)] = np.arange(8)
    return table[packed]
