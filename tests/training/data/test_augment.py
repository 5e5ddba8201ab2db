import dataclasses

import numpy as np
import pytest

from brats_tfrecord.training.data import augment

CROP, PATCH = (9, 7, 5), (4, 3, 5)


def draw(seed, options=augment.LEVELS["flips"], patch=PATCH, fraction=0.0, tumour=()):
    """One draw; `tumour` are voxels of the crop."""
    flat = np.ravel_multi_index(np.array(tumour, int).reshape(-1, 3).T, CROP)
    return augment.draw(
        np.random.default_rng(seed), options, CROP, patch, 2, fraction, lambda: flat
    )


@pytest.mark.parametrize(
    "tumour, fraction",
    [
        ([(0, 0, 0)], 0.0),
        ([], 1.0),  # nothing to centre on
    ],
)
def test_every_place_and_flip_is_drawn_and_none_outside(tumour, fraction):
    drawn = [draw(n, tumour=tumour, fraction=fraction) for n in range(150)]
    origins = np.stack([one.origin for one in drawn])
    for axis, last in enumerate(n - p for n, p in zip(CROP, PATCH)):
        assert set(origins[:, axis]) == set(range(last + 1))
    for axis in range(3):
        assert 0.35 < np.mean([axis in one.flips for one in drawn]) < 0.65


def test_patches_are_centred_on_tumour_voxels_as_far_as_the_crop_allows():
    # Voxel minus half the patch, moved inside: (4-2, 3-1, 0), (9-4, 0, 0), (0, 7-3, 0).
    tumour = [(4, 3, 2), (8, 0, 4), (0, 6, 0)]
    drawn = {tuple(draw(n, fraction=1.0, tumour=tumour).origin) for n in range(40)}
    assert drawn == {(2, 2, 0), (5, 0, 0), (0, 4, 0)}


def test_the_asked_share_of_patches_is_centred():
    drawn = [draw(n, patch=(1, 1, 1), fraction=0.25, tumour=[(8, 6, 4)]) for n in range(1000)]
    assert 0.21 < np.mean([np.array_equal(one.origin, [8, 6, 4]) for one in drawn]) < 0.29


def test_the_mask_is_read_only_for_a_patch_that_is_centred():
    def unwanted():
        raise AssertionError("read for nothing")

    augment.draw(np.random.default_rng(0), augment.Augmentation(), CROP, PATCH, 2, 0.0, unwanted)


def test_a_draw_is_a_function_of_its_seed():
    first, again, other = (draw(n, augment.LEVELS["full"]) for n in ([3, 1], [3, 1], [3, 2]))
    np.testing.assert_equal(first, again)
    assert not np.array_equal(first.linear, other.linear)


def test_levels_draw_what_they_name():
    def ever(level):
        drawn = [draw(n, augment.LEVELS[level], patch=(4, 4, 4)) for n in range(100)]
        return {
            name
            for one in drawn
            for name, value in one._asdict().items()
            if name != "origin" and value is not None and len(value)
        }

    assert ever("none") == set()
    assert ever("flips") == {"flips"}
    assert ever("light") == {"flips", "linear"}
    assert ever("full") == set(augment.Draw._fields) - {"origin"}


def test_strengths_stay_in_their_ranges_and_differ_between_channels():
    always = augment.Augmentation(blur=1, low_resolution=1, noise=1, linear=1, gamma=1)
    for n in range(50):
        one = draw(n, always)
        scale, shift = one.linear
        for values, (low, high) in (
            (one.blur, (0.5, 1)),
            (one.low_resolution, (0.5, 1)),
            (one.noise[1], (0, 0.1)),
            (scale, (0.9, 1.1)),
            (shift, (-0.1, 0.1)),
            (one.gamma, (0.7, 1.5)),
        ):
            assert values.shape == (2,) and values[0] != values[1]
            assert (low <= values).all() and (values <= high).all()


def test_turns_keep_to_square_planes():
    always = augment.Augmentation(turn=1)
    turns = [draw(n, always, patch=(3, 5, 3)).turn for n in range(60)]
    assert set(turns) == {(quarters, (0, 2)) for quarters in (1, 2, 3)}
    assert {axes for _, axes in (draw(n, always, patch=(3, 3, 3)).turn for n in range(60))} == {
        (0, 1),
        (0, 2),
        (1, 2),
    }
    assert draw(0, always, patch=(3, 4, 5)).turn is None


def test_a_matrix_is_a_rotation_over_the_zoom():
    options = dataclasses.replace(augment.Augmentation(resample=1), degrees=0, zoom=(2, 2))
    np.testing.assert_allclose(draw(0, options).matrix, np.eye(3) / 2)
    matrix = draw(0, augment.Augmentation(resample=1, zoom=(1, 1))).matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) > 0 and not np.allclose(matrix, np.eye(3))
