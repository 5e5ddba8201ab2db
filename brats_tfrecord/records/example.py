"""Encodes a case as a `tf.train.Example` and decodes it, both from one table of features.

All arrays are raw little-endian bytes in C order. `image` is [X, Y, Z, C] with all four
modalities; `mask` is the one-hot mask packed to one byte per voxel
(`preprocess.masks.pack_classes`), empty for an unlabelled case. `grid/shape` is the LPS grid before
the crop. If the case was resampled, it differs from the native grid, and `mask/native` holds the
mask on the native grid. Only the record of a case that lacks modalities, whose channels are 0, has
the feature `missing`. Indices and origin are LPS voxels of the grid before the crop; `native/*`
describes the orientation and position of the input files.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.preprocess import crop, masks
from brats_tfrecord.preprocess.preprocessed import PreprocessedCase
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records.example_proto import Example

TEXT, INTS = "text", "ints"

FEATURES: dict[str, Any] = {
    "case_id": TEXT,
    "patient_id": TEXT,
    "label_scheme": TEXT,
    "modalities": TEXT,  # comma-separated, in channel order
    "image": None,  # raw bytes in the recipe's image dtype
    "image/shape": INTS,
    "mask": np.uint8,
    "mask/outside_crop/index": np.int32,  # [N, 3]
    "mask/outside_crop/class": np.uint8,  # [N]
    "mask/native": None,  # zlib of uint8 LPS classes; empty unless the case was resampled
    "crop/origin": INTS,
    "grid/shape": INTS,
    "native/shape": INTS,
    "native/affine": np.float64,  # [4, 4]
    "native/orientation": TEXT,
    "native/codes": INTS,  # xyzt_units, qform_code, sform_code
    "missing": TEXT,  # comma-separated
}
"""Feature name -> stored as text, int64 list, raw bytes of a dtype, or other bytes (None)."""

OPTIONAL = {"missing"}
"""Features that a record has only if they are not empty."""

VOXEL_FEATURES = ("image", "mask")
"""Features that are read box by box, without the rest of the record."""


@dataclass(frozen=True)
class StoredCase:
    """A record as NumPy arrays; the inverse of `encode`.

    Attributes:
        case_id, patient_id, label_scheme, modalities: as in `cohort.nifti.RawCase`.
        image: [X, Y, Z, C] in the stored dtype.
        classes: uint8 [X, Y, Z] canonical classes within the window; None if unlabelled.
        outside_index: int32 [N, 3], tumour voxels outside the window.
        outside_classes: uint8 [N], their classes.
        crop_origin: first voxel of the window in the LPS grid; negative where the window leaves it.
        grid_shape: (X, Y, Z) of the LPS grid before the crop.
        resampled_truth: uint8 [X, Y, Z] native LPS classes of a resampled case; None otherwise.
        geometry: geometry of the input files.
        missing: names of those `modalities` that the case lacks; their channels are 0.
    """

    case_id: str
    patient_id: str
    label_scheme: str
    modalities: tuple[str, ...]
    image: np.ndarray
    classes: np.ndarray | None
    outside_index: np.ndarray
    outside_classes: np.ndarray
    crop_origin: tuple[int, int, int]
    grid_shape: tuple[int, int, int]
    resampled_truth: np.ndarray | None
    geometry: Geometry
    missing: tuple[str, ...] = ()

    def without(self, modalities: Collection[str]) -> StoredCase:
        """Returns a copy that lacks these modalities, too; its window stays where it is."""
        image = self.image.copy()
        image[..., [name in modalities for name in self.modalities]] = 0
        missing = {*self.missing, *modalities}
        return dataclasses.replace(
            self, image=image, missing=tuple(name for name in self.modalities if name in missing)
        )

    def native_classes(self) -> np.ndarray | None:
        """Returns the whole mask, uint8 [X, Y, Z] of the native LPS grid; None if unlabelled."""
        return self.grid_classes() if self.resampled_truth is None else self.resampled_truth

    def grid_classes(self) -> np.ndarray | None:
        """Returns the whole mask on the grid before the crop, uint8; None if unlabelled."""
        if self.classes is None:
            return None
        whole = crop.uncrop(self.classes, self.crop_origin, self.grid_shape)
        whole[tuple(self.outside_index.T)] = self.outside_classes
        return whole


def encode(raw: RawCase, preprocessed: PreprocessedCase, recipe: Recipe) -> bytes:
    """Serialises a case as a `tf.train.Example`; equal values give equal bytes.

    Args:
        raw: the case as it was read.
        preprocessed: `raw` after preprocessing.
        recipe: the recipe of the preprocessing.
    """
    classes, native = preprocessed.classes, preprocessed.native_classes
    geometry = raw.geometry
    values = {
        "case_id": raw.case_id,
        "patient_id": raw.patient_id,
        "label_scheme": raw.label_scheme,
        "modalities": ",".join(raw.modalities),
        "image": preprocessed.image,
        "image/shape": preprocessed.image.shape,
        "mask": np.zeros(0, np.uint8) if classes is None else masks.pack_classes(classes),
        "mask/outside_crop/index": preprocessed.outside_index,
        "mask/outside_crop/class": preprocessed.outside_classes,
        "mask/native": np.zeros(0, np.uint8)
        if native is None
        else np.frombuffer(zlib.compress(native.tobytes(), 6), np.uint8),
        "crop/origin": preprocessed.crop_origin,
        "grid/shape": preprocessed.grid_shape,
        "native/shape": geometry.shape,
        "native/affine": geometry.affine,
        "native/orientation": "".join(geometry.orientation),
        "native/codes": (geometry.xyzt_units, geometry.qform_code, geometry.sform_code),
        "missing": ",".join(raw.missing),
    }
    example = Example()
    for name, kind in FEATURES.items():
        if name not in OPTIONAL or values[name]:
            _set(example.features.feature[name], values[name], kind)
    return example.SerializeToString(deterministic=True)


def decode(serialized: bytes, image_dtype: str) -> StoredCase:
    """Decodes a whole record, whose images have the dtype `image_dtype`."""
    example = Example.FromString(serialized).features.feature
    values = {
        name: _value(example[name], kind)
        for name, kind in FEATURES.items()
        if name in example or name not in OPTIONAL
    }
    shape = values["image/shape"]
    units, qform_code, sform_code = values["native/codes"]
    mask, native = values["mask"], values["mask/native"]
    geometry = Geometry(
        values["native/shape"], values["native/affine"].reshape(4, 4), units, qform_code, sform_code
    )
    return StoredCase(
        case_id=values["case_id"],
        patient_id=values["patient_id"],
        label_scheme=values["label_scheme"],
        modalities=tuple(values["modalities"].split(",")),
        image=np.frombuffer(values["image"], np.dtype(image_dtype)).reshape(shape),
        classes=masks.unpack_classes(mask.reshape(shape[:3])) if mask.size else None,
        outside_index=values["mask/outside_crop/index"].reshape(-1, 3),
        outside_classes=values["mask/outside_crop/class"],
        crop_origin=values["crop/origin"],
        grid_shape=values["grid/shape"],
        resampled_truth=np.frombuffer(zlib.decompress(native), np.uint8).reshape(geometry.lps_shape)
        if native
        else None,
        geometry=geometry,
        missing=tuple(values["missing"].split(",")) if "missing" in values else (),
    )


def voxel_offsets(payload: bytes) -> dict[str, int]:
    """Finds where the data of `VOXEL_FEATURES` begin in a record.

    Returns:
        feature name -> byte offset in `payload`; the bytes there are those of the decoded feature.

    Raises:
        ValueError: `payload` is not a record.
    """
    features = Example.FromString(payload).features.feature
    offsets = {}
    for name in VOXEL_FEATURES:
        [data] = features[name].bytes_list.value
        before, offset = bytes_before(name, len(data)), 0
        while not offset or not payload.startswith(data, offset):
            offset = payload.index(before, offset) + len(before)
        offsets[name] = offset
    return offsets


def bytes_before(name: str, size: int) -> bytes:
    """Returns the bytes of a record that precede `size` bytes of data of the feature `name`.

    They hold the name and the size. With them a reader that knows an offset checks that the data
    of the feature begin there.
    """
    # Serialising a feature of this size would give them too, but takes 0.2 s for an image.
    key = name.encode("utf-8")
    header = b"\x0a" + _varint(size)  # BytesList.value
    header = b"\x0a" + _varint(len(header) + size) + header  # Feature.bytes_list
    header = b"\x12" + _varint(len(header) + size) + header  # FeatureEntry.value
    header = b"\x0a" + _varint(len(key)) + key + header  # FeatureEntry.key
    return b"\x0a" + _varint(len(header) + size) + header  # Features.feature


def is_of_case(payload: bytes, case_id: str) -> bool:
    """Whether `payload` holds the feature `case_id` with this value; does not decode it."""
    value = case_id.encode("utf-8")
    return bytes_before("case_id", len(value)) + value in payload


def _varint(number):
    """Encodes a number as protocol buffers do: 7 bits per byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _set(feature, value, kind):
    if kind is INTS:
        feature.int64_list.value.extend(int(v) for v in value)
    elif kind is TEXT:
        feature.bytes_list.value.append(value.encode("utf-8"))
    else:
        dtype = np.dtype(kind or value.dtype).newbyteorder("<")
        feature.bytes_list.value.append(np.ascontiguousarray(value, dtype).tobytes())


def _value(feature, kind):
    if kind is INTS:
        return tuple(feature.int64_list.value)
    data = feature.bytes_list.value[0]
    if kind is TEXT:
        return data.decode("utf-8")
    return data if kind is None else np.frombuffer(data, kind)
