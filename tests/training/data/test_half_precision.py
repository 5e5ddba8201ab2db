import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from brats_tfrecord.training.data import half_precision

FINITE = st.floats(-65535, 65535, width=32)


def test_every_float16_converts_to_its_float32_and_back():
    float16 = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(64, 32, 32)
    float32 = half_precision.to_float32(float16)
    np.testing.assert_array_equal(float32, float16.astype(np.float32))
    finite = np.isfinite(float16)
    back = half_precision.to_float16(float32)
    np.testing.assert_array_equal(back[finite].view(np.uint16), float16[finite].view(np.uint16))


def test_float32_is_copied():
    values = np.ones((2, 3), np.float32)
    copy = half_precision.to_float32(values)
    copy[:] = 0
    assert values.all()


@pytest.mark.parametrize(
    "value, rounded",
    [
        (1 + 2**-11, 1),  # half way between 1 and the next float16: to the even one
        (1 + 3 * 2**-11, 1 + 2**-9),
        (-(1 + 2**-11 + 2**-20), -(1 + 2**-10)),
        (2**-24, 2**-24),  # the smallest float16
        (65519, 65504),  # the largest float16
        (65520, np.inf),
        (-0.0, -0.0),
    ],
)
def test_rounding_is_to_the_nearest_and_ties_to_even(value, rounded):
    result = half_precision.to_float16(np.array([value], np.float32))
    assert result[0] == rounded and np.signbit(result[0]) == np.signbit(rounded)


@given(stn.arrays(np.float32, (3, 2, 4), elements=FINITE))
def test_values_are_rounded_as_numpy_rounds_them(values):
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    result = half_precision.to_float16(values)
    np.testing.assert_array_equal(result.view(np.uint16), expected.view(np.uint16))
