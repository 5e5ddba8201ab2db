"""Uploads: recognised by name, never used as paths, refused before they take memory."""

import gzip
import re
import tempfile
import tracemalloc

import numpy as np
import pytest
from tiny_uploads import (
    AFFINE,
    BAD_SEG,
    BAD_T2,
    GOOD_T2,
    KINDS,
    MODALITIES,
    NEEDED,
    SHAPE,
    brain,
    dims,
    labels,
    nifti,
    upload,
    zeros_gz,
)

from app import header_checks, intake
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import CaseError, InputError


def load(files, needed=NEEDED, **options):
    """Loads files as the page does if all kinds are recognised."""
    recognised = intake.recognise([name for name, _ in files], [data for _, data in files])
    assert not recognised.conflicts
    return intake.load_uploads(files, recognised.kinds, needed, **options)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Fails if a test writes a file."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    yield
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]


def test_unusual_but_valid_files_are_read_like_usual_ones():
    expected = load(upload()).raw.volumes
    for kind_of_file, make in GOOD_T2.items():
        case = load(upload(t2=make()))
        assert np.array_equal(case.raw.volumes, expected), kind_of_file
        assert case.truth[0, 0, 1] == 1 and case.truth[0, 4, 5] == 3, kind_of_file
        assert case.warnings == (), kind_of_file


def test_an_upload_has_the_same_digests_under_any_name_and_in_any_file():
    expected = load(upload()).voxels
    assert list(expected) == list(MODALITIES)
    renamed = [(name.replace("Case_1", "scan"), gzip.compress(data)) for name, data in upload()]
    assert load(renamed).voxels == expected
    for kind_of_file, make in GOOD_T2.items():
        assert load(upload(t2=make())).voxels == expected, kind_of_file
    assert load(upload(t2=nifti(brain(9)))).voxels["t2"] != expected["t2"]


@pytest.mark.parametrize("make, message", BAD_T2.values(), ids=BAD_T2)
def test_bad_image_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=r"^Case_1_t2\.nii\.gz: .*" + message) as caught:
        load(upload(t2=make()))
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)


@pytest.mark.parametrize("make, message", BAD_SEG.values(), ids=BAD_SEG)
def test_bad_mask_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=r"^Case_1_seg\.nii\.gz: .*" + message) as caught:
        load(upload(seg=make()))
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)


def test_upload_becomes_a_case_in_lps_order():
    ras = np.diag([1.0, 1, 1, 1])
    images = {name: nifti(brain(seed), ras) for seed, name in enumerate(MODALITIES)}
    case = load(upload(**{**images, "t1": None, "seg": nifti(labels(), ras)}))
    assert case.raw.case_id == case.raw.patient_id == "Case_1"
    assert case.raw.modalities == ("t1ce", "t2", "flair")
    assert case.raw.volumes.shape == (*SHAPE, 3)
    # Voxel (0, 0, k) of a RAS file is the last one along x and y in LPS order.
    assert case.raw.volumes[5, 6, 1].tolist() == [brain(seed)[0, 0, 1] for seed in (1, 2, 3)]
    assert (case.truth[5, 6, 1], case.truth[2, 6, 0], case.truth[5, 2, 5]) == (1, 2, 3)


def test_four_d_file_of_msd_holds_all_modalities():
    channels = [brain(seed) for seed in range(4)]
    files = [
        ("BRATS_001.nii.gz", gzip.compress(nifti(labels() // 2))),
        ("BRATS_001 (1).nii.gz", nifti(np.stack(channels, -1))),
    ]
    case = load(files)
    assert case.raw.case_id == "BRATS_001" and case.raw.label_scheme == "msd"
    # MSD: FLAIR, T1w, T1gd, T2w; ours: T1, T1ce, T2, FLAIR.
    assert np.array_equal(case.raw.volumes, np.stack([channels[i] for i in (1, 2, 3, 0)], -1))
    # 2 -> 1 and 4 -> 2 by halving: edema and non-enhancing tumour in MSD.
    assert (case.truth[3, 0, 0], case.truth[0, 4, 5]) == (2, 1)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((*SHAPE, 3), r"has 3 volumes on its fourth axis; expected the four of MSD Task01"),
        (SHAPE, r"is 6x7x8, 3-D; expected all four modalities in one 4-D file"),
    ],
)
def test_four_d_file_of_other_shape_is_refused(shape, message):
    data = nifti(np.resize(brain(), shape))
    with pytest.raises(CaseError, match=r"^BRATS_001\.nii: " + message):
        intake.load_uploads([("BRATS_001.nii", data)], {"4d": 0}, NEEDED)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ({"flair": 3, "t1ce": 1}, "^no t2 image .*recognised: t1ce, flair.*_t2.nii.gz, or choose"),
        ({"flair": 3, "t1ce": 1, "t2": 1}, "Case_1_t1ce.nii.gz: is chosen as t1ce and as t2"),
        ({"flair": 3, "t1ce": 1, "t2": 9}, "^t2: is assigned to file 9, but 5 files"),
        ({"flair": 3, "t1ce": 1, "pd": 2}, "^pd: unknown kind of file; expected one of t1, t1ce"),
        (
            {"4d": 0, "t2": 2},
            "Case_1_t1.nii.gz: is chosen as the 4-D file of all modalities, and Case",
        ),
        ({"seg": 4}, "^no flair and no t1ce and no t2 image"),
    ],
)
def test_assignment_is_checked_before_any_file_is_opened(assignment, message):
    files = [(name, b"never looked at") for name, _ in upload()]
    with pytest.raises(InputError, match=message):
        intake.load_uploads(files, assignment, NEEDED)


def test_users_can_choose_kinds_that_names_do_not_decide():
    files = [(f"series{index}.nii", data) for index, (_, data) in enumerate(upload())]
    assert intake.recognise([name for name, _ in files]).kinds == {}
    chosen = dict(zip(KINDS, range(5)))
    with pytest.raises(
        InputError,
        match=r"^series4\.nii: its name does not say which label scheme "
        r"it follows; choose .*brats2020 \(1, 2, 4\), brats2023 \(1, 2",
    ):
        intake.load_uploads(files, chosen, NEEDED)
    case = intake.load_uploads(files, chosen, NEEDED, label_scheme="brats2024")
    assert case.truth[0, 4, 5] == 4, "a resection cavity in this scheme"
    assert np.array_equal(case.raw.volumes, load(upload()).raw.volumes)
    with pytest.raises(InputError, match="^label scheme brats1999: expected one of brats2020"):
        intake.load_uploads(files, chosen, NEEDED, label_scheme="brats1999")


def test_digest_depends_on_the_contents_only():
    first = upload()
    renamed = [(name.replace("Case_1", "B"), data) for name, data in reversed(first)]
    digests = [load(files).digest for files in (first, renamed, upload(t2=nifti(brain(9))))]
    assert digests[0] == digests[1] != digests[2]


def test_digest_depends_on_the_label_scheme_of_a_mask():
    """The same values are other classes in another scheme, so Dice and HD95 differ."""

    def digest(files, scheme):
        kinds = intake.recognise([name for name, _ in files]).kinds
        return intake.load_uploads(files, kinds, NEEDED, label_scheme=scheme).digest

    labelled = upload(seg=nifti(labels() // 2))  # values that every scheme has
    assert digest(labelled, "msd") != digest(labelled, "brats2023")
    unlabelled = upload(seg=None)
    assert digest(unlabelled, "msd") == digest(unlabelled, "brats2023")


def test_a_bare_affine_is_a_warning_and_harmless_anomalies_are_notes():
    volumes = {name: nifti(brain(seed), np.eye(4)) for seed, name in enumerate(MODALITIES)}
    volumes["t2"] = nifti(np.where(brain(9) > 990, -5, brain(9)).astype(np.int16), np.eye(4))
    case = load(upload(**volumes, seg=None))
    [warning] = case.warnings
    assert warning.startswith("affine of the images is a bare identity: taken as it is, but left")
    [note] = [note for note in case.notes if "negative" in note]
    assert note.startswith("negative intensities: kept")


def test_the_memory_for_reading_is_reserved_before_voxels_are_read():
    reserved = []
    load(upload(), reserve=reserved.append)
    assert reserved == [60 * np.prod(SHAPE)]


def test_names_never_become_paths_and_stay_one_line():
    prefix = "../../escape/\u202e<script>\n'; rm\0"
    files = [(f"{prefix}_{name}.nii", nifti(brain(seed))) for seed, name in enumerate(MODALITIES)]
    assert load(files).raw.case_id == "<script>\ufffd'; rm\ufffd"
    files[2] = (files[2][0], b"")
    with pytest.raises(InputError, match="^<script>\ufffd'; rm\ufffd_t2.nii: the file is empty"):
        load(files)
    long = [("x" * 300 + name[6:], data) for name, data in upload()]
    assert len(load(long).raw.case_id) == 80


def test_two_files_of_one_name_are_shown_with_their_kinds():
    files = [("scan.nii", data) for _, data in upload(t2=b"")]
    with pytest.raises(InputError, match=r"^scan\.nii \(t2\): the file is empty"):
        intake.load_uploads(files, dict(zip(MODALITIES, range(4))), NEEDED)


@pytest.mark.parametrize(
    "t2, message",
    [
        (
            np.random.default_rng(0).integers(1, 999, SHAPE).astype(np.int16),
            r"Case_1_t2\.nii\.gz: 0\.\d% of the voxels are background; expected a skull-stripped",
        ),
        (
            np.pad(np.int16([[[70]]]), ((2, 3), (2, 4), (4, 3))),
            r"0\.30% of the voxels are brain; expected about 15%",
        ),
        (brain(3), r"flair\.nii\.gz: is identical to the image of t2"),
    ],
)
def test_doubtful_images_are_read_with_a_warning(t2, message):
    [warning] = load(upload(t2=nifti(t2))).warnings
    assert re.search(message, warning)


def test_doubtful_cases_are_read_with_a_warning():
    [warning] = load(upload(seg=nifti(0 * labels()))).warnings
    assert warning == "Case_1_seg.nii.gz: holds no tumour voxel"
    mixed = upload()
    mixed[2] = ("Case_2_t2.nii", mixed[2][1])
    [warning] = intake.load_uploads(mixed, dict(zip(KINDS, range(5))), NEEDED).warnings
    assert warning == "files of several cases were combined: Case_1, Case_2"


def test_thick_slices_need_a_model_that_resamples():
    thick = {
        name: nifti(brain(seed), AFFINE @ np.diag([1.0, 1, 3, 1]))
        for seed, name in enumerate(MODALITIES)
    }
    with pytest.raises(
        CaseError,
        match=r"_t1\.nii\.gz: voxels measure 1 x 1 x 3 mm; .*as the "
        "model was trained; resample the images",
    ):
        load(upload(**thick, seg=None))
    loaded = load(upload(**thick, seg=None), any_spacing=True)
    assert loaded.raw.geometry.spacing_mm == (1, 1, 3) and loaded.raw.volumes.shape[:3] == SHAPE


def test_cases_that_take_too_much_memory_are_refused_by_their_headers():
    # 4 * 4 B of images, 3 B of mask, 40 B to map it and its own byte: 60 B a voxel.
    bombs = {
        kind: zeros_gz(1, nifti(array, dim=dims(300, 400, 500)))
        for kind, array in {**dict.fromkeys(MODALITIES, brain()), "seg": labels()}.items()
    }
    tracemalloc.start()
    try:
        with pytest.raises(
            CaseError,
            match=r"^Case_1_seg\.nii\.gz: its header declares 300x400x500"
            r" voxels, .*would take 3\.6 GB of memory; expected at most 3\.2 GB",
        ):
            load(upload(**bombs))
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "image, mask, packed",
    [(np.int16, np.uint8, False), (np.float32, np.float64, True), (np.float64, np.float32, False)],
)
def test_reading_takes_at_most_the_estimated_memory(monkeypatch, image, mask, packed):
    shape = (90, 100, 110)
    files = {
        name: nifti(np.resize(brain(seed, image), shape), scl_slope=0.5, scl_inter=1)
        for seed, name in enumerate(MODALITIES)
    }
    files["seg"] = nifti(np.ones(shape, mask), scl_slope=2)
    if packed:
        files = {name: gzip.compress(data, 1) for name, data in files.items()}
    files = upload(**files)
    estimated = []
    monkeypatch.setattr(
        header_checks,
        "check_memory",
        lambda opened, headers, limit: estimated.append(header_checks.peak_bytes(headers)[0]),
    )
    tracemalloc.start()
    try:
        load(files)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.4 * estimated[0] < peak < estimated[0] + 4e6


def test_a_cohort_case_is_read_with_the_modalities_it_has(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "B1"
    folder.mkdir()
    (folder / "B1_t1.nii").write_bytes(nifti(brain()))
    (folder / "B1_flair.nii").write_bytes(nifti(0 * brain()))
    [case] = layouts.find_cases(folder)
    loaded = intake.load_case(case)
    assert loaded.raw.modalities == ("t1", "flair") and loaded.truth is None
    assert loaded.seconds > 0
    [warning] = loaded.warnings
    assert "B1_flair.nii: every voxel is 0" in warning
