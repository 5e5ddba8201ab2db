import dataclasses

import numpy as np
import pytest

from brats_tfrecord.training.data import augment

CROP, PATCH = (9, 7, 5), (4, 3, 5)
ALWAYS = {"origin", "background_outside", "fast"}
STRONG_ONLY = {"elastic", "inverted_gamma", "contrast", "dropped"}


def draw(
    seed, augmentation=augment.LEVELS["flips"], patch=PATCH, fraction=0.0, groups=(), channels=2
):
    """Draws once; `groups` are lists of voxels of the crop."""
    flat = [np.ravel_multi_index(np.array(group).T, CROP) for group in groups]
    return augment.draw_parameters(
        np.random.default_rng(seed), augmentation, CROP, patch, channels, fraction, lambda: flat
    )


@pytest.mark.parametrize(
    "groups, fraction",
    [
        ([[(0, 0, 0)]], 0.0),
        ([], 1.0),  # no tumour to centre on
    ],
)
def test_every_origin_within_the_crop_and_every_flip_is_drawn(groups, fraction):
    drawn = [draw(seed, groups=groups, fraction=fraction) for seed in range(150)]
    origins = np.stack([parameters.origin for parameters in drawn])
    for axis, last in enumerate(n - p for n, p in zip(CROP, PATCH)):
        assert set(origins[:, axis]) == set(range(last + 1))
    for axis in range(3):
        assert 0.35 < np.mean([axis in parameters.flips for parameters in drawn]) < 0.65


def test_patches_are_centred_on_tumour_voxels_as_far_as_the_crop_allows():
    # Voxel minus half the patch, moved inside: (4-2, 3-1, 0), (9-4, 0, 0), (0, 7-3, 0).
    tumour = [(4, 3, 2), (8, 0, 4), (0, 6, 0)]
    origins = {tuple(draw(seed, fraction=1.0, groups=[tumour]).origin) for seed in range(40)}
    assert origins == {(2, 2, 0), (5, 0, 0), (0, 4, 0)}


def test_each_group_is_as_likely_as_the_others_however_small_it_is():
    """28 voxels with z = 0, one with z = 2 and one with z = 4: a third of the patches each."""
    large = [(x, y, 0) for x in range(4) for y in range(7)]
    groups = [large, [(8, 6, 2)], [(8, 6, 4)]]
    drawn = [draw(seed, patch=(1, 1, 1), fraction=1.0, groups=groups) for seed in range(900)]
    depths = [parameters.origin[2] for parameters in drawn]
    for depth in (0, 2, 4):
        assert 0.28 < np.mean(np.equal(depths, depth)) < 0.39
    assert len({tuple(parameters.origin) for parameters in drawn}) == 30


def test_a_patch_of_one_group_takes_the_same_numbers_as_ever():
    """The draws of earlier versions, one by one: a run that they began continues unchanged."""
    tumour = [(4, 3, 2), (8, 0, 4), (0, 6, 0)]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        anywhere = rng.integers([9 - 1 + 1, 7 - 1 + 1, 5 - 1 + 1])
        expected = tumour[rng.integers(3)] if rng.random() < 0.5 else anywhere
        flips = tuple(axis for axis in range(3) if rng.random() < 0.5)
        drawn = draw(seed, patch=(1, 1, 1), fraction=0.5, groups=[tumour])
        assert tuple(drawn.origin) == tuple(expected) and drawn.flips == flips


def test_the_given_fraction_of_patches_is_centred():
    drawn = [
        draw(seed, patch=(1, 1, 1), fraction=0.25, groups=[[(8, 6, 4)]]) for seed in range(1000)
    ]
    centred = [np.array_equal(parameters.origin, [8, 6, 4]) for parameters in drawn]
    assert 0.21 < np.mean(centred) < 0.29


def test_the_mask_is_read_only_for_a_patch_that_is_centred():
    def read_mask():
        raise AssertionError("the mask was read")

    augment.draw_parameters(
        np.random.default_rng(0), augment.Augmentation(), CROP, PATCH, 2, 0.0, read_mask
    )


def test_parameters_are_a_function_of_the_seed():
    first, again, other = (draw(seed, augment.LEVELS["full"]) for seed in ([3, 1], [3, 1], [3, 2]))
    np.testing.assert_equal(first, again)
    assert not np.array_equal(first.linear, other.linear)


@pytest.mark.parametrize(
    "level, expected",
    [
        ("none", set()),
        ("flips", {"flips"}),
        ("light", {"flips", "linear"}),
        ("full", set(augment.PatchParameters._fields) - {*ALWAYS, *STRONG_ONLY}),
        ("strong", set(augment.PatchParameters._fields) - ALWAYS),
    ],
)
def test_a_level_draws_the_transforms_it_names(level, expected):
    drawn = [draw(seed, augment.LEVELS[level], patch=(4, 4, 4)) for seed in range(150)]
    transforms = {
        name
        for parameters in drawn
        for name, value in parameters._asdict().items()
        if name not in ALWAYS and value is not None and len(value)
    }
    assert transforms == expected


def test_strengths_stay_in_their_ranges_and_differ_between_channels():
    always = augment.Augmentation(
        blur=1, low_resolution=1, noise=1, linear=1, gamma=1, inverted_gamma=1, contrast=1
    )
    for seed in range(50):
        parameters = draw(seed, always)
        scale, shift = parameters.linear
        for values, (low, high) in (
            (parameters.blur, (0.5, 1)),
            (parameters.low_resolution, (0.5, 1)),
            (parameters.noise[1], (0, 0.1)),
            (scale, (0.9, 1.1)),
            (shift, (-0.1, 0.1)),
            (parameters.gamma, (0.7, 1.5)),
            (parameters.inverted_gamma, (0.7, 1.5)),
            (parameters.contrast, (0.65, 1.5)),
        ):
            assert values.shape == (2,) and values[0] != values[1]
            assert (low <= values).all() and (values <= high).all()


@pytest.mark.parametrize(
    "patch, planes", [((3, 5, 3), {(0, 2)}), ((3, 3, 3), {(0, 1), (0, 2), (1, 2)})]
)
def test_turns_stay_in_square_planes(patch, planes):
    always = augment.Augmentation(turn=1)
    turns = {draw(seed, always, patch=patch).turn for seed in range(90)}
    assert turns == {(quarters, axes) for quarters in (1, 2, 3) for axes in planes}


def test_a_patch_without_square_planes_is_not_turned():
    assert draw(0, augment.Augmentation(turn=1), patch=(3, 4, 5)).turn is None


def test_a_matrix_is_a_rotation_divided_by_the_zoom():
    zoom_only = dataclasses.replace(augment.Augmentation(resample=1), degrees=0, zoom=(2, 2))
    np.testing.assert_allclose(draw(0, zoom_only).matrix, np.eye(3) / 2)
    matrix = draw(0, augment.Augmentation(resample=1, zoom=(1, 1))).matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) > 0 and not np.allclose(matrix, np.eye(3))


def test_each_set_of_channels_that_leaves_one_is_dropped_equally_often():
    always = augment.Augmentation(channel_dropout=1)
    dropped = [draw(seed, always, channels=3).dropped for seed in range(900)]
    sets = {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}
    assert set(dropped) == sets
    for each in sets:
        assert 0.12 < np.mean([other == each for other in dropped]) < 0.22


def test_channels_are_dropped_as_often_as_asked_but_never_the_only_one():
    sometimes = augment.Augmentation(channel_dropout=0.25)
    dropped = [draw(seed, sometimes, channels=4).dropped for seed in range(800)]
    assert 0.2 < np.mean([bool(each) for each in dropped]) < 0.3
    assert {draw(seed, sometimes, channels=1).dropped for seed in range(50)} == {()}


@pytest.mark.parametrize("level", augment.LEVELS)
def test_dropping_channels_leaves_all_other_draws_as_they_are(level):
    """Without it nothing is drawn for it, so that the patches of earlier versions stay."""
    plain = dataclasses.replace(augment.LEVELS[level], channel_dropout=0)
    dropping = dataclasses.replace(plain, channel_dropout=0.9)
    for seed in range(20):
        before, after = draw(seed, plain), draw(seed, dropping)
        assert before.dropped is None and after.dropped is not None
        np.testing.assert_equal(after._replace(dropped=None), before)


def test_what_only_strong_draws_changes_no_other_number():
    """A run that an earlier version began with --augment=full continues unchanged."""
    full = augment.LEVELS["full"]
    more = dataclasses.replace(full, elastic=1, inverted_gamma=1, contrast=1)
    for seed in range(40):
        expected, drawn = draw(seed, full)._asdict(), draw(seed, more)._asdict()
        for name in set(expected) - STRONG_ONLY:
            np.testing.assert_equal(drawn[name], expected[name])
        assert drawn["contrast"] is not None and expected["contrast"] is None


def test_strong_stretches_the_axes_of_the_patch_by_different_factors():
    stretched = augment.Augmentation(resample=1, degrees=30, zoom=(2, 2), stretch=0.2)
    factors = []
    for seed in range(60):
        matrix = draw(seed, stretched).matrix
        lengths = np.linalg.norm(matrix, axis=0)
        np.testing.assert_allclose(  # the columns stay at right angles
            matrix.T @ matrix, np.diag(lengths**2), atol=1e-12
        )
        factors.append(1 / lengths)
    assert 1.6 <= np.min(factors) < 1.65 and 2.35 < np.max(factors) <= 2.4
    assert np.std(factors, axis=1).min() > 0


def test_the_magnification_of_strong_is_that_of_the_winners():
    strong = augment.LEVELS["strong"]
    low, high = strong.zoom
    assert low * (1 - strong.stretch) == pytest.approx(0.65, abs=0.01)
    assert high * (1 + strong.stretch) == pytest.approx(1.6, abs=0.01)


def test_only_patches_that_are_resampled_are_deformed_and_no_point_by_more_than_the_strength():
    half = augment.Augmentation(resample=0.5, elastic=0.5, elastic_strength=(0.1, 0.3))
    drawn = [draw(seed, half) for seed in range(200)]
    deformed = [p.elastic for p in drawn if p.elastic is not None]
    assert all(p.matrix is not None for p in drawn if p.elastic is not None)
    assert 0.18 < len(deformed) / len(drawn) < 0.32
    largest = [np.abs(points).max() for points in deformed]
    assert deformed[0].shape == (3, 7, 7, 7) and min(largest) > 0.09 and max(largest) <= 0.3


def test_only_strong_takes_the_fast_forms_and_shows_background_outside_of_the_crop():
    drawn = {name: draw(0, level) for name, level in augment.LEVELS.items()}
    assert [name for name in drawn if drawn[name].fast] == ["strong"]
    assert [name for name in drawn if drawn[name].background_outside] == ["strong"]


def test_a_share_of_the_channels_takes_part_in_blur_low_resolution_and_noise():
    shared = augment.Augmentation(blur=1, low_resolution=1, noise=1, channel_share=0.25)
    drawn = [draw(seed, shared) for seed in range(300)]
    for values, unchanged, (low, high) in (
        ([p.blur for p in drawn], 0, (0.5, 1)),
        ([p.low_resolution for p in drawn], 1, (0.5, 1)),
        ([p.noise[1] for p in drawn], 0, (0, 0.1)),
    ):
        values = np.array(values)
        changed = values != unchanged
        assert values.dtype == np.float32 and 0.2 < changed.mean() < 0.3
        assert (low <= values[changed]).all() and (values[changed] <= high).all()
        assert {tuple(row) for row in changed} == set(np.ndindex(2, 2))
