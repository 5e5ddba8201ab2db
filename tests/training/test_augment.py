import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.training import augment

SHAPE, PATCH = (9, 7, 5), (4, 3, 5)


def indices():
    """Each voxel holds its own coordinates: [9, 7, 5, 3]."""
    return tf.constant(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1))


def mask_with_tumour_at(*voxels):
    packed = np.full(SHAPE, 1 << spec.BACKGROUND, np.uint8)
    for n, voxel in enumerate(voxels):
        packed[voxel] = 1 << (spec.NCR + n % 3)
    return tf.constant(packed)


@pytest.mark.parametrize("packed, fraction", [
    (mask_with_tumour_at((0, 0, 0)), 0.0),
    (mask_with_tumour_at(), 1.0),  # nothing to centre on
])
def test_every_place_and_flip_is_drawn_and_none_outside(packed, fraction):
    drawn = [augment.draw([7, n], packed, PATCH, fraction) for n in range(120)]
    origins = np.stack([one.origin for one in drawn])
    for axis, last in enumerate(n - p for n, p in zip(SHAPE, PATCH)):
        assert set(origins[:, axis]) == set(range(last + 1))
    flips = np.stack([one.flips for one in drawn])
    assert (flips.mean(axis=0) > 0.3).all() and (flips.mean(axis=0) < 0.7).all()


def test_patches_are_centred_on_tumour_voxels_as_far_as_the_crop_allows():
    packed = mask_with_tumour_at((4, 3, 2), (8, 0, 4), (0, 6, 0))
    # Voxel minus half the patch, moved inside: (4-2, 3-1, 0), (9-4, 0, 0), (0, 7-3, 0).
    drawn = {tuple(augment.draw([1, n], packed, PATCH, 1.0).origin.numpy()) for n in range(40)}
    assert drawn == {(2, 2, 0), (5, 0, 0), (0, 4, 0)}


def test_the_asked_share_of_patches_is_centred():
    packed = mask_with_tumour_at((8, 6, 4))
    draws = tf.data.Dataset.range(400).map(
        lambda n: augment.draw([2, n], packed, (1, 1, 1), 0.25).origin)
    centred = [np.array_equal(origin, [8, 6, 4]) for origin in draws]
    assert 0.2 < np.mean(centred) < 0.3


def test_a_draw_is_a_function_of_its_seed():
    packed = mask_with_tumour_at()
    first, again, other = (augment.draw([3, n], packed, (1, 1, 1), 0) for n in (0, 0, 1))
    np.testing.assert_array_equal(first.origin, again.origin)
    assert not np.array_equal(first.origin, other.origin)


def test_cut_takes_the_voxels_from_the_origin_on():
    drawn = augment.Augmentation(tf.constant([2, 1, 0]), tf.constant([False] * 3))
    patch = augment.cut(indices(), drawn, PATCH).numpy()
    assert patch.shape == (*PATCH, 3)
    np.testing.assert_array_equal(patch[0, 0, 0], [2, 1, 0])
    np.testing.assert_array_equal(patch[-1, -1, -1], [5, 3, 4])
    assert augment.cut(indices()[..., 0], drawn, PATCH).shape == PATCH


def test_flip_reverses_the_drawn_axes_only():
    drawn = augment.Augmentation(tf.constant([0, 0, 0]), tf.constant([True, False, True]))
    flipped = augment.flip(indices(), drawn).numpy()
    np.testing.assert_array_equal(flipped[0, 0, 0], [8, 0, 4])
    np.testing.assert_array_equal(flipped, indices().numpy()[::-1, :, ::-1])
