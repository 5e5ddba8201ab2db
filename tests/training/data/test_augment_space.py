import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord import brain
from brats_tfrecord.training.data import augment, augment_space

CROP = (9, 7, 5)


class Reader:
    """A reader of one crop whose image voxels hold their coordinates."""

    crop_shape = CROP

    def __init__(self, image_dtype=np.float16):
        self.image_dtype = np.dtype(image_dtype)
        self.image = np.indices(CROP).transpose(1, 2, 3, 0).astype(image_dtype)
        self.mask = np.left_shift(1, np.indices(CROP).sum(axis=0) % 4).astype(np.uint8)
        self.voxels_read = 0

    def read_image(self, case, origin, into):
        self.voxels_read += int(np.prod(into.shape[:3]))
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
    image = np.empty((*patch_shape, 3), reader.image_dtype)
    mask = np.empty(patch_shape, np.uint8)
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


def test_strong_shows_background_outside_of_the_crop():
    reader = Reader()
    reader.image += 1  # the corner, (1, 1, 1), is the background's value
    reader.mask[:] = 2
    image, mask = read(
        CROP, reader, origin=np.zeros(3, int), matrix=np.eye(3) * 1.5, background_outside=True
    )
    # Voxel 4 is the centre: -2, -0.5, 1, 2.5, 4, 5.5, 7, 8.5, 10. Beside voxels 0 and 8, which hold
    # 1 and 9, the image passes to 1 within a voxel; half way counts as the next voxel.
    np.testing.assert_allclose(image[:, 3, 2, 0], [1, 1, 2, 3.5, 5, 6.5, 8, 5, 1])
    np.testing.assert_array_equal(mask[:, 3, 2], [1, 2, 2, 2, 2, 2, 2, 1, 1])
    np.testing.assert_array_equal(image[4, 0, 2], [1, 1, 1])
    np.testing.assert_array_equal(mask[4, :, 0], 1)


def test_a_patch_within_the_crop_does_not_depend_on_what_is_outside():
    inside = {"origin": np.array([3, 2, 1]), "matrix": np.eye(3) / 1.1}
    for expected, array in zip(
        read((3, 3, 3), **inside), read((3, 3, 3), background_outside=True, **inside)
    ):
        np.testing.assert_array_equal(array, expected)


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


def displacements(x=0.0, y=0.0, z=0.0):
    """Control points that all move alike, in distances of control points."""
    return np.ones((3, *[augment.ELASTIC_POINTS] * 3)) * np.reshape([x, y, z], (3, 1, 1, 1))


def test_a_deformation_moves_the_samples_along_the_axes_of_the_patch():
    # Distances of control points in a patch of 5x3x5: 1, 0.5 and 1 voxels.
    image, mask = read((5, 3, 5), matrix=np.eye(3), elastic=displacements(x=0.75, y=2))
    np.testing.assert_allclose(image[:, 0, 0, 0], [2.75, 3.75, 4.75, 5.75, 6.75])
    np.testing.assert_allclose(image[0, :, 0, 1], [2, 3, 4])
    np.testing.assert_array_equal(mask, mask_of(np.round(image)))
    # Turned, X of the patch is Y of the crop, here magnified by two.
    matrix = np.array([[0.0, -1, 0], [0.5, 0, 0], [0, 0, 1]])
    image, _ = read((5, 3, 5), matrix=matrix, elastic=displacements(x=1))
    np.testing.assert_allclose(image[:, 1, 2, 1], [1.5, 2, 2.5, 3, 3.5])
    np.testing.assert_allclose(image[:, 1, 2, 0], 4)


def test_no_deformation_changes_nothing():
    matrix = np.diag([0.9, 1.1, 0.8])
    deformed, straight = (
        read((4, 3, 5), matrix=matrix, elastic=points) for points in (displacements(), None)
    )
    np.testing.assert_array_equal(deformed[0], straight[0])
    np.testing.assert_array_equal(deformed[1], straight[1])


@given(seed=st.integers(0, 2**32 - 1), fast=st.booleans())
def test_labels_are_those_of_the_voxel_nearest_to_where_the_image_is_sampled(seed, fast):
    """Voxels of the image hold their coordinates, so samples of it are positions."""
    rng = np.random.default_rng(seed)
    image, mask = read(
        (4, 3, 4),
        Reader(np.float32),
        matrix=rng.normal(0, 0.6, (3, 3)),
        fast=fast,
        elastic=rng.uniform(-0.4, 0.4, (3, *[augment.ELASTIC_POINTS] * 3)),
        flips=(1,),
        turn=(3, (0, 2)),
    )
    between = np.abs(image % 1 - 0.5).min(axis=-1) < 1e-4  # as near to one voxel as to another
    np.testing.assert_array_equal(mask[~between], mask_of(np.round(image))[~between])


def test_the_box_of_a_deformed_patch_holds_every_sample():
    image, _ = read((3, 3, 3), matrix=np.eye(3), elastic=displacements(x=4, z=2))
    # Distances of half a voxel: two voxels along X and one along Z.
    np.testing.assert_allclose(image[:, 0, 0, 0], [4, 5, 6])
    np.testing.assert_allclose(image[0, 0, :, 2], [1, 2, 3])
    _, shape, _ = augment_space.box_to_sample(
        np.eye(3), np.array([2, 1, 0]), (3, 3, 3), CROP, margin=np.array([2, 0, 1])
    )
    assert shape.tolist() == [7, 3, 4]


def test_few_planes_are_converted_at_once(monkeypatch):
    expected = read((4, 3, 5), matrix=np.eye(3) / 1.3)
    monkeypatch.setattr(augment_space, "PLANES", 1)
    for result, array in zip(read((4, 3, 5), matrix=np.eye(3) / 1.3), expected):
        np.testing.assert_array_equal(result, array)
