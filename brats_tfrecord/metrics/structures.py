"""What is compared: the three regions, and the classes that are no region of their own."""

import numpy as np

from brats_tfrecord import spec


def structures(classes=4):
    """Names of the structures, in the order of tables: regions, then classes.

    Args:
        classes: number of classes, background included. With 5 the resection cavity comes last.

    Returns:
        ("WT", "TC", "ET", "NCR/NET", "ED"[, "RC"]); ET is region and class at once, listed once.

    Raises:
        ValueError: `classes` is neither 4 nor 5.
    """
    if classes not in (4, 5):
        raise ValueError(f"classes is {classes}; expected 4, or 5 with the resection cavity")
    names = [name for name in spec.CLASS_NAMES[1:classes] if name not in spec.REGIONS]
    return (*spec.REGIONS, *names)


def members(structure):
    """Class ids that make up the structure of that name."""
    return spec.REGIONS.get(structure) or (spec.CLASS_NAMES.index(structure),)


def code_table(names):
    """Code of every class, uint8 [classes]: bit b is set where it belongs to structure b."""
    table = np.zeros(len(spec.CLASS_NAMES), np.uint8)
    for bit, name in enumerate(names):
        table[list(members(name))] |= np.uint8(1 << bit)
    return table
