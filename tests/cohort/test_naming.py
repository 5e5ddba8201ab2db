"""Deriving layout, patient and label scheme from names. The folders do not exist."""

import pytest

from brats_tfrecord.cohort import naming
from brats_tfrecord.errors import InputError

NOWHERE = "/data/scans"


@pytest.mark.parametrize(
    "name, parsed",
    [
        ("BraTS20_Training_001_t1.nii", ("brats2018-2021", "BraTS20_Training_001", "t1")),
        ("BraTS20_Training_001_t1ce.nii.gz", ("brats2018-2021", "BraTS20_Training_001", "t1ce")),
        ("BraTS2021_00000_SEG.NII.GZ", ("brats2018-2021", "BraTS2021_00000", "seg")),
        ("BraTS-GLI-00000-000-t1n.nii.gz", ("brats2023-2024", "BraTS-GLI-00000-000", "t1")),
        ("BraTS-GLI-00000-000-t1c.nii.gz", ("brats2023-2024", "BraTS-GLI-00000-000", "t1ce")),
        ("BraTS-GLI-00000-000-t2w.nii", ("brats2023-2024", "BraTS-GLI-00000-000", "t2")),
        ("BraTS-GLI-00000-000-t2f.nii.gz", ("brats2023-2024", "BraTS-GLI-00000-000", "flair")),
        ("BraTS-GLI-00000-000-seg.nii.gz", ("brats2023-2024", "BraTS-GLI-00000-000", "seg")),
        ("W39_1998.09.19_Segm.nii", None),
        ("BraTS-GLI-00000-000-t1.nii.gz", None),
        ("A_t1.nii.gz.part", None),
    ],
)
def test_file_names_of_all_releases_are_parsed(name, parsed):
    assert naming.parse_file(name) == parsed


def test_the_patient_is_the_case_id_without_its_timepoint():
    ids = ["BraTS-GLI-00008-000", "BraTS-GLI-00008-103", "BraTS-GoAT-00001", "BraTS20_Training_001"]
    assert [naming.patient_of(case_id) for case_id in ids] == [
        "BraTS-GLI-00008",
        "BraTS-GLI-00008",
        "BraTS-GoAT-00001",
        "BraTS20_Training_001",
    ]


def test_the_challenge_is_named_by_ids_since_2023():
    ids = {
        "BraTS-GLI-00008-000": "GLI",
        "BraTS-met-00001-000": "MET",
        "BraTS-MEN-RT-0001-1": "MEN",
        "BraTS-GoAT-00001": "GOAT",
        "BraTS20_Training_001": None,
        "BraTS2021_00000": None,
        "BRATS_001": None,
        "ours-7": None,
    }
    assert {case_id: naming.challenge_of(case_id) for case_id in ids} == ids


@pytest.mark.parametrize(
    "case_id, folder, scheme, reason",
    [
        ("BraTS-GLI-00008-001", NOWHERE, "brats2023", "below 100"),
        ("BraTS-GLI-02063-106", NOWHERE, "brats2024", "4 is the resection cavity"),
        ("BraTS-SSA-00002-000", NOWHERE, "brats2023", "BraTS-Africa"),
        (
            "BraTS-MET-00001-000",
            "/d/MICCAI-BraTS2024-MET-Challenge-Training_1",
            "brats2023",
            "2024",
        ),
        (
            "BraTS-PED-00001-000",
            "/d/ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData",
            "brats2023",
            "ASNR-MICCAI-BraTS2023-PED",
        ),
        ("ours-7", "/d/BraTS-2023/train", "brats2023", "BraTS-2023"),
        # The innermost folder with a year is used, not the name of a project above it.
        ("BraTS-GLI-00008-000", "/brats24_project/BraTS2023", "brats2023", "below 100"),
    ],
)
def test_id_or_folder_decide_the_label_scheme(case_id, folder, scheme, reason):
    actual_scheme, actual_reason = naming.scheme_of("brats2023-2024", case_id, folder)
    assert actual_scheme == scheme and reason in actual_reason


def test_layouts_with_only_one_label_scheme():
    assert naming.scheme_of("brats2018-2021", "BraTS2021_00000", NOWHERE)[0] == "brats2020"
    assert naming.scheme_of("msd", "BRATS_001", NOWHERE)[0] == "msd"


@pytest.mark.parametrize(
    "layout, case_id, folder, message",
    [
        (
            "brats2023-2024",
            "BraTS-GLI-00008-000",
            "/d/BraTS2024",
            "BraTS2024 names another release",
        ),
        (
            "brats2023-2024",
            "BraTS-GLI-02063-106",
            "/d/BraTS2023",
            "BraTS2023 names another release",
        ),
        ("brats2023-2024", "BraTS-MET-00001-000", NOWHERE, "neither its id nor a folder name"),
        ("brats2023-2024", "ours-7", "/d/BraTS2024", "neither its id nor a folder name"),
        (
            "brats2023-2024",
            "BraTS-PED-00001-000",
            "/d/BraTS2024-PED",
            "2024 have other classes, such as cysts",
        ),
        ("brats2023-2024", "BraTS-PED-00001-000", NOWHERE, "2024 have other classes"),
        ("brats2018-2021", "BraTS-GLI-00008-000", NOWHERE, "its id is of a later release"),
        ("brats2018-2021", "A_001", "/d/BraTS2023", "folder BraTS2023 is of a later release"),
    ],
)
def test_undecided_label_schemes_are_refused(layout, case_id, folder, message):
    with pytest.raises(InputError, match=message) as caught:
        naming.scheme_of(layout, case_id, folder)
    assert str(caught.value).startswith(case_id)
    assert "--label_scheme=brats2020|" in str(caught.value)
