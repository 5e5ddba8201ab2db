"""Recognition of file names in every layout of the converter, and their ambiguities."""

import gzip

import numpy as np
import pytest
from tiny_uploads import brain, labels, nifti

from app import recognise

OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")
IMAGE_4D = nifti(np.stack([brain()] * 4, -1))


@pytest.mark.parametrize(
    "names, case_id, scheme",
    [
        ([f"BraTS20_Training_001_{kind}.nii" for kind in OLD], "BraTS20_Training_001", "brats2020"),
        ([f"BraTS2021_00000_{kind}.nii.gz" for kind in OLD], "BraTS2021_00000", "brats2020"),
        (
            [f"BraTS-GLI-00003-000-{kind}.nii.gz" for kind in NEW],
            "BraTS-GLI-00003-000",
            "brats2023",
        ),
        (
            [f"BraTS-GLI-02005-101-{kind}.nii.gz" for kind in NEW],
            "BraTS-GLI-02005-101",
            "brats2024",
        ),
        (
            [f"BRATS20_TRAINING_001_{kind.upper()}.NII.GZ" for kind in OLD],
            "BRATS20_TRAINING_001",
            "brats2020",
        ),
        ([f"A_{kind} ({number}).nii.gz" for number, kind in enumerate(OLD)], "A", "brats2020"),
        ([f"A_{kind}.nii ({number}).gz" for number, kind in enumerate(OLD)], "A", "brats2020"),
        ([f"A_{kind}(1).nii" for kind in OLD], "A", "brats2020"),
        ([f"A_{kind} - Copy.nii" for kind in OLD], "A", "brats2020"),
        ([f"A_{kind} copy 2.nii" for kind in OLD], "A", "brats2020"),
        ([f"study/BraTS2023/A/A-{kind}.nii.gz" for kind in NEW], "A", "brats2023"),
        ([f"A-{kind}.nii.gz" for kind in NEW], "A", None),
        ([f"A\u200f_{kind}\u202e.nii" for kind in OLD], "A", "brats2020"),
    ],
)
def test_files_are_distinguished_by_suffix_not_by_order(names, case_id, scheme):
    expected = dict(zip(OLD, range(5)))
    for turn in range(5):
        recognised = recognise.recognise(names[turn:] + names[:turn])
        assert recognised.case_id == case_id and not recognised.conflicts and not recognised.ignored
        assert recognised.kinds == {kind: (index - turn) % 5 for kind, index in expected.items()}
        assert list(recognised.kinds) == list(OLD)
        assert recognised.label_scheme == scheme and recognised.asks_label_scheme == (
            scheme is None
        )


def test_unknown_names_are_listed_as_ignored():
    recognised = recognise.recognise(["A_t2.nii", "notes.txt", "scan.nii.gz", "A_pd.nii", ""])
    assert recognised.kinds == {"t2": 0}
    assert recognised.ignored == ("notes.txt", "scan.nii.gz", "A_pd.nii", "unnamed")
    assert [file.kind for file in recognised.files] == ["t2", None, None, None, None]
    assert recognised.label_scheme is None and not recognised.asks_label_scheme


def test_image_and_labels_of_msd_are_distinguished_by_folder_or_axes():
    for ending in ("", " (1)"):
        names = ["BRATS_001.nii.gz", f"BRATS_001{ending}.nii.gz"]
        mask = gzip.compress(nifti(labels()))
        for contents, kinds in (
            ([IMAGE_4D, mask], {"4d": 0, "seg": 1}),
            ([mask, gzip.compress(IMAGE_4D)], {"4d": 1, "seg": 0}),
        ):
            recognised = recognise.recognise(names, contents)
            assert (recognised.kinds, recognised.case_id, recognised.label_scheme) == (
                kinds,
                "BRATS_001",
                "msd",
            )
            assert not recognised.conflicts and not recognised.ignored
        [conflict] = recognise.recognise(names).conflicts
        assert conflict.startswith("two 4d files, BRATS_001.nii.gz and BRATS_001")
    for folders in (["labelsTr", "imagesTr"], [r"Task01\labelsTr", r"Task01\imagesTr"]):
        recognised = recognise.recognise(
            [f"{folders[0]}/BRATS_001.nii.gz", f"{folders[1]}/BRATS_001.nii.gz"]
        )
        assert recognised.kinds == {"4d": 1, "seg": 0} and recognised.label_scheme == "msd"


@pytest.mark.parametrize(
    "names, contents, kinds",
    [
        (["BRATS_007.nii.gz"], None, {"4d": 0}),
        (["BRATS_007.nii.gz"], [b"damaged"], {"4d": 0}),
        (["BRATS_007.nii.gz"], [nifti(brain())], {}),
        (["hospital.nii"], None, {}),
        (["hospital.nii"], [IMAGE_4D], {"4d": 0}),
        (["BRATS_001_0000.nii.gz"], [nifti(brain())], {}),  # nnU-Net's
    ],
)
def test_one_file_may_hold_all_modalities(names, contents, kinds):
    assert recognise.recognise(names, contents).kinds == kinds


def test_the_irregular_mask_name_of_brats_2020_is_recognised():
    names = ["W39_1998.09.19_Segm.nii", "BraTS20_Training_355_t1.nii"]
    recognised = recognise.recognise(names)
    assert recognised.kinds == {"t1": 1, "seg": 0} and recognised.label_scheme == "brats2020"
    assert recognise.recognise([*names, "BraTS20_Training_355_seg.nii"]).kinds["seg"] == 2


@pytest.mark.parametrize(
    "names, kinds, message",
    [
        (
            ["A_t1.nii", "B_t2.nii"],
            {"t1": 0, "t2": 1},
            "A_t1.nii and B_t2.nii are files of two cases",
        ),
        (
            ["A_t1.nii", "A_t1.nii.gz", "A_t2.nii"],
            {"t2": 2},
            "two t1 files, A_t1.nii and A_t1.nii.gz; expected one, remove the other or choose",
        ),
        (
            ["A_t1.nii", "A_t1 (1).nii", "a_T1.nii"],
            {},
            "3 t1 files, A_t1.nii and A_t1 (1).nii; exp",
        ),
        (["A_t1.nii", "A-t1n.nii"], {}, "two t1 files, A_t1.nii and A-t1n.nii"),
        (
            ["imagesTr/A.nii", "A_t2.nii"],
            {"4d": 0, "t2": 1},
            "A.nii holds all four modalities, and A_t2.nii is t2 too; remove one",
        ),
    ],
)
def test_ambiguous_names_are_returned_as_conflicts(names, kinds, message):
    recognised = recognise.recognise(names)
    [conflict] = recognised.conflicts
    assert conflict.startswith(message) and recognised.kinds == kinds


@pytest.mark.parametrize(
    "name, shown",
    [
        ("../../etc/A_t1.nii", "A_t1.nii"),
        (r"C:\fakepath\A_t1.nii", "A_t1.nii"),
        ("A\n\0_t1.nii", "A\ufffd\ufffd_t1.nii"),
        ("\u202eA\u2028_t1.nii\ud800", "A\ufffd_t1.nii\ufffd"),
        ("<script>_t1.nii", "<script>_t1.nii"),
        ("a" * 300 + "_t1.nii", "a" * 39 + "…" + "a" * 33 + "_t1.nii"),
    ],
)
def test_displayed_names_are_one_line_without_folders(name, shown):
    [file] = recognise.recognise([name]).files
    assert file.shown == shown


@pytest.mark.parametrize(
    "name",
    [
        "(1)" * 40_000 + ".nii",
        " " * 99_999,
        "_t1" * 33_333 + ".nii",
        " copy" * 20_000,
        "\u202e" * 99_999,
        "../" * 33_333,
    ],
)
def test_no_name_takes_long(name):
    recognised = recognise.recognise([name] * 5)
    assert all(len(file.shown) <= 80 for file in recognised.files)
