"""Planes of an LPS volume: how they lie on paper, and which slice of each tells most."""

from dataclasses import dataclass

import numpy as np

from brats_tfrecord import spec


@dataclass(frozen=True)
class Plane:
    """One of the three orthogonal planes.

    Attributes:
        name: as radiologists call it.
        axis: array axis that it cuts.
        columns, rows: array axes that run along its picture's columns and rows.
        letters: the patient's sides at left, right, top and bottom (radiological convention: the
            patient's right is on the left).
    """

    name: str
    axis: int
    columns: int
    rows: int
    letters: str


PLANES = (
    Plane("axial", 2, 0, 1, "RLAP"),
    Plane("coronal", 1, 0, 2, "RLSI"),
    Plane("sagittal", 0, 1, 2, "APSI"),
)


def plane_image(array, axis, index):
    """Returns slice `index` across `axis` of an LPS array as [row, column], right side up.

    LPS indices grow to the left, to the back and to the top. So plain columns run from the
    patient's right (or front) to the left (or back), and rows of the axial plane from front to
    back; only where rows are Z must they be turned over, or the head would stand on its crown.
    """
    image = np.take(array, index, axis).T
    return image if axis == 2 else image[::-1]


def telling_slices(truth, prediction):
    """The slice of each axis that shows most of the tumour and of what went wrong.

    A slice scores, for each class, the voxels that either map gives to it, those on which they
    differ counted twice, over the root of that class's count in the whole case: so a small
    enhancing rim weighs less than a large edema, yet more than its share of voxels.

    Args:
        truth: canonical class ids [X, Y, Z], or None: the prediction alone decides.
        prediction: canonical class ids [X, Y, Z].

    Returns:
        (x, y, z) indices, the first of equals; the middle slices where there is no tumour.
    """
    truth = prediction if truth is None else truth
    scores = [np.zeros(size) for size in prediction.shape]
    for which in range(1, len(spec.CLASS_NAMES)):
        inside = (truth == which).astype(np.uint8) + (prediction == which)
        if not inside.any():
            continue
        # Agreed voxels hold 2 and count once; those in one map alone hold 1 and count twice.
        weight = np.array([0, 2, 1], np.uint8)[inside]
        total = np.sqrt(np.count_nonzero(inside))
        for axis in range(3):
            others = tuple({0, 1, 2} - {axis})
            scores[axis] += weight.sum(axis=others, dtype=np.int64) / total
    return tuple(int(score.argmax()) if score.any() else len(score) // 2 for score in scores)
