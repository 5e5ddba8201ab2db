import numpy as np
import pytest

from brats_tfrecord import brain
from brats_tfrecord.training.data import augment, augment_space

CROP = (9, 7, 5)


class Reader:
    """A reader of one crop whose image voxels hold their coordinates."""

    image_dtype = np.dtype(np.float16)
    crop_shape = CROP

    def __init__(self):
        self.image = np.indices(CROP).transpose(1, 2, 3, 0).astype(np.float16)
        self.mask = np.left_shift(1, np.indices(CROP).sum(axis=0) % 4).astype(np.uint8)
        self.voxels_read = 0

    def read_image(self, case, origin, into):
        self.voxels_read = int(np.prod(into.shape[:3]))
        into[...] = self._box(self.image, origin, into)

    def read_mask(self, case, origin, into):
        into[...] = self._box(self.mask, origin, into)

    def _box(self, array, origin, into):
        assert (np.array(origin) >= 0).all()
        box = array[tuple(slice(o, o + n) for o, n in zip(origin, into.shape))]
        assert box.shape == into.shape
        return box


def read(patch_shape, reader=None, background=None, **transforms):
    """Reads a patch, by default the one at (2, 1, 0), with the given transforms."""
    reader = reader or Reader()
    parameters = augment.PatchParameters(**{"origin": np.array([2, 1, 0]), **transforms})
    image, mask = np.empty((*patch_shape, 3), np.float16), np.empty(patch_shape, np.uint8)
    augment_space.read_patch(reader, 0, parameters, image, mask, background)
    return image, mask


def mask_of(image):
    """The mask of voxels that hold their coordinates."""
    return np.left_shift(1, image.sum(axis=-1).astype(int) % 4)


def test_a_patch_is_the_box_at_its_origin():
    image, mask = read((4, 3, 5))
    assert image.dtype == np.float16 and image.shape == (4, 3, 5, 3)
    np.testing.assert_array_equal(image[0, 0, 0], [2, 1, 0])
    np.testing.assert_array_equal(image[-1, -1, -1], [5, 3, 4])
    np.testing.assert_array_equal(mask, mask_of(image))


def test_flips_reverse_the_given_axes_of_image_and_mask():
    image, mask = read((4, 3, 5), flips=(0, 2))
    np.testing.assert_array_equal(image, read((4, 3, 5))[0][::-1, :, ::-1])
    np.testing.assert_array_equal(mask, mask_of(image))


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize(
    "axes, shape", [((0, 1), (3, 3, 4)), ((0, 2), (4, 3, 4)), ((1, 2), (2, 5, 5))]
)
def test_turns_are_applied_after_flips_to_image_and_mask(quarters, axes, shape):
    image, mask = read(shape, flips=(1,), turn=(quarters, axes))
    straight, _ = read(shape)
    np.testing.assert_array_equal(image, np.rot90(np.flip(straight, 1), quarters, axes))
    np.testing.assert_array_equal(mask, mask_of(image))


def test_the_identity_matrix_changes_nothing():
    image, mask = read((4, 3, 5), matrix=np.eye(3), flips=(2,))
    np.testing.assert_array_equal(image, read((4, 3, 5), flips=(2,))[0])
    np.testing.assert_array_equal(mask, mask_of(image))


def test_a_quarter_turn_by_matrix_is_about_the_centre_of_the_patch():
    # Patch axis X is crop axis Y, and patch axis Y is crop axis X reversed.
    matrix = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    image, mask = read((3, 3, 5), matrix=matrix)
    np.testing.assert_array_equal(image[1, 1, 2], [3, 2, 2])  # origin + 1, origin + 1, 2
    np.testing.assert_array_equal(image[0, 0, 0], [4, 1, 0])
    np.testing.assert_array_equal(image[2, 0, 0], [4, 3, 0])
    np.testing.assert_array_equal(mask, mask_of(image))


def test_zoom_interpolates_the_image_and_takes_the_nearest_labels():
    image, mask = read((3, 3, 5), matrix=np.eye(3) / 2)
    np.testing.assert_allclose(image[:, 0, 0, 0], [2.5, 3, 3.5])
    np.testing.assert_allclose(image[0, 0, :, 2], [1, 1.5, 2, 2.5, 3])
    # The centre is voxel (3, 2, 2); 2 voxels away on Z is voxel 1 or 3.
    np.testing.assert_array_equal(mask[1, 1, [0, 2, 4]], [1 << 6 % 4, 1 << 7 % 4, 1 << 8 % 4])
    assert set(np.unique(mask)) <= {1, 2, 4, 8}


def test_the_border_is_repeated_outside_the_crop():
    image, _ = read(CROP, origin=np.zeros(3, int), matrix=np.eye(3) * 2)
    np.testing.assert_array_equal(image[:, 3, 2, 0], [0, 0, 0, 2, 4, 6, 8, 8, 8])


def test_only_the_box_around_the_sampled_patch_is_read():
    reader = Reader()
    read((3, 3, 3), reader, matrix=np.eye(3) / 2)
    # Half a voxel around the centre (3, 2, 1): voxels 2 … 4, 1 … 3, 0 … 2.
    assert reader.voxels_read == 27
    first, shape, offset = augment_space.box_to_sample(
        np.eye(3) * 2, np.array([2, 1, 0]), (3, 3, 3), CROP
    )
    # Two voxels around (3, 2, 1), limited to the crop.
    assert (first.tolist(), shape.tolist()) == ([1, 0, 0], [5, 5, 4])
    np.testing.assert_array_equal(offset, [0, 0, -1])


@pytest.mark.parametrize(
    "transforms",
    [
        {},
        {"flips": (0, 2)},
        {"flips": (1,), "turn": (1, (0, 1))},
        {"matrix": np.eye(3), "flips": (2,)},
        {"matrix": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])},
    ],
)
def test_the_brain_is_marked_beside_the_class_wherever_its_voxel_moves(transforms):
    """Voxel (3, 2, 2) is background: its coordinates are the background of the three channels."""
    background = np.array([3, 2, 2], np.float16)
    image, mask = read((3, 3, 5), background=background, **transforms)
    outside = (image == background).all(axis=-1)
    assert outside.sum() == 1
    np.testing.assert_array_equal(mask < brain.MARK, outside)
    np.testing.assert_array_equal(mask & ~np.uint8(brain.MARK), mask_of(image))


def test_the_mark_is_that_of_the_nearest_voxel_not_of_interpolated_values():
    background = np.array([3, 2, 2], np.float16)
    _, mask = read((3, 3, 5), background=background, matrix=np.eye(3) / 2)
    # Half a voxel from the centre the image differs from the background, but the nearest voxel of
    # some is (3, 2, 2) itself: a box of voxels around the centre, not the centre alone.
    x, y, z = np.nonzero(mask < brain.MARK)
    assert len(x) > 1 and {1} <= set(x) and {1} <= set(y) and {2} <= set(z)
    _, plain = read((3, 3, 5), matrix=np.eye(3) / 2)
    np.testing.assert_array_equal(mask & ~np.uint8(brain.MARK), plain)
    nearest_is_centre = plain == 1 << 7 % 4
    assert nearest_is_centre[mask < brain.MARK].all()
