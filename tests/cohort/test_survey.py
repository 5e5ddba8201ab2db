"""The summary of a cohort before a conversion, and the table after reading all of it."""

import pickle

import nibabel
import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, survey
from brats_tfrecord.cohort.inventory import id_ranges
from brats_tfrecord.errors import InputError

SHAPE = (4, 5, 6)
LPS = np.diag([-1.0, -1, 1, 1])


@pytest.mark.parametrize(
    "ids, texts",
    [
        (["A_007"], ["A_007, no gaps"]),
        (["A_001", "A_002", "A_003"], ["A_001 to A_003 (3), no gaps"]),
        (["A_003", "A_001", "A_008"], ["A_001 to A_008 (3), gaps at 2, 4-7"]),
        (["A_9", "A_10"], ["A_9 to A_10 (2), no gaps"]),
        (["A_001", "B_005", "B_007"], ["A_001, no gaps", "B_005 to B_007 (2), gaps at 6"]),
        (["one", "two"], ["one to two (2), no gaps"]),
        # The last number is the timepoint; the number of the patient is used.
        (
            ["BraTS-GLI-00002-000", "BraTS-GLI-00002-001", "BraTS-GLI-00005-000"],
            ["BraTS-GLI-00002-000 to BraTS-GLI-00005-000 (3), gaps at 3-4"],
        ),
    ],
)
def test_id_ranges_list_the_gaps_of_each_prefix(ids, texts):
    assert id_ranges(ids) == texts


def test_the_summary_describes_names_and_headers(small_cohort):
    text = "\n".join(survey.summary(layouts.find_cohort(small_cohort)))
    assert "5 patients, 5 cases (4 labelled)" in text
    assert "BraTS20_Training_001 to BraTS20_Training_004 (4), no gaps" in text
    assert "BraTS20_Validation_001, no gaps" in text
    assert "brats2018-2021" in text and "brats2020 (file names of BraTS 2018-2021" in text
    assert "96x92x72 (5)" in text and "1x1x1 (5)" in text and "LPS (5)" in text
    assert "Anomalies" not in text


def test_the_summary_of_a_large_cohort_reads_a_sample_of_headers(small_cohort, monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE", 3)
    text = "\n".join(survey.summary(layouts.find_cohort(small_cohort)))
    assert "96x92x72 (3)" in text and "read of 3 cases, every 2th" in text


def test_a_cohort_without_any_usable_case_is_refused(tmp_path):
    (tmp_path / "A_001").mkdir()
    (tmp_path / "A_001" / "A_001_t1.nii.gz").touch()
    with pytest.raises(InputError, match="none of its 1 cases can be used; A_001: no t1ce"):
        survey.summary(layouts.find_cohort(tmp_path))


def make_case(root, case_id, *, lowest=0, mask=(0, 1, 2, 4), flair=9):
    """Saves a case with a lowest t1 intensity of `lowest` and a FLAIR of `flair` in the tumour."""
    folder = root / case_id
    folder.mkdir()
    image = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    for kind in ("t1", "t1ce", "t2", "flair"):
        array = image + lowest if kind == "t1" else image + 1
        if kind == "flair":
            array[0, 0, : len(mask)] = flair
        nibabel.save(nibabel.Nifti1Image(array, LPS), folder / f"{case_id}_{kind}.nii.gz")
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0, : len(mask)] = mask
    nibabel.save(nibabel.Nifti1Image(labels, LPS), folder / f"{case_id}_seg.nii.gz")


def examine(root, **read_options):
    cohort = layouts.find_cohort(root)
    return cohort, [survey.examine(case, **read_options) for case in cohort.cases]


def test_an_examination_lists_the_properties_of_a_case(tmp_path):
    make_case(tmp_path, "A_001", lowest=-2, flair=0)
    _, [case] = examine(tmp_path)
    assert (case.shape, case.spacing_mm, case.orientation) == (SHAPE, (1, 1, 1), "LPS")
    assert case.intensities == (
        ("t1", -2, 117),
        ("t1ce", 1, 120),
        ("t2", 1, 120),
        ("flair", 0, 120),
    )
    assert case.labels == ((0, 117), (1, 1), (2, 1), (4, 1)) and case.refusal is None
    assert [note.split(":")[0] for note in case.notes] == [
        "negative intensities",
        "grid other than 240x240x155",
        "tumour voxels where FLAIR is 0",
    ]
    assert pickle.loads(pickle.dumps(case)) == case and len(pickle.dumps(case)) < 2000


def test_a_bad_case_is_refused_without_an_exception(tmp_path):
    make_case(tmp_path, "A_001")
    path = tmp_path / "A_001" / "A_001_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    _, [case] = examine(tmp_path)
    assert case.refusal.startswith(f"{path}: its data cannot be read")
    assert case.shape == SHAPE and not case.intensities


def test_an_examination_uses_the_options_for_reading(tmp_path):
    make_case(tmp_path, "A_001")
    path = tmp_path / "A_001" / "A_001_seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), path)
    assert "--bare_mask_affine=ignore" in examine(tmp_path)[1][0].refusal
    assert examine(tmp_path, bare_mask_affine="ignore")[1][0].refusal is None


def test_the_table_lists_values_and_anomalies_of_a_cohort(tmp_path):
    make_case(tmp_path, "A_001", lowest=-2)
    make_case(tmp_path, "A_002", lowest=-5, mask=(1, 1))
    make_case(tmp_path, "A_004", mask=(1, 3))
    (tmp_path / "A_004" / "strange.nii").touch()
    assert survey.table(*examine(tmp_path)) == [
        f"{tmp_path}: 3 patients, 3 cases (3 labelled)",
        "  ids           A_001 to A_004 (3), gaps at 3",
        "  layout        brats2018-2021",
        "  label scheme  brats2020 (file names of BraTS 2018-2021, whose masks hold 1, 2 and 4)",
        "  shape         4x5x6 (3)",
        "  spacing in mm 1x1x1 (3)",
        "  orientation   LPS (3)",
        "  intensity     t1 -5 to 119",
        "  intensity     t1ce 1 to 120",
        "  intensity     t2 1 to 120",
        "  intensity     flair 3 to 120",
        "  label 0       background (3 cases, 353 voxels)",
        "  label 1       NCR/NET, necrotic / non-enhancing core (3 cases, 4 voxels)",
        "  label 2       ED, peritumoral edema (1 case, 1 voxel)",
        "  label 3       UNKNOWN to scheme brats2020 (1 case, 1 voxel)",
        "  label 4       ET, enhancing tumour (1 case, 1 voxel)",
        "Anomalies:",
        f"  NIfTI files of no known name (1): {tmp_path}/A_004/strange.nii: left out",
        "  3 cases (A_001, A_002, A_004): grid other than 240x240x155: --crop=auto takes a window "
        "around the brain",
        "  2 cases (A_001, A_002): negative intensities: kept, they take no part in the bias "
        "correction",
        "  will be refused: A_004: the mask holds label 3; scheme brats2020 knows 0, 1, 2, 4; name "
        "the scheme of its release with --label_scheme",
    ]


def test_the_table_of_a_cohort_without_anomalies_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(spec, "BRATS_GRID", SHAPE)
    make_case(tmp_path, "A_001")
    assert survey.table(*examine(tmp_path))[-1] == "Anomalies: none"


def test_a_real_case_is_examined(real_cases):
    cohort = layouts.find_cohort(real_cases)
    case = survey.examine(cohort.cases[0])
    assert case.shape == (240, 240, 155) and case.refusal is None
    assert [note.split(":")[0] for note in case.notes] == ["negative intensities"]
