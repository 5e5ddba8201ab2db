"""One case as one `tf.train.Example`: a single table of features drives encode and parse.

All arrays are raw little-endian bytes in C order. `image` is [X, Y, Z, C] with all four
modalities; `mask` is the one-hot mask packed to one byte a voxel (`preprocess.masks.pack`), empty
for an unlabelled case. Indices and origin are LPS, before the crop; `native/*` is how the file lay.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord.cohort.nifti import Geometry
from brats_tfrecord.preprocess import crop, masks

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
    "crop/origin": INTS,
    "native/shape": INTS,
    "native/affine": np.float64,  # [4, 4]
    "native/orientation": TEXT,
    "native/codes": INTS,  # xyzt_units, qform_code, sform_code
}
"""Feature name -> how its value is stored: text, int64 list, or raw bytes of a dtype."""

_INT_LENGTHS = {"image/shape": 4, "crop/origin": 3, "native/shape": 3, "native/codes": 3}


@dataclass(frozen=True)
class StoredCase:
    """A record as NumPy arrays; the inverse of `encode`.

    Attributes:
        case_id, patient_id, label_scheme, modalities: as in `cohort.nifti.RawCase`.
        image: [X, Y, Z, C] in the stored dtype.
        classes: uint8 [X, Y, Z] canonical classes within the window, or None.
        outside_index, outside_classes: tumour voxels that the window cut off.
        crop_origin: LPS voxel of the window's first voxel.
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
    geometry: Geometry

    def native_classes(self):
        """The whole truth: uint8 [X, Y, Z] of the uncropped LPS grid; None if unlabelled."""
        if self.classes is None:
            return None
        whole = crop.uncrop(self.classes, self.crop_origin, self.geometry.lps_shape)
        whole[tuple(self.outside_index.T)] = self.outside_classes
        return whole


def encode(raw, preprocessed, recipe):
    """Serialises a case, the same bytes for the same values.

    Args:
        raw: `cohort.nifti.RawCase` that it came from.
        preprocessed: `preprocess.recipe.Preprocessed`.
        recipe: the `Recipe` that made it.

    Returns:
        bytes of a `tf.train.Example`.
    """
    labelled = preprocessed.classes is not None
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
        "crop/origin": recipe.crop_origin,
        "native/shape": geometry.shape,
        "native/affine": geometry.affine,
        "native/orientation": "".join(geometry.orientation),
        "native/codes": (geometry.xyzt_units, geometry.qform_code, geometry.sform_code),
    }
    features = {name: _feature(values[name], kind) for name, kind in FEATURES.items()}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def parse(serialized, image_dtype):
    """Parses what training needs, inside a TensorFlow graph.

    Args:
        serialized: string scalar.
        image_dtype: the recipe's `image_dtype`, known before any record is read.

    Returns:
        dict of `case_id` string, `image` [X, Y, Z, C] of image_dtype, `mask` uint8 [X, Y, Z]
        packed (zeros if unlabelled) and `labelled` bool.
    """
    names = ("case_id", "image", "image/shape", "mask")
    found = tf.io.parse_single_example(serialized, {name: _description(name) for name in names})
    shape = found["image/shape"]
    labelled = tf.strings.length(found["mask"]) > 0
    mask = tf.cond(
        labelled,
        lambda: tf.reshape(tf.io.decode_raw(found["mask"], tf.uint8), shape[:3]),
        lambda: tf.zeros(shape[:3], tf.uint8),
    )
    image = tf.reshape(tf.io.decode_raw(found["image"], tf.as_dtype(image_dtype)), shape)
    image.set_shape([None, None, None, None])
    mask.set_shape([None, None, None])
    return {"case_id": found["case_id"], "image": image, "mask": mask, "labelled": labelled}


def unpack(packed, classes, dtype=tf.float32):
    """`preprocess.masks.unpack` in a graph: uint8 [...] to one-hot [..., classes] of `dtype`."""
    bits = tf.constant([1 << class_id for class_id in range(classes)], tf.uint8)
    return tf.cast(tf.bitwise.bitwise_and(packed[..., None], bits) > 0, dtype)


def decode(serialized, image_dtype):
    """The whole record as a `StoredCase`; `serialized` is bytes."""
    example = tf.train.Example.FromString(serialized).features.feature
    values = {name: _value(example[name], kind) for name, kind in FEATURES.items()}
    shape = values["image/shape"]
    units, qform_code, sform_code = values["native/codes"]
    mask = values["mask"]
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
        geometry=Geometry(values["native/shape"], values["native/affine"].reshape(4, 4),
                          units, qform_code, sform_code),
    )


def _feature(value, kind):
    if kind is INTS:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(v) for v in value]))
    if kind is TEXT:
        data = value.encode("utf-8")
    else:
        dtype = np.dtype(kind or value.dtype).newbyteorder("<")
        data = np.ascontiguousarray(value, dtype).tobytes()
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))


def _description(name):
    if FEATURES[name] is INTS:
        return tf.io.FixedLenFeature([_INT_LENGTHS[name]], tf.int64)
    return tf.io.FixedLenFeature([], tf.string)


def _value(feature, kind):
    if kind is INTS:
        return tuple(int(v) for v in feature.int64_list.value)
    data = feature.bytes_list.value[0]
    if kind is TEXT:
        return data.decode("utf-8")
    return data if kind is None else np.frombuffer(data, kind)
