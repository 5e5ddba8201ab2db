"""One case as one `tf.train.Example`: a single table of features drives encode and parse.

All arrays are raw little-endian bytes in C order. `image` is [X, Y, Z, C] with all four
modalities; `mask` is the one-hot mask packed to one byte a voxel (`preprocess.masks.pack`), empty
for an unlabelled case. `grid/shape` is the LPS grid before the crop: the native one, or the
resampled one, and then `mask/native` keeps the truth as it was. Indices and origin are LPS voxels
of that grid; `native/*` is how the file lay. The graph's side is `records.graph`.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.preprocess import crop, masks
from brats_tfrecord.records.example_proto import Example

TEXT, INTS = "text", "ints"

FEATURES = {
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
}
"""Feature name -> how its value is stored: text, int64 list, or raw bytes of a dtype."""


@dataclass(frozen=True)
class StoredCase:
    """A record as NumPy arrays; the inverse of `encode`.

    Attributes:
        case_id, patient_id, label_scheme, modalities: as in `cohort.nifti.RawCase`.
        image: [X, Y, Z, C] in the stored dtype.
        classes: uint8 [X, Y, Z] canonical classes within the window, or None.
        outside_index, outside_classes: tumour voxels that the window cut off.
        crop_origin: the window's first voxel in the LPS grid; negative where it leaves the grid.
        grid_shape: (X, Y, Z) of the LPS grid before the crop.
        resampled_truth: uint8 [X, Y, Z] native LPS classes of a resampled case, else None.
        geometry: how the case's files lay.
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

    def native_classes(self):
        """The whole truth: uint8 [X, Y, Z] of the native LPS grid; None if unlabelled."""
        return self.grid_classes() if self.resampled_truth is None else self.resampled_truth

    def grid_classes(self):
        """The truth on the uncropped grid, uint8 [*grid_shape]; None if unlabelled."""
        if self.classes is None:
            return None
        whole = crop.uncrop(self.classes, self.crop_origin, self.grid_shape)
        whole[tuple(self.outside_index.T)] = self.outside_classes
        return whole


def encode(raw, preprocessed, recipe):
    """Serialises a case, the same bytes for the same values.

    Args:
        raw: `cohort.nifti.RawCase` that it came from.
        preprocessed: `preprocess.preprocessed.PreprocessedCase`.
        recipe: the `Recipe` that made it.

    Returns:
        bytes of a `tf.train.Example`.
    """
    labelled = preprocessed.classes is not None
    native = preprocessed.native_classes
    geometry = raw.geometry
    values = {
        "case_id": raw.case_id,
        "patient_id": raw.patient_id,
        "label_scheme": raw.label_scheme,
        "modalities": ",".join(raw.modalities),
        "image": preprocessed.image,
        "image/shape": preprocessed.image.shape,
        "mask": masks.pack_classes(preprocessed.classes) if labelled else np.zeros(0, np.uint8),
        "mask/outside_crop/index": preprocessed.outside_index,
        "mask/outside_crop/class": preprocessed.outside_classes,
        "mask/native": np.zeros(0, np.uint8)
        if native is None
        else np.frombuffer(zlib.compress(np.ascontiguousarray(native), 6), np.uint8),
        "crop/origin": preprocessed.crop_origin,
        "grid/shape": preprocessed.grid_shape,
        "native/shape": geometry.shape,
        "native/affine": geometry.affine,
        "native/orientation": "".join(geometry.orientation),
        "native/codes": (geometry.xyzt_units, geometry.qform_code, geometry.sform_code),
    }
    example = Example()
    for name, kind in FEATURES.items():
        _set(example.features.feature[name], values[name], kind)
    return example.SerializeToString(deterministic=True)


def decode(serialized, image_dtype):
    """The whole record as a `StoredCase`; `serialized` is bytes."""
    example = Example.FromString(serialized).features.feature
    values = {name: _value(example[name], kind) for name, kind in FEATURES.items()}
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
    )


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
