import pytest

from brats_tfrecord.cohort.layouts import find_cases
from brats_tfrecord.errors import CaseError, InputError


def make_case(folder, case_id, kinds="t1 t1ce t2 flair seg", suffix=".nii.gz"):
    folder = folder / case_id
    folder.mkdir(parents=True)
    for kind in kinds.split():
        (folder / f"{case_id}_{kind}{suffix}").touch()
    return folder


def test_training_and_validation_folders_compressed_or_not(tmp_path):
    make_case(tmp_path / "train", "BraTS20_Training_002")
    make_case(tmp_path / "train", "BraTS20_Training_001", suffix=".nii")
    make_case(tmp_path / "valid", "BraTS20_Validation_001", "t1 t1ce t2 flair")
    first, second, unlabelled = find_cases(tmp_path)
    assert [first.case_id, second.case_id] == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert first.mask.name == "BraTS20_Training_001_seg.nii"
    assert list(first.images) == ["t1", "t1ce", "t2", "flair"]
    assert unlabelled.mask is None
    assert first.grade is None and first.label_scheme == "brats2020"


def test_t1_is_not_t1ce(tmp_path):
    folder = make_case(tmp_path, "A_001")
    [case] = find_cases(tmp_path)
    assert case.image("t1") == folder / "A_001_t1.nii.gz"
    assert case.image("t1ce") == folder / "A_001_t1ce.nii.gz"


def test_grades_by_folder(tmp_path):
    make_case(tmp_path / "HGG", "Brats18_A_1")
    make_case(tmp_path / "LGG", "Brats18_B_1")
    assert [case.grade for case in find_cases(tmp_path)] == ["HGG", "LGG"]


def test_one_cases_own_folder_is_a_cohort(tmp_path):
    assert len(find_cases(make_case(tmp_path, "A_001"))) == 1


def test_missing_modality_is_told_when_it_is_wanted(tmp_path):
    make_case(tmp_path, "A_001", "t1 t2 flair seg")
    [case] = find_cases(tmp_path)
    with pytest.raises(CaseError, match="A_001: no t1ce image; found t1, t2, flair"):
        case.image("t1ce")


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_folder_and_no_case(tmp_path, name):
    with pytest.raises(InputError, match="no such folder|no case found"):
        find_cases(tmp_path / name)


def test_one_id_in_two_folders(tmp_path):
    make_case(tmp_path / "a", "A_001")
    make_case(tmp_path / "b", "A_001")
    with pytest.raises(InputError, match="A_001 lies in two folders"):
        find_cases(tmp_path)


def test_a_link_back_to_the_cohort_is_no_second_case(tmp_path):
    (make_case(tmp_path, "A_001") / "again").symlink_to(tmp_path)
    assert len(find_cases(tmp_path)) == 1


def test_one_modality_in_two_files(tmp_path):
    folder = make_case(tmp_path, "A_001")
    (folder / "A_001_t1.nii").touch()
    with pytest.raises(InputError, match="two t1 files for A_001"):
        find_cases(tmp_path)
