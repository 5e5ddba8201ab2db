"""Reading the bytes of a file, from the disk or from memory, compressed or not."""

import gzip

import nibabel
import numpy as np
import pytest

from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.content import MemoryFile
from brats_tfrecord.errors import CaseError

VOXELS = np.arange(1, 121, dtype=np.int16).reshape(4, 5, 6)
FILE = nibabel.Nifti1Image(VOXELS, np.diag([-1.0, -1, 1, 1])).to_bytes()
GZIP = gzip.compress(FILE)
EMPTY = gzip.compress(b"", mtime=0)


@pytest.mark.parametrize(
    "data", [FILE, GZIP, bytearray(FILE), memoryview(GZIP), np.frombuffer(FILE, np.int16)]
)
def test_a_file_in_memory_reads_like_a_file_on_the_disk(tmp_path, data):
    path = tmp_path / "A_t1.nii"
    path.write_bytes(data)
    for file in (path, MemoryFile("A_t1.nii", data)):
        volume, geometry = nifti.read_volume(file)
        assert np.array_equal(volume, VOXELS) and geometry.orientation == ("L", "P", "S")


def test_an_empty_file_in_memory_is_refused_with_its_name():
    with pytest.raises(CaseError, match="^A_t1.nii: the file is empty"):
        nifti.read_volume(MemoryFile("A_t1.nii", b""))


def members(size):
    """Compresses the file as gzip members of `size` bytes each."""
    starts = range(0, len(FILE), size)
    return b"".join(gzip.compress(FILE[start : start + size]) for start in starts)


@pytest.mark.parametrize("data", [members(1), members(100), GZIP + 1000 * EMPTY])
def test_many_gzip_members_are_one_file(data):
    assert np.array_equal(nifti.read_volume(MemoryFile("A", data))[0], VOXELS)


def test_thousands_of_empty_gzip_members_are_refused():
    data = GZIP + 2000 * EMPTY
    with pytest.raises(CaseError, match="^A: .*thousands of nearly empty gzip members"):
        nifti.read_volume(MemoryFile("A", data))


@pytest.mark.parametrize(
    "data, file_format",
    [
        (bytes(128) + b"DICM" + bytes(500), "a DICOM slice"),
        (b"\x89PNG\r\n" + bytes(500), "a PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(500), "a JPEG"),
        (b"PK\3\4" + bytes(500), "a zip archive"),
        (EMPTY, "nothing is packed in it"),
        (b"id,age\r\n1,50\r\n", "text"),
        (nibabel.AnalyzeHeader().binaryblock, "an Analyze 7.5 header without its .img"),
        (nibabel.AnalyzeHeader(endianness=">").binaryblock, "an Analyze 7.5 header"),
        (b"\0\0\0\1\0\0\0\6" + bytes(500), "FreeSurfer's MGH"),
        (bytes(500), "it has no NIfTI header"),
    ],
)
def test_the_error_names_the_format_of_other_files(data, file_format):
    with pytest.raises(CaseError, match=rf"^A: .*\({file_format}"):
        nifti.read_volume(MemoryFile("A", data))
