import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from brats_tfrecord.training.data import sampling

BOX = (7, 6, 5)


def box_of(channels=2, dtype=np.float32, shape=BOX):
    """A random box [A, B, C, K] and a mask in which every class occurs."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (*shape, channels)).astype(np.float16).astype(dtype)
    return image, np.left_shift(1, rng.integers(0, 4, shape)).astype(np.uint8)


def sample(image_box, mask_box, position, channels=None, dtype=np.float16):
    """Samples at positions [3, X, Y, Z]."""
    image = np.empty((*position.shape[1:], channels or image_box.shape[3]), dtype)
    mask = np.empty(position.shape[1:], np.uint8)

    def positions(block, out):
        out[...] = position[:, block]

    sampling.sample(image_box, mask_box, positions, image, mask)
    return image, mask


def at(*points):
    """Positions [3, N, 1, 1] of N points (x, y, z)."""
    return np.array(points, float).T[:, :, None, None]


def test_positions_of_voxels_give_the_voxels():
    image_box, mask_box = box_of()
    image, mask = sample(image_box, mask_box, np.indices(BOX))
    np.testing.assert_array_equal(image, image_box)
    np.testing.assert_array_equal(mask, mask_box)


def test_between_voxels_the_image_is_trilinear_and_labels_are_those_of_the_nearest():
    image_box, mask_box = np.zeros((2, 2, 2, 1), np.float32), np.ones((2, 2, 2), np.uint8)
    image_box[1, 0, 1], mask_box[1, 0, 1] = 8, 4
    image, mask = sample(image_box, mask_box, at((0.5, 0.25, 0.75), (0.75, 0.4, 1), (1, 0, 1)))
    # 8 times the weight of that corner: 1/2 * 3/4 * 3/4, then 3/4 * 3/5 * 1.
    np.testing.assert_allclose(image.ravel(), [2.25, 3.6, 8], rtol=1e-3)
    np.testing.assert_array_equal(mask.ravel(), [4, 4, 4])
    image, mask = sample(image_box, mask_box, at((0.4, 0, 1), (1, 0.6, 1)))
    np.testing.assert_array_equal(mask.ravel(), [1, 1])


def test_the_border_is_repeated_outside_of_the_box():
    image_box, mask_box = box_of()
    image, mask = sample(image_box, mask_box, at((-3, 2, 1), (9, -0.6, 99), (6, 5, 4)))
    nearest = (0, 2, 1), (6, 0, 4), (6, 5, 4)
    np.testing.assert_array_equal(image[:, 0, 0], [image_box[voxel] for voxel in nearest])
    np.testing.assert_array_equal(mask[:, 0, 0], [mask_box[voxel] for voxel in nearest])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_of_a_single_voxel_is_constant(axis):
    shape = tuple(1 if n == axis else 3 for n in range(3))
    image_box, mask_box = box_of(shape=shape)
    image, mask = sample(image_box, mask_box, np.indices((3, 3, 3)) * 1.0)
    np.testing.assert_array_equal(image, np.broadcast_to(image_box, image.shape))
    np.testing.assert_array_equal(mask, np.broadcast_to(mask_box, mask.shape))


def test_channels_that_the_image_does_not_have_are_ignored():
    image_box, mask_box = box_of(channels=4)
    image_box[..., 3] = np.nan
    image, _ = sample(image_box, mask_box, np.indices(BOX), channels=3)
    np.testing.assert_array_equal(image, image_box[..., :3])


@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.sampled_from([1, 2, 3, 4]),
    block=st.integers(1, 200),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_in_float64_samples_are_those_of_scipy_to_the_last_bit(seed, channels, block, dtype):
    """Runs that an earlier version began, which used SciPy, see the same patches."""
    image_box, mask_box = box_of(channels, np.float64)
    rng = np.random.default_rng(seed)
    matrix, offset, shape = rng.normal(0, 0.7, (3, 3)), rng.uniform(-1, 6, 3), (5, 4, 6)
    position = np.tensordot(matrix, np.indices(shape), 1) + offset[:, None, None, None]
    block, sampling.BLOCK = sampling.BLOCK, block
    try:
        image, mask = sample(image_box, mask_box, position, dtype=dtype)
    finally:
        sampling.BLOCK = block
    options = {"output_shape": shape, "mode": "nearest", "prefilter": False}
    for channel in range(channels):
        voxels = image_box[..., channel].astype(np.float32)
        expected = ndimage.affine_transform(voxels, matrix, offset, order=1, **options)
        np.testing.assert_array_equal(image[..., channel], expected.astype(dtype))
    expected = ndimage.affine_transform(mask_box, matrix, offset, order=0, **options)
    np.testing.assert_array_equal(mask, expected)


def test_in_float32_samples_differ_by_a_rounding_at_most():
    position = np.random.default_rng(1).uniform(-1, 7, (3, 9, 8, 4))
    image_box, mask_box = box_of()
    image, _ = sample(image_box, mask_box, position, dtype=np.float32)
    exact, _ = sample(image_box.astype(np.float64), mask_box, position, dtype=np.float32)
    np.testing.assert_allclose(image, exact, atol=5e-6)
