"""Label values, canonical classes and packed masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from brats_tfrecord import spec
from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess import masks


@pytest.mark.parametrize(
    "name, values, classes",
    [
        ("brats2020", [0, 1, 2, 4], [spec.BACKGROUND, spec.NCR, spec.ED, spec.ET]),
        ("brats2023", [0, 1, 2, 3], [spec.BACKGROUND, spec.NCR, spec.ED, spec.ET]),
        ("brats2024", [0, 1, 2, 3, 4], [spec.BACKGROUND, spec.NCR, spec.ED, spec.ET, spec.RC]),
        ("msd", [0, 1, 2, 3], [spec.BACKGROUND, spec.ED, spec.NCR, spec.ET]),
    ],
)
def test_label_values_are_mapped_by_the_scheme_of_the_release(name, values, classes):
    scheme = spec.LABEL_SCHEMES[name]
    converted = masks.to_classes(np.array(values, np.int16), scheme, "A")
    np.testing.assert_array_equal(converted, classes)
    np.testing.assert_array_equal(masks.to_file_values(converted, scheme), values)


def test_unknown_label_values_are_named():
    with pytest.raises(
        CaseError, match="A_001: the mask holds label 3, 7; scheme brats2020 knows 0, 1, 2, 4"
    ):
        masks.to_classes(np.array([[[0, 3, 7]]]), spec.LABEL_SCHEMES["brats2020"], "A_001")


@given(
    classes=npst.arrays(
        np.uint8, npst.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.integers(0, 4)
    )
)
def test_packed_bits_are_the_one_hot_channels(classes):
    one_hot = masks.one_hot(classes, 5)
    assert one_hot.shape == (*classes.shape, 5) and (one_hot.sum(axis=-1) == 1).all()
    packed = masks.pack_classes(classes)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(np.packbits(one_hot, axis=-1, bitorder="little")[..., 0], packed)
    np.testing.assert_array_equal(masks.unpack_classes(packed), classes)


def test_bit_c_is_set_for_class_c():
    np.testing.assert_array_equal(
        masks.pack_classes(np.array([[[0, 1, 2, 3]]], np.uint8)), [[[1, 2, 4, 8]]]
    )
