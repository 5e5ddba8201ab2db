"""Digests of voxels: what they do not depend on, and what they tell apart."""

import gzip

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.cohort import nifti, voxel_digest
from brats_tfrecord.cohort.voxel_digest import digest_of, digests_of

LPS = np.array([[-1.0, 0, 0, 30], [0, -1.0, 0, 40], [0, 0, 1.0, -50], [0, 0, 0, 1]])
SHAPE = (13, 9, 11)


def scan(seed=0):
    """Makes int16 [13, 9, 11]: 7 x 5 x 6 voxels, three of them 0, and zeros around."""
    volume = np.zeros(SHAPE, np.int16)
    volume[2:9, 3:8, 4:10] = np.random.default_rng(seed).integers(1, 1000, (7, 5, 6))
    volume[6, 5, 5:8] = 0
    return volume


def file_digest(path, image):
    nibabel.save(image, path)
    return digest_of(nifti.read_volume(path)[0])


def turned(array, affine):
    """The image [Z, X, Y] of an LPS array [X, Y, Z], with X and Z counted backwards."""
    matrix = np.array([[0, -1, 0, SHAPE[0] - 1], [0, 0, 1, 0], [-1, 0, 0, SHAPE[2] - 1]])
    data = np.moveaxis(array[::-1, :, ::-1], -1, 0)
    return nibabel.Nifti1Image(data, affine @ np.vstack([matrix, (0, 0, 0, 1)]))


SAME = {
    "compressed": lambda array: nibabel.Nifti1Image(array, LPS),
    "float32": lambda array: nibabel.Nifti1Image(array.astype(np.float32), LPS),
    "float64": lambda array: nibabel.Nifti1Image(array.astype(np.float64), LPS),
    "uint16": lambda array: nibabel.Nifti1Image(array.astype(np.uint16), LPS),
    "big-endian": lambda array: nibabel.Nifti1Image(
        array, LPS, nibabel.Nifti1Header(endianness=">")
    ),
    "NIfTI-2": lambda array: nibabel.Nifti2Image(array, LPS),
    "trailing axis": lambda array: nibabel.Nifti1Image(array[..., None], LPS),
    "negative zeros": lambda array: nibabel.Nifti1Image(
        np.where(array == 0, np.float32(-0.0), array).astype(np.float32), LPS
    ),
    "axes turned": lambda array: turned(array, LPS),
    "moved in the scanner": lambda array: nibabel.Nifti1Image(
        array, np.array([[1, 0, 0, 7], [0, 1, 0, 7], [0, 0, 1, 7], [0, 0, 0, 1]]) @ LPS
    ),
    "wider margin": lambda array: nibabel.Nifti1Image(np.pad(array, 3), LPS),
    "no margin": lambda array: nibabel.Nifti1Image(array[2:9, 3:8, 4:10], LPS),
}
"""Name of a change that keeps the scan the same -> function that makes the image."""


@pytest.mark.parametrize("change", SAME)
def test_the_same_scan_in_another_file_has_the_same_digest(change, tmp_path):
    original = file_digest(tmp_path / "original.nii", nibabel.Nifti1Image(scan(), LPS))
    assert original == file_digest(tmp_path / "other.nii.gz", SAME[change](scan()))


def test_compressing_a_file_anew_changes_its_bytes_but_not_its_digest(tmp_path):
    nibabel.save(nibabel.Nifti1Image(scan(), LPS), tmp_path / "a.nii.gz")
    content = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content, 1, mtime=1))
    assert (tmp_path / "a.nii.gz").read_bytes() != (tmp_path / "b.nii.gz").read_bytes()
    first, second = (nifti.read_volume(tmp_path / f"{name}.nii.gz")[0] for name in "ab")
    assert digest_of(first) == digest_of(second)


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[::-1],  # left and right swapped: an affine lost
        lambda array: np.moveaxis(array, -1, 0),
        lambda array: 2 * array,
        lambda array: scan(seed=1),
        lambda array: np.roll(array, 1, axis=1) + array,
    ],
)
def test_another_scan_has_another_digest(change):
    assert digest_of(np.float32(scan())) != digest_of(np.float32(change(scan())))


@given(st.integers(0, 6), st.integers(0, 4), st.integers(0, 5))
def test_the_digest_covers_every_voxel_of_the_planes_it_samples(x, y, z):
    """The brain begins at plane 2, so that planes 2 and 6 are digested, 3 and 4 are not."""
    volume = np.float32(scan())
    changed = volume.copy()
    changed[2 + x, 3 + y, 4 + z] += 1000
    assert (digest_of(changed) != digest_of(volume)) == (x in (0, 4))


@pytest.mark.parametrize("value", [0, 7, -1])
def test_a_constant_volume_is_no_evidence(value):
    assert digest_of(np.full(SHAPE, value, np.float32)) is None


def test_a_modality_filled_with_a_brain_mask_is_no_evidence():
    assert digest_of(np.float32(scan() > 0)) is None
    assert digest_of(np.zeros((4, 4, 4), np.float32)) is None


def test_two_values_anywhere_are_evidence():
    """The middle plane is looked at first; here only the first one varies."""
    volume = np.ones(SHAPE, np.float32)
    volume[0, 1, 2] = 5
    assert digest_of(volume) is not None


def test_modalities_without_content_are_left_out():
    volumes = np.stack([scan(0), 0 * scan(), scan(1)], -1).astype(np.float32)
    assert digests_of(("t1", "t2", "flair"), volumes) == {
        "t1": digest_of(volumes[..., 0]),
        "flair": digest_of(volumes[..., 2]),
    }


def test_the_digest_stays_what_it_is():
    """Datasets and models store digests: another definition needs another schema of both."""
    volume = np.zeros((5, 3, 4), np.float32)
    volume[1:3, 1, 1:3] = [[1, 2], [3, 4]]
    # Only plane 1 is digested: shape (1, 1, 2), then 1.0 and 2.0 as little-endian floats.
    content = b"(1, 1, 2)" + bytes.fromhex("0000803f00000040")
    assert digest_of(volume) == voxel_digest.hashlib.sha256(content).hexdigest()
