"""Uploads: told apart by suffix, never trusted as paths, gone afterwards."""

import gzip
import tempfile

import intake
import nibabel
import numpy as np
import pytest

from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import CaseError, InputError

SHAPE = (6, 7, 8)
NEEDED = ("flair", "t1ce", "t2")


def volume(value, dtype=np.int16):
    """Bytes of an uncompressed NIfTI in RAS order, `value` everywhere but one voxel."""
    array = np.full(SHAPE, value, dtype)
    array[0, 0, 0] = 3
    return nibabel.Nifti1Image(array, np.eye(4)).to_bytes()


def mask():
    array = np.zeros(SHAPE, np.uint8)
    array[0, 0, :4] = 1, 2, 4, 4
    return nibabel.Nifti1Image(array, np.eye(4)).to_bytes()


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Uploads pass through here, and nothing may stay."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def test_files_are_told_apart_by_suffix_not_by_order():
    names = ["Case_7_seg.nii", "notes.txt", "Case_7_T1CE.nii.gz", "Case_7_flair.nii",
             "Case_7_t1.nii.gz"]
    recognised = intake.recognise(names)
    assert recognised.case_id == "Case_7"
    assert recognised.kinds == {"t1": 4, "t1ce": 2, "flair": 3, "seg": 0}
    assert recognised.ignored == ("notes.txt",)


def test_upload_becomes_a_case_in_lps_order():
    uploads = [("A_t2.nii", volume(20)), ("A_seg.nii", mask()), ("A_flair.nii", volume(40)),
               ("A_t1ce.nii", volume(30))]
    case = intake.load_uploads(uploads, NEEDED)
    assert case.raw.case_id == "A"
    assert case.raw.modalities == ("t1ce", "t2", "flair")
    assert case.raw.volumes[3, 3, 3].tolist() == [30, 20, 40]
    # Voxel (0, 0, k) of a RAS file is the last one along x and y in LPS order.
    assert case.raw.volumes[5, 6, 0].tolist() == [3, 3, 3]
    assert case.truth[5, 6].tolist() == [1, 2, 3, 3, 0, 0, 0, 0]


def test_digest_is_of_the_content_alone():
    first = [(f"A_{name}.nii", volume(9)) for name in NEEDED]
    renamed = [(f"B_{name}.nii", data) for (_, data), name in zip(first, NEEDED)]
    other = [*first[:2], ("A_t2.nii", volume(10))]
    digests = [intake.load_uploads(files, NEEDED).digest for files in (first, renamed, other)]
    assert digests[0] == digests[1] != digests[2]


def test_compression_is_seen_in_the_content():
    uploads = [("A_t1ce.nii.gz", volume(1)), ("A_t2.nii", gzip.compress(volume(2))),
               ("A_flair.nii", volume(3))]
    assert intake.load_uploads(uploads, NEEDED).raw.volumes[3, 3, 3].tolist() == [1, 2, 3]


def test_names_never_become_paths(temporary_folder):
    prefix = "../../escape/\n'; rm"
    uploads = [(f"{prefix}_{name}.nii", volume(9)) for name in NEEDED]
    assert intake.load_uploads(uploads, NEEDED).raw.case_id == prefix
    assert sorted(path.name for path in temporary_folder.parent.iterdir()) == ["scratch"]


def test_missing_modality_is_named():
    with pytest.raises(InputError, match=r"no t1ce and no t2 image .*recognised: flair"):
        intake.load_uploads([("A_flair.nii", volume(1))], NEEDED)


@pytest.mark.parametrize("names, message", [
    (["A_t1.nii", "B_t2.nii"], "A_t1.nii and B_t2.nii are files of two cases"),
    (["A_t1.nii", "A_t1.nii.gz"], "two t1 files, A_t1.nii and A_t1.nii.gz"),
])
def test_mixed_uploads_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        intake.recognise(names)


@pytest.mark.parametrize("data, message", [
    (b"", r"my_t2\.nii: the file is empty"),
    (gzip.compress(volume(1))[:-20], r"my_t2\.nii: "),
    (b"no image at all", r"my_t2\.nii: not a readable NIfTI"),
])
def test_errors_carry_the_users_name_and_no_path(temporary_folder, data, message):
    uploads = [("my_flair.nii", volume(1)), ("my_t1ce.nii", volume(1)), ("my_t2.nii", data)]
    with pytest.raises(InputError, match=message) as caught:
        intake.load_uploads(uploads, NEEDED)
    assert str(temporary_folder) not in str(caught.value)
    assert "upload_" not in str(caught.value)


def test_unknown_label_names_the_case():
    damaged = np.full(SHAPE, 9, np.uint8)
    uploads = [(f"my_{name}.nii", volume(1)) for name in NEEDED]
    uploads.append(("my_seg.nii", nibabel.Nifti1Image(damaged, np.eye(4)).to_bytes()))
    with pytest.raises(InputError, match="^my: the mask holds label 9"):
        intake.load_uploads(uploads, NEEDED)


def test_cohort_case_is_read_with_what_it_has(tmp_path):
    folder = tmp_path / "cohort" / "B1"
    folder.mkdir(parents=True)
    for name in ("t1", "flair"):
        (folder / f"B1_{name}.nii").write_bytes(volume(5))
    [case] = layouts.find_cases(folder)
    loaded = intake.load_case(case)
    assert loaded.raw.modalities == ("t1", "flair")
    assert loaded.truth is None
    assert loaded.seconds > 0


def test_thick_slices_are_for_models_that_resample():
    thick = nibabel.Nifti1Image(np.full(SHAPE, 5, np.int16), np.diag([1.0, 1, 3, 1])).to_bytes()
    uploads = [(f"my_{name}.nii", thick) for name in NEEDED]
    with pytest.raises(CaseError, match=r"my_t1ce\.nii: voxels measure 1 x 1 x 3 mm"):
        intake.load_uploads(uploads, NEEDED[:1])
    loaded = intake.load_uploads(uploads, NEEDED, any_spacing=True)
    assert loaded.raw.geometry.spacing_mm == (1, 1, 3) and loaded.raw.volumes.shape[:3] == SHAPE
