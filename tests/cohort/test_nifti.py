"""Reading and writing of cases and volumes, and their geometry."""

import gzip

import nibabel
import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.cohort.geometry import Geometry, is_one_millimetre
from brats_tfrecord.errors import CaseError

LPS = np.array([[-1.0, 0, 0, 5], [0, -1.0, 0, 239], [0, 0, 1.0, -7], [0, 0, 0, 1]])
RAS = np.array([[1.0, 0, 0, -90], [0, 1.0, 0, -126], [0, 0, 1.0, -72], [0, 0, 0, 1]])
# Axes permuted as well: the file's first axis runs superior, its second left, its third anterior.
SLA = np.array([[0, -1.0, 0, 80], [0, 0, 1.0, -100], [1.0, 0, 0, -60], [0, 0, 0, 1]])
SHAPE = (4, 5, 6)


def save(path, array, affine):
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def ramp(shape=SHAPE, dtype=np.int16):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def save_case(root, affines=None, shapes=None, seg=None):
    """Saves a case of four ramps; `affines` and `shapes` change files by kind."""
    for kind in spec.MODALITIES:
        save(
            root / "A_001" / f"A_001_{kind}.nii.gz",
            ramp((shapes or {}).get(kind, SHAPE)),
            (affines or {}).get(kind, LPS),
        )
    if seg is not None:
        save(root / "A_001" / "A_001_seg.nii.gz", seg, (affines or {}).get("seg", LPS))
    [case] = layouts.find_cases(root)
    return case


@pytest.mark.parametrize("affine", [LPS, RAS, SLA], ids=["LPS", "RAS", "SLA"])
def test_reading_reorients_to_lps_and_writing_restores_the_file_order(tmp_path, affine):
    source = save(tmp_path / "in.nii.gz", ramp(), affine)
    array, geometry = nifti.read_volume(source)
    assert array.shape == geometry.lps_shape
    # Each voxel keeps its position in the world, not its index in the file.
    for index in [(0, 0, 0), (1, 2, 3), tuple(n - 1 for n in array.shape)]:
        world = geometry.lps_affine @ [*index, 1]
        i, j, k = np.rint(np.linalg.inv(affine) @ world)[:3].astype(int)
        assert array[index] == ramp()[i, j, k]
    # Indices increase towards left, posterior and superior.
    assert nibabel.aff2axcodes(geometry.lps_affine) == spec.ORIENTATION

    nifti.write_volume(tmp_path / "out.nii.gz", array.astype(np.int16), geometry)
    back = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), ramp())
    np.testing.assert_array_equal(back.affine, affine)
    assert back.get_data_dtype() == np.int16
    assert back.header["xyzt_units"] == 2


def test_written_bytes_do_not_depend_on_the_time(tmp_path):
    geometry = Geometry(SHAPE, LPS)
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write_volume(tmp_path / name, ramp(), geometry)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_a_case_is_read_into_one_array_with_the_requested_channels(tmp_path):
    seg = np.zeros(SHAPE)
    seg[1, 2, 3:5] = 1, 4
    case = save_case(tmp_path, seg=seg)
    raw = nifti.read_case(case, ("flair", "t1"))
    assert raw.volumes.shape == (*SHAPE, 2) and raw.volumes.dtype == np.float32
    assert raw.modalities == ("flair", "t1")
    assert raw.mask.dtype == np.int16 and sorted(np.unique(raw.mask)) == [0, 1, 4]
    assert raw.geometry.spacing_mm == (1, 1, 1)
    assert nifti.read_case(case, with_mask=False).mask is None


def test_float_masks_are_rounded_and_fractions_refused(tmp_path):
    raw = nifti.read_case(save_case(tmp_path / "a", seg=np.full(SHAPE, 3.9999998)))
    assert (raw.mask == 4).all()
    with pytest.raises(CaseError, match="A_001_seg.nii.gz: holds values that are not whole"):
        nifti.read_case(save_case(tmp_path / "b", seg=np.full(SHAPE, 1.5)))


@pytest.mark.parametrize("kind", ["t2", "seg"])
def test_files_of_a_case_must_share_shape_and_affine(tmp_path, kind):
    moved = LPS.copy()
    moved[0, 3] += 0.01
    with pytest.raises(CaseError, match=rf"A_001_{kind}.nii.gz: its affine puts voxels up to 0.01"):
        nifti.read_case(save_case(tmp_path / "a", {kind: moved}, seg=ramp()))
    if kind == "t2":
        with pytest.raises(CaseError, match="t2.nii.gz: has shape 4x5x7, but A_001_t1.nii.gz has"):
            nifti.read_case(save_case(tmp_path / "b", shapes={"t2": (4, 5, 7)}))


def test_other_spacings_than_1_mm_are_refused_unless_allowed(tmp_path):
    wide = dict.fromkeys(spec.MODALITIES, LPS @ np.diag([1, 1, 1.2, 1]))
    case = save_case(tmp_path, wide)
    with pytest.raises(CaseError, match="voxels measure 1 x 1 x 1.2 mm.*give --resample=1mm"):
        nifti.read_case(case)
    assert nifti.read_case(case, any_spacing=True).geometry.spacing_mm == pytest.approx((1, 1, 1.2))


@pytest.mark.parametrize(
    "size, accepted", [(0.94, False), (0.96, True), (1, True), (1.04, True), (1.06, False)]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spacings_within_5_percent_of_1_mm_are_one_millimetre(axis, size, accepted):
    spacing_mm = [1.0, 1.0, 1.0]
    spacing_mm[axis] = size
    assert is_one_millimetre(spacing_mm) == accepted


def test_a_spacing_of_nearly_1_mm_is_read(tmp_path):
    affines = dict.fromkeys(spec.MODALITIES, LPS @ np.diag([1, 1, 1.04, 1]))
    raw = nifti.read_case(save_case(tmp_path, affines))
    assert raw.geometry.spacing_mm == pytest.approx((1, 1, 1.04))


def broken(tmp_path, name):
    path = tmp_path / "x.nii.gz"
    whole = save(tmp_path / "whole.nii.gz", ramp((30, 30, 30)), LPS).read_bytes()
    if name == "empty":
        path.write_bytes(b"")
    elif name == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "damaged":
        data = bytearray(whole)
        data[-2000:-1900] = bytes(100)
        path.write_bytes(data)
    elif name == "not gzip":
        path.write_bytes(b"PK" + whole)
    elif name == "not nifti":
        path.write_bytes(gzip.compress(b"x" * 4000))
    elif name == "4-D":
        save(path, ramp((4, 5, 6, 2)), LPS)
    elif name == "NaN":
        save(path, np.where(ramp() == 7, np.nan, ramp()).astype(np.float32), LPS)
    elif name == "huge":
        image = nibabel.Nifti1Image(ramp(), LPS)
        image.header.set_data_shape((30000, 30000, 30000))
        path.write_bytes(gzip.compress(image.header.binaryblock + bytes(4)))
    return path


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing", "no such file"),
        ("empty", "the file is empty"),
        ("truncated", "truncated or damaged"),
        ("damaged", "truncated or damaged"),
        ("not gzip", "not a readable NIfTI"),
        ("not nifti", "not a readable NIfTI"),
        ("4-D", "has shape 4x5x6x2; expected a 3-D volume"),
        ("NaN", "1 voxels are NaN or infinite"),
        ("huge", "declares 30000x30000x30000 voxels"),
    ],
)
def test_the_error_of_a_bad_file_is_one_line_that_names_it(tmp_path, name, message):
    with pytest.raises(CaseError, match=f"x.nii.gz: .*{message}") as caught:
        nifti.read_volume(broken(tmp_path, name))
    assert "\n" not in str(caught.value)
