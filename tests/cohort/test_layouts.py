"""Finding cases by names; the files of most tests are empty."""

import os
import pickle
import tracemalloc

import pytest

from brats_tfrecord.cohort.layouts import find_cases, find_cohort
from brats_tfrecord.errors import CaseError, InputError

STRAY = "W39_1998.09.19_Segm.nii"


def make_case(folder, case_id, kinds="t1 t1ce t2 flair seg", suffix=".nii.gz", joint="_"):
    folder = folder / case_id
    folder.mkdir(parents=True)
    for kind in kinds.split():
        (folder / f"{case_id}{joint}{kind}{suffix}").touch()
    return folder


def make_2023(folder, case_id, kinds="t1n t1c t2w t2f seg"):
    return make_case(folder, case_id, kinds, joint="-")


def test_finds_labelled_and_unlabelled_cases_compressed_or_not(tmp_path):
    make_case(tmp_path / "train", "BraTS20_Training_002")
    make_case(tmp_path / "train", "BraTS20_Training_001", suffix=".nii")
    make_case(tmp_path / "valid", "BraTS20_Validation_001", "t1 t1ce t2 flair")
    first, second, unlabelled = find_cases(tmp_path)
    assert [first.case_id, second.case_id] == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert first.mask.name == "BraTS20_Training_001_seg.nii"
    assert list(first.images) == ["t1", "t1ce", "t2", "flair"]
    assert unlabelled.mask is None
    assert first.grade is None and first.label_scheme == "brats2020"
    assert first.layout == "brats2018-2021" and not first.channels and not first.notes


def test_t1_and_t1ce_are_told_apart(tmp_path):
    folder = make_case(tmp_path, "A_001")
    [case] = find_cases(tmp_path)
    assert case.image("t1") == folder / "A_001_t1.nii.gz"
    assert case.image("t1ce") == folder / "A_001_t1ce.nii.gz"


def test_finds_cases_with_the_names_since_2023(tmp_path):
    for timepoint in ("000", "001"):
        folder = make_2023(tmp_path / "train", f"BraTS-GLI-00008-{timepoint}")
    cohort = find_cohort(tmp_path)
    first, second = cohort.cases
    assert (cohort.layout, cohort.label_scheme) == ("brats2023-2024", "brats2023")
    assert "timepoints below 100" in cohort.reason
    assert first.patient_id == second.patient_id == "BraTS-GLI-00008"
    assert dict(second.images) == {
        "t1": folder / "BraTS-GLI-00008-001-t1n.nii.gz",
        "t1ce": folder / "BraTS-GLI-00008-001-t1c.nii.gz",
        "t2": folder / "BraTS-GLI-00008-001-t2w.nii.gz",
        "flair": folder / "BraTS-GLI-00008-001-t2f.nii.gz",
    }
    assert second.mask == folder / "BraTS-GLI-00008-001-seg.nii.gz"


def test_finds_cases_that_share_one_folder(tmp_path):
    for case_id in ("A_001", "A_002"):
        for kind in ("t1", "t1ce", "t2", "flair", "seg"):
            (tmp_path / f"{case_id}_{kind}.nii.gz").touch()
    assert [case.case_id for case in find_cases(tmp_path)] == ["A_001", "A_002"]


def test_cases_can_be_pickled(tmp_path):
    make_case(tmp_path, "A_001")
    [case] = find_cases(tmp_path)
    restored = pickle.loads(pickle.dumps(case))
    assert restored == case and dict(restored.images) == dict(case.images)


def test_grades_come_from_folder_names(tmp_path):
    make_case(tmp_path / "HGG", "Brats18_A_1")
    make_case(tmp_path / "LGG", "Brats18_B_1")
    assert [case.grade for case in find_cases(tmp_path)] == ["HGG", "LGG"]


def test_grades_come_from_the_table_for_cases_without_a_grade_folder(tmp_path):
    make_case(tmp_path, "BraTS20_Training_001")
    make_case(tmp_path, "BraTS20_Training_002")
    make_case(tmp_path / "HGG", "Brats18_C_1")
    (tmp_path / "name_mapping.csv").write_text(
        "Grade,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2020_subject_ID\n"
        "LGG,Brats18_A_1,NA,BraTS20_Training_001\n"
        "LGG,Brats18_C_1,NA,BraTS20_Training_003\n"
    )
    (tmp_path / "name_mapping_validation_data.csv").write_text(
        "BraTS_2019_subject_ID,BraTS_2020_subject_ID\nB,BraTS20_Training_002\n"
    )
    grades = {case.case_id: case.grade for case in find_cases(tmp_path)}
    assert grades == {
        "BraTS20_Training_001": "LGG",
        "BraTS20_Training_002": None,
        "Brats18_C_1": "HGG",
    }


def test_the_folder_of_one_case_is_a_cohort(tmp_path):
    assert len(find_cases(make_case(tmp_path, "A_001"))) == 1


@pytest.mark.parametrize(
    "make, case_id, kinds, expected_name",
    [
        (make_case, "A_001", "t1 t2 flair seg", "A_001_t1ce.nii"),
        (make_2023, "BraTS-GLI-00008-000", "t1n t2w t2f seg", "BraTS-GLI-00008-000-t1c.nii"),
    ],
)
def test_the_error_of_a_missing_modality_names_the_expected_file(
    tmp_path, make, case_id, kinds, expected_name
):
    make(tmp_path, case_id, kinds)
    [case] = find_cases(tmp_path)
    with pytest.raises(
        CaseError,
        match=f"{case_id}: no t1ce image in {tmp_path}.*; found t1, t2, flair.*{expected_name}",
    ):
        case.image("t1ce")


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_that_is_missing_or_has_no_case_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="no such folder|no case found"):
        find_cases(tmp_path / name)


def test_one_id_in_two_folders_is_refused(tmp_path):
    make_case(tmp_path / "a", "A_001")
    make_case(tmp_path / "b", "A_001")
    with pytest.raises(InputError, match="A_001 lies in two folders"):
        find_cases(tmp_path)


def test_a_link_back_to_the_cohort_is_not_followed_twice(tmp_path):
    (make_case(tmp_path, "A_001") / "again").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert len(find_cases(tmp_path)) == 1


def test_two_files_of_one_modality_are_refused(tmp_path):
    folder = make_case(tmp_path, "A_001")
    (folder / "A_001_t1.nii").touch()
    with pytest.raises(InputError, match="two t1 files for A_001"):
        find_cases(tmp_path)


def test_mixed_layouts_are_refused_and_either_can_be_chosen(tmp_path):
    make_case(tmp_path, "A_001")
    make_2023(tmp_path, "BraTS-GLI-00008-000")
    with pytest.raises(
        InputError,
        match=r"mixes layouts, brats2018-2021 \(such as A_001\) and "
        r"brats2023-2024 \(such as BraTS-GLI-00008-000\).*--layout=",
    ):
        find_cases(tmp_path)
    for layout, case_id in (("brats2018-2021", "A_001"), ("brats2023-2024", "BraTS-GLI-00008-000")):
        assert [case.case_id for case in find_cases(tmp_path, layout)] == [case_id]


def test_mixed_label_schemes_are_refused_and_either_can_be_chosen(tmp_path):
    make_2023(tmp_path, "BraTS-GLI-00008-000")
    make_2023(tmp_path, "BraTS-GLI-00008-100")
    with pytest.raises(
        InputError,
        match="mixes label schemes, brats2023.*brats2024.*"
        r"--label_scheme=brats2023\|brats2024",
    ):
        find_cases(tmp_path)
    cohort = find_cohort(tmp_path, label_scheme="brats2024")
    assert {case.label_scheme for case in cohort.cases} == {"brats2024"} == {cohort.label_scheme}
    assert cohort.reason == "--label_scheme=brats2024, whatever the names say"


MET, PED = "BraTS-MET-00001-000", "BraTS-PED-00002-000"  # names that decide no label scheme


def test_cases_without_a_mask_need_no_label_scheme(tmp_path):
    for case_id in (MET, PED):
        make_2023(tmp_path / "unlabelled", case_id, "t1n t1c t2w t2f")
    cohort = find_cohort(tmp_path)
    assert [case.case_id for case in cohort.cases] == [MET, PED]
    assert cohort.reason == "of no importance: no case has a mask"
    make_2023(tmp_path / "labelled", "BraTS-MET-00003-000")
    with pytest.raises(InputError, match="BraTS-MET-00003-000: neither its id nor a folder"):
        find_cohort(tmp_path)


def test_cases_without_a_mask_take_the_label_scheme_of_the_others(tmp_path):
    make_2023(tmp_path, "BraTS-GLI-00008-000", "t1n t1c t2w t2f")  # a name of brats2023
    make_2023(tmp_path, "BraTS-GLI-00009-100")
    make_2023(tmp_path, MET, "t1n t1c t2w t2f")
    cohort = find_cohort(tmp_path)
    assert {case.label_scheme for case in cohort.cases} == {"brats2024"} == {cohort.label_scheme}
    assert "GLI timepoints from 100 up" in cohort.reason


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"layout": "nifti"}, "--layout=nifti: expected one of auto, brats2018-2021"),
        ({"label_scheme": "2020"}, "--label_scheme=2020: expected one of auto, brats2020"),
    ],
)
def test_unknown_flag_values_are_refused(tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        find_cohort(tmp_path, **flags)


def test_the_misnamed_mask_of_case_355_is_taken(tmp_path):
    folder = make_case(tmp_path, "BraTS20_Training_355", "t1 t1ce t2 flair", ".nii")
    (folder / STRAY).touch()
    cohort = find_cohort(tmp_path)
    assert cohort.cases[0].mask == folder / STRAY and not cohort.notes
    assert "original name" in cohort.cases[0].notes[0]


@pytest.mark.parametrize(
    "kinds, more",
    [
        ("t1 t1ce t2 flair seg", [STRAY]),  # the case has another mask
        ("t1 t1ce t2 flair", [STRAY, "W40_1998.09.19_Segm.nii"]),  # two candidates
        ("t1 t1ce t2 flair", ["A_002_t1.nii", STRAY]),  # two cases
    ],
)
def test_an_ambiguous_misnamed_mask_is_left_out(tmp_path, kinds, more):
    folder = make_case(tmp_path, "A_001", kinds)
    for name in more:
        (folder / name).touch()
    cohort = find_cohort(tmp_path)
    assert not any(case.notes for case in cohort.cases)
    assert STRAY not in {getattr(case.mask, "name", None) for case in cohort.cases}
    assert "NIfTI files of no known name" in cohort.notes[0] and STRAY in cohort.notes[0]


def test_the_notes_list_the_files_left_out(tmp_path):
    folder = make_case(tmp_path, "A_001")
    for index in range(5):
        (folder / f"scan{index}.nii.gz").touch()
    for ignored in ("._A_001_t1.nii.gz", "README.txt", "name_mapping.txt"):
        (folder / ignored).touch()
    make_case(tmp_path, "A_002", "seg")
    cohort = find_cohort(tmp_path)
    assert [case.case_id for case in cohort.cases] == ["A_001"]
    scans = ", ".join(str(folder / f"scan{index}.nii.gz") for index in range(3))
    assert cohort.notes == (
        f"NIfTI files of no known name (5): {scans} …: left out",
        f"masks without any image (1): {tmp_path}/A_002/A_002_seg.nii.gz: left out",
    )


@pytest.mark.parametrize(
    "name, shown",
    [
        (b"B_001\n_t1.nii", r"B_001\n_t1.nii"),
        (b"B_\xff_t1.nii", r"B_\udcff_t1.nii"),
        (b"\x1b[2J", r"\x1b[2J"),
    ],
)
def test_unprintable_names_are_escaped_in_the_notes(tmp_path, name, shown):
    make_case(tmp_path, "A_001")
    (tmp_path / os.fsdecode(name)).mkdir()
    cohort = find_cohort(tmp_path)
    assert [case.case_id for case in cohort.cases] == ["A_001"]
    assert shown in cohort.notes[0] and cohort.notes[0].isprintable()


def test_a_folder_with_the_name_of_an_image_is_listed_as_a_file(tmp_path):
    folder = make_case(tmp_path, "A_001", "t1 t1ce t2 seg")
    (folder / "A_001_flair.nii" / "inside").mkdir(parents=True)
    [case] = find_cases(tmp_path)
    assert case.image("flair") == folder / "A_001_flair.nii"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_the_notes_count_folders_that_cannot_be_listed(tmp_path):
    make_case(tmp_path, "A_001")
    (tmp_path / "closed").mkdir(mode=0)
    assert "folders that cannot be listed (1)" in find_cohort(tmp_path).notes[0]


def test_a_case_takes_less_than_2_kb_of_memory(tmp_path):
    for index in range(200):
        make_2023(tmp_path, f"BraTS-GLI-{index:05d}-000")
    find_cases(tmp_path)
    tracemalloc.start()
    cases = find_cases(tmp_path)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(cases) < 2000
