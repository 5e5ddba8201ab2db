"""Digests of voxels, by which a scan is recognised whatever its file is called or looks like."""

import hashlib
from collections.abc import Sequence

import numpy as np

from brats_tfrecord.boxes import bounding_box

_STEP = 4
"""Every fourth plane is digested: different scans do not agree in all of these, and the conversion
stays fast (3.5 ms a volume of BraTS's size; all planes would take three times as long)."""


def digests_of(modalities: Sequence[str], volumes: np.ndarray) -> dict[str, str]:
    """Computes modality -> digest of its voxels, without the modalities that have none.

    Args:
        modalities: names of the channels.
        volumes: float32 [X, Y, Z, C] in LPS order, as `nifti.read_case` returns them.
    """
    digests = {name: digest_of(volumes[..., c]) for c, name in enumerate(modalities)}
    return {name: digest for name, digest in digests.items() if digest is not None}


def digest_of(volume: np.ndarray) -> str | None:
    """Computes the digest of a scan's voxels.

    It does not depend on the file's name, compression, dtype, byte order or axis order, on where
    the affine puts the volume, or on the width of a margin of zeros. Different scans never share
    one. A scan that was resampled, rescaled, corrected or flipped has another one than its
    original.

    Args:
        volume: float32 [X, Y, Z] in LPS order, finite.

    Returns:
        Hex SHA-256 of every fourth sagittal plane, from the first that is not zero to the last,
        and of their shape, without rows and columns of zeros. None if these planes hold fewer than
        two different values besides zero: a missing modality that was filled with a constant is no
        evidence of a scan.
    """
    first = next((index for index, plane in enumerate(volume) if plane.any()), None)
    if first is None:
        return None
    planes = volume[first::_STEP]
    # Adding zero copies the box and turns -0.0, which integers do not have, into 0.0.
    box = np.add(planes[bounding_box(planes != 0)], 0, dtype="<f4", order="C")
    if not _has_content(box):
        return None
    digest = hashlib.sha256(repr(box.shape).encode())
    digest.update(box.data)
    return digest.hexdigest()


def _has_content(values):
    """Whether there are two different values besides 0; the middle plane nearly always has them."""
    for part in (values[len(values) // 2], values):
        nonzero = part[part != 0]
        if nonzero.size and nonzero.min() != nonzero.max():
            return True
    return False
