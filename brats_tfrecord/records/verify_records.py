"""Checks a record of a finished dataset against its entry in the manifest."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from brats_tfrecord import spec
from brats_tfrecord.preprocess import crop
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example, manifest
from brats_tfrecord.records.example_proto import Example
from brats_tfrecord.records.verify_manifest import Problem

UNREADABLE = (DecodeError, ValueError, KeyError, IndexError, TypeError, zlib.error)
"""The exceptions that decoding other bytes than a record raises."""


def verify_record(
    file: str, payload: bytes, row: dict[str, Any], recipe: Recipe, label_scheme: str | None
) -> Iterator[Problem]:
    """Yields the problems of a record whose checksum is right.

    Args:
        file: name of its shard.
        payload: the serialised `tf.train.Example`.
        row: the entry of its case in `dataset.json`, a JSON value.
        recipe: the recipe of the dataset.
        label_scheme: name of the label scheme of the dataset; None accepts that of the record.
    """
    case_id = row["case_id"]
    try:
        features = Example.FromString(payload).features.feature
        odd = sorted((example.FEATURES.keys() ^ set(features)) - example.OPTIONAL)
        if odd:
            raise ValueError(f"features {', '.join(odd)} are missing or unknown")
        packed = np.frombuffer(features["mask"].bytes_list.value[0], np.uint8)
        stored = example.decode(payload, recipe.image_dtype)
        texts = [*_check_names(stored, label_scheme), *_check_image(stored, recipe)]
        if _is_sound(stored.geometry):
            texts += [*_check_position(stored, recipe, features), *_check_mask(stored, packed)]
        else:
            texts.append(
                f"native geometry makes no sense: shape {stored.geometry.shape}, affine "
                f"{stored.geometry.affine.tolist()}"
            )
        facts = _facts(stored, payload)
    except UNREADABLE as error:
        text = f"its record cannot be decoded ({type(error).__name__}: {error})"
        yield Problem(file, case_id, text)
        return
    yield from (Problem(file, case_id, text) for text in texts)
    for key, value in facts.items():
        if row.get(key, [] if key in example.OPTIONAL else None) != value:
            text = f"{key} is {row.get(key)}, its record holds {value}"
            yield Problem(manifest.FILE_NAME, case_id, text)


def case_id_of(payload: bytes) -> str | None:
    """Returns the case id in a payload; None if it cannot be decoded."""
    try:
        value = Example.FromString(payload).features.feature["case_id"].bytes_list.value[0]
        return value.decode("utf-8")
    except UNREADABLE:
        return None


def differing_features(payload: bytes, expected: bytes) -> list[str]:
    """Lists the names of the features in which two payloads differ, sorted."""
    try:
        stored, fresh = (Example.FromString(data).features.feature for data in (payload, expected))
    except UNREADABLE:
        return ["everything"]
    return sorted(
        name
        for name in set(stored) | set(fresh)
        if name not in stored or name not in fresh or stored[name] != fresh[name]
    )


def _check_names(stored, label_scheme):
    if label_scheme and stored.label_scheme != label_scheme:
        yield f"label_scheme is {stored.label_scheme}; expected {label_scheme}"
    if stored.modalities != spec.MODALITIES:
        yield f"modalities are {stored.modalities}; expected {spec.MODALITIES}"


def _check_image(stored, recipe):
    expected = (*recipe.crop_shape, len(spec.MODALITIES))
    if stored.image.shape != expected:
        yield f"image has shape {stored.image.shape}; expected {expected}"
    elif not np.isfinite(stored.image).all():
        yield f"image holds {np.count_nonzero(~np.isfinite(stored.image))} NaN or infinite values"
    else:
        for name in set(stored.missing) & set(stored.modalities):
            if stored.image[..., stored.modalities.index(name)].any():
                yield f"{name} is missing, but its channel is not 0"


def _is_sound(geometry):
    affine = geometry.affine
    return (
        np.isfinite(affine).all()
        and affine[3].tolist() == [0, 0, 0, 1]
        and abs(np.linalg.det(affine[:3, :3])) > 1e-6
        and min(geometry.shape) > 0
    )


def _check_position(stored, recipe, features):
    """Checks the position of the window in the grid, and of the grid in the scanner."""
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


def _check_mask(stored, packed):
    """Checks the bytes of the mask, and the tumour voxels outside the window."""
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
        yield "mask/outside_crop: classes that are not tumour"
    resampled = stored.grid_shape != stored.geometry.lps_shape
    if resampled != (stored.resampled_truth is not None):
        yield "mask/native is " + ("missing" if resampled else "present, though not resampled")
    elif resampled and (stored.resampled_truth >= classes).any():
        yield f"mask/native: classes above the {classes} of {stored.label_scheme}"


def _facts(stored, payload):
    """Returns the fields of the manifest that the record determines."""
    classes = spec.LABEL_SCHEMES[stored.label_scheme].classes
    counts = []
    if stored.classes is not None:
        counts = (
            np.bincount(stored.classes.ravel(), minlength=256)
            + np.bincount(stored.outside_classes, minlength=256)
        )[:classes].tolist()
        counts[0] = int(np.prod(stored.grid_shape)) - sum(counts[1:])
    offsets = example.voxel_offsets(payload)
    return {
        "record_bytes": len(payload),
        "image_offset": offsets["image"],
        "mask_offset": offsets["mask"],
        "patient_id": stored.patient_id,
        "labelled": stored.classes is not None,
        "class_voxels": counts,
        "tumour_voxels_lost": len(stored.outside_index),
        "missing": list(stored.missing),
    }
