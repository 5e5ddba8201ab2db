"""Uploaded files in memory, valid and invalid ones."""

import gzip
import zipfile
from io import BytesIO

import nibabel
import numpy as np

SHAPE = (6, 7, 8)
AFFINE = np.array([[-1.0, 0, 0, 5], [0, -1.0, 0, 239], [0, 0, 1.0, -7], [0, 0, 0, 1]])
MODALITIES = ("t1", "t1ce", "t2", "flair")
NEEDED = ("flair", "t1ce", "t2")
KINDS = (*MODALITIES, "seg")


def brain(seed=0, dtype=np.int16):
    """Makes [X, Y, Z] of which every other slice is background and the others 50 to 999."""
    array = np.random.default_rng(seed).integers(50, 1000, SHAPE)
    array[..., ::2] = 0
    return array.astype(dtype)


def labels(dtype=np.uint8):
    """Makes [X, Y, Z] with one voxel of each label of brats2020."""
    array = np.zeros(SHAPE, dtype)
    array[0, 0, 1], array[3, 0, 0], array[0, 4, 5] = 1, 2, 4
    return array


def nifti(array, affine=AFFINE, kind=nibabel.Nifti1Image, **fields):
    """Returns the bytes of a .nii; `fields` of the header are not checked or corrected."""
    image = kind(array, affine)
    image.header.set_sform(affine, code=1)
    image.header.set_qform(affine, code=1)
    data = bytearray(image.to_bytes())
    header = image.header_class(bytes(data[: image.header.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[: len(header.binaryblock)] = header.binaryblock
    return bytes(data)


def big_endian(array):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(array.dtype.newbyteorder(">"))
    image = nibabel.Nifti1Image(array, AFFINE, header)
    data = image.to_bytes()
    assert data[:4] == b"\0\0\x01\x5c"
    return data


def upload(**changed):
    """Makes [(name, bytes)] of a whole case.

    Args:
        **changed: kind -> other bytes for that file, or None to omit it.
    """
    contents = {name: nifti(brain(seed)) for seed, name in enumerate(MODALITIES)}
    contents["seg"] = nifti(labels())
    contents.update(changed)
    return [(f"Case_1_{kind}.nii.gz", data) for kind, data in contents.items() if data is not None]


def zeros_gz(megabytes, head=b""):
    """Makes a gzip stream of `head` and that many MB of zeros, a thousandth of its content."""
    packed = BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as stream:
        stream.write(head)
        for _ in range(megabytes):
            stream.write(bytes(1_000_000))
    return packed.getvalue()


def zipped():
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("t2.nii", nifti(brain()))
    return packed.getvalue()


def dims(*extents):
    return (len(extents), *extents, *[1] * (7 - len(extents)))


def with_voxel(value, dtype=np.float32):
    array = brain(dtype=dtype)
    array[1, 2, 3] = value
    return array


def structured(*fields):
    return np.zeros(SHAPE, np.dtype([(name, "u1") for name in fields]))


def damaged():
    data = bytearray(gzip.compress(nifti(brain())))
    data[-6] ^= 1  # in the checksum
    return bytes(data)


def analyze():
    header = bytearray(nibabel.AnalyzeHeader().binaryblock)
    return bytes(header) + bytes(200)


def shifted(array):
    moved = AFFINE.copy()
    moved[0, 3] += 12
    return nifti(array, moved)


# Name of a fault -> (function that makes the T2 file, regular expression of the message).
BAD_T2 = {
    "empty": (lambda: b"", "the file is empty; copy it again"),
    "empty gzip": (lambda: gzip.compress(b""), r"\(nothing is packed in it\)"),
    "cut header": (lambda: nifti(brain())[:200], "ends within its header"),
    "cut voxels": (lambda: nifti(brain())[:-9], r"fewer than the 672 bytes|holds 663 of 672"),
    "cut gzip": (lambda: gzip.compress(nifti(brain()))[:-20], "truncated or damaged"),
    "checksum": (damaged, "truncated or damaged"),
    "garbage behind": (lambda: gzip.compress(nifti(brain())) + b"and so on", "damaged, copy it"),
    "too many dims": (
        lambda: nifti(brain(), dim=dims(600, 700, 800)),
        r"declares 600x700x800 voxels; expected a head scan .*at most 262,144,000",
    ),
    "more dims than bytes": (
        lambda: gzip.compress(nifti(brain(), dim=dims(60, 70, 80))),
        r"has shape 60x70x80, but Case_1_t1.nii.gz has 6x7x8",
    ),
    "bomb behind": (lambda: zeros_gz(70, nifti(brain())), "far more than the voxels"),
    "zeros": (lambda: zeros_gz(2), "it has no NIfTI header"),
    "many members": (
        lambda: gzip.compress(nifti(brain())) + 9999 * gzip.compress(b""),
        "thousands of nearly empty gzip members",
    ),
    "gzip in gzip": (lambda: gzip.compress(gzip.compress(nifti(brain()))), "gzip within gzip"),
    "dicom": (lambda: bytes(128) + b"DICM" + bytes(900), "a DICOM slice, .* dcm2niix"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(900), "a PNG picture"),
    "zip": (zipped, "a zip archive"),
    "text": (lambda: b"patient 1, t2, see mail\r\n" * 40, r"\(text\); expected .nii or .nii.gz"),
    "web page": (lambda: b"<!DOCTYPE html><p>Sign in" * 40, "a web page"),
    "mgh": (lambda: gzip.compress(b"\0\0\0\1\0\0\0\6" + bytes(900)), "FreeSurfer's MGH"),
    "analyze 7.5": (analyze, "an Analyze 7.5 header without its .img"),
    "hdr and img": (lambda: nifti(brain(), magic=b"ni1"), "the header of a .hdr and .img pair"),
    "rgb": (lambda: nifti(structured(*"RGB")), "its voxels are RGB colours; expected one"),
    "rgba": (lambda: nifti(structured(*"RGBA")), "its voxels are RGBA colours"),
    "complex": (lambda: nifti(brain(dtype=np.complex64)), "its voxels are complex numbers"),
    "2-D": (lambda: nifti(brain()[:, :, 1]), "has shape 6x7; expected a 3-D volume"),
    "4-D": (
        lambda: nifti(np.stack([brain()] * 4, -1)),
        "is 6x7x8x4, 4-D; expected a 3-D volume of one modality; .*choose it as the 4-D file",
    ),
    "5-D": (
        lambda: nifti(brain()[..., None, None] * np.ones((1, 2, 3), np.int16)),
        "has shape 6x7x8x2x3; expected a 3-D volume",
    ),
    "nan": (lambda: nifti(with_voxel(np.nan)), "1 voxels are NaN or infinite"),
    "infinite": (lambda: nifti(with_voxel(-np.inf)), "1 voxels are NaN or infinite"),
    "beyond float32": (lambda: nifti(with_voxel(1e300, np.float64)), "beyond 32-bit floats"),
    "all zero": (lambda: nifti(0 * brain()), "every voxel is 0; expected intensities"),
    "constant": (lambda: nifti(0 * brain() + 7), "every voxel is 7; expected intensities"),
    "nothing above 0": (lambda: nifti(-brain()), r"no voxel is above 0 \(values from -9\d\d to 0"),
    "labels": (lambda: nifti(labels()), "only whole numbers from 0 to 4, as a segmentation does"),
    "brain mask": (
        lambda: nifti((brain() > 0).astype(np.float32)),
        "only whole numbers from 0 to 1, as a segmentation does",
    ),
    "other shape": (lambda: nifti(brain()[1:]), "has shape 5x7x8, but Case_1_t1.nii.gz has 6x7x8"),
    "other affine": (lambda: shifted(brain()), "voxels up to 12 mm from those of Case_1_t1.nii.gz"),
    "flat affine": (lambda: nifti(brain(), srow_z=(0, 0, 0, 0)), "affine is not invertible"),
    "axes beyond": (lambda: nifti(brain(), dim=(9, *SHAPE, 1, 1, 1, 1)), "declares 9 axes"),
    "scaled by inf": (lambda: nifti(brain(), scl_slope=np.inf), "scales voxels by inf"),
}

BAD_SEG = {
    "an image": (lambda: nifti(brain(9)), "different values from 0 to 9.*seems to be an image"),
    "a real image": (lambda: nifti(brain(9, np.float32) * np.float32(1.3)), "is it an image"),
    "counts": (lambda: nifti(brain(9, np.int32) * 99), "is it an image"),
    "another release": (lambda: nifti(labels() * 2), "holds label 8; scheme brats2020 knows"),
    "a turned bare affine": (
        lambda: nifti(labels(), np.eye(4)),
        "bare identity and puts the mask elsewhere than Case_1_t1.nii.gz",
    ),
    "another grid": (lambda: shifted(labels()), "voxels up to 12 mm from those of"),
    "4-D": (
        lambda: nifti(np.stack([labels()] * 2, -1)),
        "is 6x7x8x2, 4-D; expected one label per voxel",
    ),
}

# Unusual files that are valid: name -> function that makes the T2 file.
GOOD_T2 = {
    "nifti-2": lambda: nifti(brain(2), kind=nibabel.Nifti2Image),
    "big-endian": lambda: big_endian(brain(2)),
    "gzip": lambda: gzip.compress(nifti(brain(2))),
    "two members": lambda: (
        gzip.compress(nifti(brain(2))[:500]) + gzip.compress(nifti(brain(2))[500:])
    ),
    "zeros behind": lambda: gzip.compress(nifti(brain(2))) + bytes(100_000),
    "float64": lambda: nifti(brain(2, np.float64)),
    "fourth axis of one": lambda: nifti(brain(2)[..., None]),
    "scaled": lambda: nifti(brain(2) * 2, scl_slope=0.5, scl_inter=0),
    "no ending": lambda: nifti(brain(2)) + b"trailing",
}


def large_bombs():
    """Yields (T2 file larger than its case when expanded, regular expression of the message)."""
    yield zeros_gz(100, nifti(brain())), "far more than the voxels"
    yield zeros_gz(100), "it has no NIfTI header"
    yield (zeros_gz(108, nifti(brain(), dim=dims(300, 300, 600))), "has shape 300x300x600, but")
    yield zeros_gz(1, nifti(brain(), dim=dims(640, 640, 640))), "has shape 640x640x640, but"
    yield nifti(np.resize(brain(), (96, 100, 90))), "has shape 96x100x90, but"


def hostile():
    """Yields (uploads, regular expression of the message) for every kind of fault."""
    for make, message in BAD_T2.values():
        yield upload(t2=make()), message
    for make, message in BAD_SEG.values():
        yield upload(seg=make()), message
    for data, message in large_bombs():
        yield upload(t2=data), message
    # Files on one grid are expanded to the size in their headers, unless it is too large.
    for size, message in ((300, "every voxel is 0; "), (500, "take 3.2 GB of memory; expected")):
        alike = zeros_gz(2 * size**3 // 1_000_000 + 1, nifti(0 * brain(), dim=dims(*[size] * 3)))
        yield upload(**dict.fromkeys(MODALITIES, alike), seg=None), message
    yield upload(t2=None), "no t2 image"
    yield (
        [(name.replace("Case_1_seg", "Case_1-seg"), data) for name, data in upload()],
        "does not say which label scheme",
    )
