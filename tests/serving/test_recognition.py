"""Recognition of cases by id, voxels and patient."""

import dataclasses

import pytest

from brats_tfrecord.serving.recognition import Identity, KnownCases, Recognition

T1, T2, T3, FLAIR = ("1" * 64, "2" * 64, "3" * 64, "f" * 64)
KNOWN = KnownCases(
    ["BraTS-GLI-00001-000"],
    ["BraTS-GLI-00002-000"],
    {
        "BraTS-GLI-00001-000": Identity("BraTS-GLI-00001", {"t1": T1, "flair": FLAIR}),
        "BraTS-GLI-00002-000": Identity("BraTS-GLI-00002", {"t1": T2}),
    },
)


@pytest.mark.parametrize(
    "case_id, patient_id, voxels, use, by",
    [
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001", {"t1": T1}, "train", "case id"),
        ("BraTS-GLI-00001-000", None, {}, "train", "case id"),
        ("BraTS-GLI-00001-001", "BraTS-GLI-00001", {"t1": T3}, "train", "patient"),
        ("scan 7", None, {"t1": T1, "flair": FLAIR}, "train", "same scan"),
        ("scan 7", None, {"t1": T3, "flair": FLAIR}, "train", "same scan"),  # one is enough
        ("scan 7", "scan 7", {"t2": FLAIR}, "train", "same scan"),  # under another modality too
        ("BraTS-GLI-00001-009", "BraTS-GLI-00001", {"t1": T1}, "train", "same scan"),
        ("BraTS-GLI-00002-000", "BraTS-GLI-00002", {"t1": T2}, "select", "case id"),
        ("BraTS-GLI-00002-001", "BraTS-GLI-00002", {}, "select", "patient"),
        ("scan 8", None, {"t1": T2}, "select", "same scan"),
        # Training outweighs selection, by whatever ground.
        ("BraTS-GLI-00002-000", "BraTS-GLI-00002", {"t1": T1}, "train", "same scan"),
        ("BraTS-GLI-00002-000", "BraTS-GLI-00001", {"t1": T2}, "train", "patient"),
        ("BraTS-GLI-00003-000", "BraTS-GLI-00003", {"t1": T3}, "unseen", None),
        ("BraTS-GLI-00003-000", None, {}, "unseen", None),
    ],
)
def test_a_case_is_recognised_by_id_voxels_or_patient(case_id, patient_id, voxels, use, by):
    assert KNOWN.recognise(case_id, patient_id, voxels) == Recognition(use, by)


def test_cases_without_identity_are_recognised_by_id_only():
    known = KnownCases(["A-000"], ["B-000"], {})
    assert known.recognise("A-000", "A", {"t1": T1}) == Recognition("train", "case id")
    assert known.recognise("A-001", "A", {"t1": T1}) == Recognition("unseen")


def test_cases_that_share_an_empty_modality_are_not_the_same_scan():
    """An empty modality has no digest, so that none of two such cases recognises the other."""
    known = KnownCases(["A"], [], {"A": Identity("A", {})})
    assert known.recognise("B", "B", {}) == Recognition("unseen")


def test_an_identity_survives_json_and_refuses_other_values():
    identity = Identity("A", {"t1": T1})
    assert Identity.from_json(dataclasses.asdict(identity)) == identity
    for patient, voxels in ((None, {}), ("A", {"t1": "xyz"})):
        with pytest.raises(ValueError, match="is None|are {"):
            Identity(patient, voxels)
