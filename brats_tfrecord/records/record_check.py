"""Proves that one record is what a record must be, and what the manifest says of it."""

import zlib
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from brats_tfrecord import spec
from brats_tfrecord.preprocess import crop
from brats_tfrecord.records import example, manifest
from brats_tfrecord.records.example_proto import Example

UNREADABLE = (DecodeError, ValueError, KeyError, IndexError, TypeError, zlib.error)
"""What decoding bytes that are no record of ours can raise."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file, with which case (None: not one alone), and what."""

    file: str
    case_id: str | None
    what: str

    def __str__(self):
        return ": ".join(part for part in (self.file, self.case_id, self.what) if part)


def check_record(name, payload, row, recipe, label_scheme):
    """Finds what is wrong with a record whose checksum fits.

    Args:
        name: the file that it lies in.
        payload: bytes of the `tf.train.Example`.
        row: what `dataset.json` says of its case, a JSON value.
        recipe: the dataset's `Recipe`.
        label_scheme: name of the dataset's scheme; None: the record's own.

    Returns:
        list of `Problem`.
    """
    case_id = row["case_id"]
    try:
        features = Example.FromString(payload).features.feature
        missing = sorted(example.FEATURES.keys() ^ set(features))
        if missing:
            raise ValueError(f"features {', '.join(missing)} are missing or unknown")
        packed = np.frombuffer(features["mask"].bytes_list.value[0], np.uint8)
        stored = example.decode(payload, recipe.image_dtype)
        wrong = [*_names(stored, label_scheme), *_image(stored, recipe)]
        if _is_sound(stored.geometry):
            wrong += [*_place(stored, recipe, features), *_mask(stored, packed)]
        else:
            wrong.append(
                f"native geometry makes no sense: shape {stored.geometry.shape}, affine "
                f"{stored.geometry.affine.tolist()}"
            )
        facts = _facts(stored)
    except UNREADABLE as error:
        return [
            Problem(
                name, case_id, f"its record cannot be decoded ({type(error).__name__}: {error})"
            )
        ]
    return [Problem(name, case_id, what) for what in wrong] + [
        Problem(manifest.FILE_NAME, case_id, f"{key} is {row.get(key)}, its record holds {value}")
        for key, value in facts.items()
        if row.get(key) != value
    ]


def case_id_of(payload):
    """The case id that a payload holds, or None if it cannot be read."""
    try:
        value = Example.FromString(payload).features.feature["case_id"].bytes_list.value[0]
        return value.decode("utf-8")
    except UNREADABLE:
        return None


def differing(one, other):
    """Names of the features in which two payloads differ, sorted."""
    try:
        one, other = (Example.FromString(payload).features.feature for payload in (one, other))
    except UNREADABLE:
        return ["everything"]
    return sorted(
        name
        for name in set(one) | set(other)
        if name not in one or name not in other or one[name] != other[name]
    )


def _names(stored, label_scheme):
    if label_scheme and stored.label_scheme != label_scheme:
        yield f"label_scheme is {stored.label_scheme}; expected {label_scheme}"
    if stored.modalities != spec.MODALITIES:
        yield f"modalities are {stored.modalities}; expected {spec.MODALITIES}"


def _image(stored, recipe):
    expected = (*recipe.crop_shape, len(spec.MODALITIES))
    if stored.image.shape != expected:
        yield f"image has shape {stored.image.shape}; expected {expected}"
    elif not np.isfinite(stored.image).all():
        yield f"image holds {np.count_nonzero(~np.isfinite(stored.image))} NaN or infinite values"


def _is_sound(geometry):
    affine = geometry.affine
    return (
        np.isfinite(affine).all()
        and affine[3].tolist() == [0, 0, 0, 1]
        and abs(np.linalg.det(affine[:3, :3])) > 1e-6
        and min(geometry.shape) > 0
    )


def _place(stored, recipe, features):
    """Where the window lies in the grid, and the grid in the world."""
    geometry, grid = stored.geometry, stored.grid_shape
    orientation = features["native/orientation"].bytes_list.value[0].decode("utf-8")
    if orientation != "".join(geometry.orientation):
        yield f"native/orientation is {orientation}; its affine says {geometry.orientation}"
    if grid != geometry.lps_shape and not recipe.any_spacing:
        yield f"grid/shape is {grid}, native {geometry.lps_shape}, though nothing is resampled"
    if recipe.is_fixed(grid) and stored.crop_origin != recipe.crop_origin:
        yield f"crop/origin is {stored.crop_origin}; the recipe says {recipe.crop_origin}"
    if any(
        first >= n or first + size <= 0
        for first, size, n in zip(stored.crop_origin, recipe.crop_shape, grid)
    ):
        yield f"crop/origin {stored.crop_origin} puts the window outside the grid {grid}"


def _mask(stored, packed):
    """The mask byte by byte, and the tumour voxels outside the window."""
    classes = spec.LABEL_SCHEMES[stored.label_scheme].classes
    outside = stored.outside_index
    if stored.classes is None:
        if len(outside) or len(stored.outside_classes) or stored.resampled_truth is not None:
            yield "has no mask, but tumour outside the crop or a native mask"
        return
    bad = np.count_nonzero((packed == 0) | (packed & (packed - 1) != 0))
    if bad:
        yield f"mask: {bad} voxels have not exactly one bit set"
    if (packed >> classes).any():
        yield f"mask: bits above the {classes} classes of {stored.label_scheme}"
    inside = crop.overlap(stored.grid_shape, stored.crop_origin, stored.classes.shape)[0]
    if np.count_nonzero(stored.classes) != np.count_nonzero(stored.classes[inside]):
        yield "mask: tumour where the window lies outside the grid"
    window = outside - stored.crop_origin
    if (
        len(outside) != len(stored.outside_classes)
        or (outside < 0).any()
        or (outside >= stored.grid_shape).any()
        or ((window >= 0) & (window < stored.classes.shape)).all(axis=1).any()
        or len(np.unique(outside, axis=0)) != len(outside)
    ):
        yield "mask/outside_crop: voxels outside the grid, inside the window, or named twice"
    if ((stored.outside_classes < 1) | (stored.outside_classes >= classes)).any():
        yield "mask/outside_crop: classes that are no tumour"
    resampled = stored.grid_shape != stored.geometry.lps_shape
    if resampled != (stored.resampled_truth is not None):
        yield "mask/native is " + ("missing" if resampled else "there, though not resampled")
    elif resampled and (stored.resampled_truth >= classes).any():
        yield f"mask/native: classes above the {classes} of {stored.label_scheme}"


def _facts(stored):
    """What the manifest must say of the case, as far as its record tells."""
    classes = spec.LABEL_SCHEMES[stored.label_scheme].classes
    counts = []
    if stored.classes is not None:
        counts = (
            np.bincount(stored.classes.ravel(), minlength=256)
            + np.bincount(stored.outside_classes, minlength=256)
        )[:classes].tolist()
        counts[0] = int(np.prod(stored.grid_shape)) - sum(counts[1:])
    return {
        "patient_id": stored.patient_id,
        "labelled": stored.classes is not None,
        "class_voxels": counts,
        "tumour_voxels_lost": len(stored.outside_index),
    }
