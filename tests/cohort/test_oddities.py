"""Unusual files: each is read and noted, or refused with an error that names it."""

import gzip
import logging
import os
import warnings

import nibabel
import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import CaseError, InputError

SHAPE = (4, 5, 6)
LPS = np.array([[-1.0, 0, 0, 5], [0, -1.0, 0, 239], [0, 0, 1.0, -7], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def no_warnings(caplog):
    """Fails a test that emits warnings or log records, which would reach the user."""
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        yield
    assert not caplog.records


def ramp(dtype=np.int16):
    return np.arange(1, np.prod(SHAPE) + 1).astype(dtype).reshape(SHAPE)


def labels(dtype=np.uint8):
    """A mask with one voxel of each label."""
    array = np.zeros(SHAPE, dtype)
    array[0, 0, 1], array[3, 0, 0], array[0, 4, 5] = 1, 2, 4
    return array


def save(path, array, affine=LPS, kind=nibabel.Nifti1Image, codes=(1, 1), **fields):
    """Writes a NIfTI file with header fields of any value, which nibabel would correct."""
    image = kind(array, affine)
    image.header.set_qform(affine, code=codes[0])
    image.header.set_sform(affine, code=codes[1])
    data = bytearray(image.to_bytes())
    header = image.header_class(bytes(data[: image.header.sizeof_hdr]), check=False)
    for name, value in {"qform_code": codes[0], "sform_code": codes[1], **fields}.items():
        header[name] = value
    data[: len(header.binaryblock)] = header.binaryblock
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def make_case(folder, *, seg=None, **options):
    """Saves four ramps with the `options` of `save`, and a mask with the options `seg`."""
    images = {
        name: save(folder / f"A_{name}.nii.gz", ramp(), **options) for name in spec.MODALITIES
    }
    mask = save(folder / "A_seg.nii.gz", **seg) if seg else None
    return Case("A", "A", images, mask, "brats2020", None)


def turned(array):
    """Returns an LPS array in RAS order, with its affine."""
    affine = LPS @ [[-1, 0, 0, SHAPE[0] - 1], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    return array[::-1, ::-1], affine


# Voxels


@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f8", "<u4", "i1", "u1", ">i8"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_all_byte_orders_types_and_versions_are_read(tmp_path, dtype, kind):
    endian = ">" if dtype.startswith(">") else "<"
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(dtype)
    image = kind(ramp(dtype), LPS, header)
    (tmp_path / "x.nii").write_bytes(image.to_bytes())
    array, geometry = nifti.read_volume(tmp_path / "x.nii")
    np.testing.assert_array_equal(array, ramp())
    np.testing.assert_array_equal(geometry.affine, LPS)
    assert array.dtype == np.float32 and array.dtype.isnative


def test_slope_and_intercept_are_applied(tmp_path):
    array, _ = nifti.read_volume(save(tmp_path / "x.nii", ramp(), scl_slope=0.5, scl_inter=-3))
    np.testing.assert_array_equal(array, ramp() * 0.5 - 3)
    for slope in (0, np.nan):  # not scaled, by the standard
        array, _ = nifti.read_volume(save(tmp_path / "x.nii", ramp(), scl_slope=slope, scl_inter=7))
        np.testing.assert_array_equal(array, ramp())
    with pytest.raises(CaseError, match="scales voxels by inf"):
        nifti.read_volume(save(tmp_path / "x.nii", ramp(), scl_slope=np.inf))


@pytest.mark.parametrize(
    "value, message",
    [
        (np.nan, "1 voxels are NaN or infinite"),
        (np.inf, "1 voxels are NaN or infinite"),
        (-np.inf, "1 voxels are NaN or infinite"),
        (-1e300, "holds values up to 1e[+]300, beyond 32-bit floats"),
    ],
)
def test_values_that_are_not_finite_in_float32_are_refused(tmp_path, value, message):
    array = ramp(np.float64)
    array[1, 2, 3] = value
    with pytest.raises(CaseError, match=message):
        nifti.read_volume(save(tmp_path / "x.nii.gz", array))


def test_negative_intensities_are_kept_and_noted(tmp_path):
    case = make_case(tmp_path)
    save(case.images["t2"], ramp() - 3)
    raw = nifti.read_case(case)
    assert raw.volumes[0, 0, 0].tolist() == [1, 1, -2, 1]
    assert raw.notes == ("negative intensities: kept, they take no part in the bias correction",)


@pytest.mark.parametrize(
    "dtype, description",
    [
        (np.complex64, "complex numbers"),
        (np.dtype([(c, "u1") for c in "RGB"]), "RGB colours"),
        (np.dtype([(c, "u1") for c in "RGBA"]), "RGBA colours"),
    ],
)
def test_voxels_that_are_not_real_numbers_are_refused(tmp_path, dtype, description):
    with pytest.raises(CaseError, match=f"its voxels are {description}; expected"):
        nifti.read_volume(save(tmp_path / "x.nii.gz", np.zeros(SHAPE, dtype)))


def test_trailing_axes_of_length_one_are_dropped(tmp_path):
    case = make_case(tmp_path)
    save(case.images["t1"], ramp()[..., None, None])
    raw = nifti.read_case(case)
    np.testing.assert_array_equal(raw.volumes[..., 0], ramp())
    assert raw.notes == ("trailing axes of length one: dropped",)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((4, 5, 6, 2), "4x5x6x2; expected a 3-D volume .4-D files are read from MSD's imagesTr"),
        ((4, 5, 1, 2), "4x5x1x2; expected a 3-D volume .4-D files are read from MSD's imagesTr"),
        ((4, 5), "4x5; expected a 3-D volume$"),
    ],
)
def test_other_numbers_of_axes_are_refused(tmp_path, shape, message):
    with pytest.raises(CaseError, match=f"has shape {message}"):
        nifti.read_volume(save(tmp_path / "x.nii.gz", np.zeros(shape, np.int16)))


def test_four_axes_are_read_for_a_channel_of_msd_only(tmp_path):
    path = save(tmp_path / "x.nii.gz", np.stack([ramp(), ramp() * 2], -1))
    np.testing.assert_array_equal(nifti.read_volume(path, 1)[0], ramp() * 2)
    with pytest.raises(CaseError, match="has shape 4x5x6; expected a 4-D file of MSD"):
        nifti.read_volume(save(tmp_path / "x.nii.gz", ramp()), 1)


# Geometry


def test_a_mask_in_another_orientation_on_the_same_grid_is_reoriented(tmp_path):
    array, affine = turned(labels())
    raw = nifti.read_case(make_case(tmp_path, seg={"array": array, "affine": affine}))
    np.testing.assert_array_equal(raw.mask, labels())
    assert raw.notes == (
        "mask in another orientation than the first image, on the same grid: "
        "reoriented by its affine",
    )


def test_a_mask_on_another_grid_is_refused(tmp_path):
    array, affine = turned(labels())
    affine = affine + np.pad([[2.5]], ((1, 2), (3, 0)))  # 2.5 mm along y
    with pytest.raises(CaseError, match="A_seg.nii.gz: its affine puts voxels up to 2.5 mm from"):
        nifti.read_case(make_case(tmp_path, seg={"array": array, "affine": affine}))
    with pytest.raises(CaseError, match="A_seg.nii.gz: has shape 3x5x6, but A_t1.nii.gz has 4x5x6"):
        nifti.read_case(make_case(tmp_path, seg={"array": labels()[1:]}))


def test_axes_swapped_by_the_affine_are_refused(tmp_path):
    cube = LPS[:, [1, 0, 2, 3]]
    with pytest.raises(CaseError, match="has shape 5x4x6 once turned to LPS, but A_t1.nii.gz has"):
        nifti.read_case(make_case(tmp_path, seg={"array": labels(), "affine": cube}))


@pytest.mark.parametrize(
    "bare",
    [
        {"affine": np.eye(4)},  # RAS if taken literally
        {"codes": (0, 0)},
    ],
    ids=["identity", "no codes"],
)
def test_a_mask_with_a_bare_affine_is_read_only_on_request(tmp_path, bare):
    case = make_case(tmp_path, seg={"array": labels(), **bare})
    with pytest.raises(
        CaseError,
        match="A_seg.nii.gz: its affine (is a bare identity|has no orientation code) "
        ".*--bare_mask_affine=ignore",
    ):
        nifti.read_case(case)
    raw = nifti.read_case(case, bare_mask_affine="ignore")
    np.testing.assert_array_equal(raw.mask, labels())
    assert raw.notes == (
        "bare affine of a mask: ignored, the mask is taken in its images' own array order",
    )
    with pytest.raises(InputError, match="--bare_mask_affine=maybe: expected one of refuse, ign"):
        nifti.read_case(case, bare_mask_affine="maybe")


@pytest.mark.parametrize("bare", [{"affine": np.eye(4)}, {"codes": (0, 0)}])
def test_images_with_a_bare_affine_are_read_and_noted(tmp_path, bare):
    raw = nifti.read_case(make_case(tmp_path, **bare, seg={"array": labels(), **bare}))
    np.testing.assert_array_equal(raw.mask, raw.geometry.to_lps(labels()))
    [note] = raw.notes
    assert note.startswith("affine of the images") and "left and right may be swapped" in note


def test_a_qform_is_used_without_an_sform(tmp_path):
    array, geometry = nifti.read_volume(save(tmp_path / "x.nii.gz", ramp(), codes=(1, 0)))
    np.testing.assert_allclose(geometry.affine, LPS)
    np.testing.assert_array_equal(array, ramp())


def test_a_pixdim_of_zero_is_refused_only_without_an_sform(tmp_path):
    path = save(tmp_path / "x.nii.gz", ramp(), pixdim=np.zeros(8))
    assert nifti.read_volume(path)[1].spacing_mm == (1, 1, 1)
    path = save(tmp_path / "x.nii.gz", ramp(), pixdim=np.zeros(8), codes=(1, 0))
    with pytest.raises(CaseError, match="no sform, and pixdim declares voxels of 0 x 0 x 0 mm"):
        nifti.read_volume(path)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"srow_x": [0, 0, 0, 5]}, "its affine is not invertible"),
        ({"srow_z": [0, 0, np.nan, 5]}, "its affine is not invertible"),
        ({"srow_y": [0, 1e30, 0, 5]}, "its affine is not invertible"),
        ({"sform_code": 0, "quatern_b": 3}, "its qform is no rotation"),
        ({"vox_offset": np.inf}, "puts the voxels at byte inf"),
        ({"vox_offset": 100}, "puts the voxels at byte 100"),
        ({"datatype": 9999}, "its voxels are of type 9999"),
        ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, "declares 9 axes"),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, "declares 4x-5x6 voxels"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "declares 32767x32767x32767 voxels"),
        ({"dim": [3, 600, 600, 600, 1, 1, 1, 1]}, "holds fewer than the 432,000,000 bytes"),
        ({"dim": [3, 4, 5, 7, 1, 1, 1, 1]}, "holds (fewer than|240 of)"),
        ({"magic": b"ni1"}, "is the header of a .hdr and .img pair"),
        ({"magic": b"xyz"}, "it has no NIfTI header"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_invalid_headers_are_refused(tmp_path, fields, message, suffix):
    with pytest.raises(CaseError, match=message) as caught:
        nifti.read_volume(save(tmp_path / f"x{suffix}", ramp(), **fields))
    assert "\n" not in str(caught.value)


# Files


def test_gzip_is_recognised_by_the_content(tmp_path):
    case = make_case(tmp_path)
    plain = save(tmp_path / "plain.nii", ramp() + 1)
    plain.replace(case.images["flair"])
    raw = nifti.read_case(case)
    np.testing.assert_array_equal(raw.volumes[..., 3], ramp() + 1)
    assert raw.notes == ("gzip or not, the name says otherwise than the content: read by content",)
    packed = tmp_path / "packed.nii"
    packed.write_bytes(gzip.compress(save(tmp_path / "y.nii", ramp()).read_bytes()))
    np.testing.assert_array_equal(nifti.read_volume(packed)[0], ramp())


def test_gzip_members_with_zero_padding_are_read(tmp_path):
    whole = save(tmp_path / "x.nii", ramp()).read_bytes()
    path = tmp_path / "x.nii.gz"
    path.write_bytes(
        gzip.compress(whole[:401]) + gzip.compress(b"") + gzip.compress(whole[401:]) + bytes(512)
    )
    np.testing.assert_array_equal(nifti.read_volume(path)[0], ramp())
    path.write_bytes(path.read_bytes() + b"garbage")
    with pytest.raises(CaseError, match="truncated or damaged"):
        nifti.read_volume(path)


def test_a_wrong_checksum_is_refused_even_if_all_voxels_can_be_read(tmp_path):
    path = save(tmp_path / "x.nii.gz", ramp())
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # the last byte of the checksum
    path.write_bytes(data)
    with pytest.raises(CaseError, match="truncated or damaged"):
        nifti.read_volume(path)


def test_a_decompression_bomb_behind_the_voxels_is_refused(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(
        gzip.compress(save(tmp_path / "x.nii", ramp()).read_bytes())
        + gzip.compress(bytes(1 << 27), 1)
    )
    with pytest.raises(CaseError, match="holds far more than the voxels"):
        nifti.read_volume(path)


@pytest.mark.parametrize("make, kind", [(os.mkdir, "a folder"), (os.mkfifo, "a pipe, socket")])
def test_folders_and_pipes_are_refused(tmp_path, make, kind):
    make(tmp_path / "x.nii.gz")
    with pytest.raises(CaseError, match=f"x.nii.gz: is {kind}.*, not a regular file"):
        nifti.read_volume(tmp_path / "x.nii.gz")


# Masks


@pytest.mark.parametrize(
    "dtype, error, notes",
    [
        (np.float64, 0, ()),
        (np.float32, -3e-7, ("mask values near whole numbers: rounded",)),
        (">i4", 0, ()),
    ],
)
def test_masks_of_any_number_type_are_read_as_int16(tmp_path, dtype, error, notes):
    array = (labels() + error).astype(dtype) if error else labels(dtype)
    raw = nifti.read_case(make_case(tmp_path, seg={"array": array}))
    assert raw.mask.dtype == np.int16 and raw.notes == notes
    np.testing.assert_array_equal(raw.mask, labels())


def test_a_scaled_mask_is_rounded(tmp_path):
    raw = nifti.read_case(
        make_case(tmp_path, seg={"array": labels() * 3, "scl_slope": np.float32(1 / 3)})
    )
    np.testing.assert_array_equal(raw.mask, labels())


@pytest.mark.parametrize(
    "value, message",
    [
        (0.5, "holds values that are not whole numbers"),
        (np.nan, "1 voxels are NaN"),
        (70000, "holds values from 0 to 70000; expected label values"),
    ],
)
def test_arrays_that_are_not_masks_are_refused(tmp_path, value, message):
    array = labels(np.float32)
    array[2, 2, 2] = value
    with pytest.raises(CaseError, match=f"A_seg.nii.gz: {message}"):
        nifti.read_case(make_case(tmp_path, seg={"array": array}))
