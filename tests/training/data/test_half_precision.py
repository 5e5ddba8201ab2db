import numpy as np

from brats_tfrecord.training.data import half_precision


def test_every_float16_converts_to_its_float32():
    float16 = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(64, 32, 32)
    result = half_precision.to_float32(float16)
    np.testing.assert_array_equal(result, float16.astype(np.float32))


def test_float32_is_copied():
    values = np.ones((2, 3), np.float32)
    half_precision.to_float32(values)[:] = 0
    assert values.all()
