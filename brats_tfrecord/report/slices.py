"""Display of an LPS volume: its planes, the slices to show and the grey window."""

from dataclasses import dataclass

import numpy as np

from brats_tfrecord import spec


@dataclass(frozen=True)
class Plane:
    """One of the three orthogonal planes.

    Attributes:
        name: "axial", "coronal" or "sagittal".
        axis: array axis perpendicular to the plane.
        columns, rows: array axes along the columns and rows of the plane's image.
        letters: the patient's sides at the left, right, top and bottom of the image (radiological
            convention: the patient's right is on the left).
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


def plane_image(array: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Returns slice `index` along `axis` of an LPS array as [row, column], ready to display.

    LPS indices increase to the left, to the back and to the top. Columns therefore run from the
    patient's right (or front) to the left (or back), and the rows of the axial plane from front
    to back. Only where the rows are Z are they reversed, so that the top of the head comes first.
    """
    image = np.take(array, index, axis).T
    return image if axis == 2 else image[::-1]


def grey_window(values: np.ndarray) -> tuple[float, float]:
    """Computes the intensities to display as black and as white.

    Args:
        values: intensities of the brain, any shape.

    Returns:
        (low, high), the 1st and 99.5th percentile; (0, 1) without values, and one below and above
        the value if the percentiles are equal.
    """
    if not values.size:
        return 0, 1
    low, high = np.percentile(values, (1, 99.5))
    return (low, high) if low < high else (low - 1, low + 1)


def most_informative_slices(
    truth: np.ndarray | None, prediction: np.ndarray
) -> tuple[int, int, int]:
    """Finds the slice along each axis that shows most of the tumour and of its errors.

    The score of a slice is a sum over classes: the number of voxels labelled with the class in
    either map, those in one map only counted twice, divided by the square root of that number in
    the whole case. A small enhancing rim thus weighs less than a large edema, but more than its
    share of the voxels.

    Args:
        truth: canonical class ids [X, Y, Z], or None to use the prediction alone.
        prediction: canonical class ids [X, Y, Z].

    Returns:
        (x, y, z) indices, the first of equals; the middle slices if there is no tumour.
    """
    truth = prediction if truth is None else truth
    scores = [np.zeros(size) for size in prediction.shape]
    for class_id in range(1, len(spec.CLASS_NAMES)):
        maps = (truth == class_id).astype(np.uint8) + (prediction == class_id)
        if not maps.any():
            continue
        # Voxels in both maps hold 2 and count once; those in one map only hold 1 and count twice.
        weight = np.array([0, 2, 1], np.uint8)[maps]
        total = np.sqrt(np.count_nonzero(maps))
        for axis in range(3):
            in_plane = tuple({0, 1, 2} - {axis})
            scores[axis] += weight.sum(axis=in_plane, dtype=np.int64) / total
    x, y, z = (int(score.argmax()) if score.any() else len(score) // 2 for score in scores)
    return x, y, z
