"""N4 against ANTsPy, and in cases that can be checked by hand."""

import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.phantom import generate
from brats_tfrecord.preprocess import n4
from brats_tfrecord.preprocess.n4_spline import LevelFit, basis, evaluate

PARITY = 1e-4
"""Largest coefficient of variation of the ratio of the two corrected volumes in the mask."""


def variation(ours, theirs, mask):
    ratio = ours[mask].astype(np.float64) / theirs[mask]
    return ratio.std() / ratio.mean()


@pytest.fixture(scope="module")
def volume():
    """T1 of a small phantom, with a few negative voxels, as in resampled data."""
    case = generate.make_case(seed=1, index=0, shape=(96, 92, 72))
    volume = case.volumes[..., 0].astype(np.float32)
    inside = np.argwhere(volume > 0)
    volume[tuple(inside[::997].T)] = -3
    return volume


@pytest.mark.parametrize("mask_of", [n4.positive_mask, n4.get_mask], ids=["positive", "get_mask"])
def test_equals_ants_for_the_same_mask(volume, mask_of):
    mask = mask_of(volume) & (volume > 0)
    ours = n4.correct_bias_field(volume, mask)
    theirs = n4.correct_bias_field(volume, mask, engine="ants")
    assert variation(ours, theirs, mask) < PARITY
    assert variation(ours, volume, mask) > 0.01, "the field must not be flat"
    for corrected in (ours, theirs):
        np.testing.assert_array_equal(corrected[~mask], volume[~mask])


@pytest.mark.parametrize("modality", ["t1", "flair"])
def test_equals_ants_on_real_volumes(real_cases, modality):
    case = layouts.find_cases(real_cases)[0]
    volume, _ = nifti.read_volume(case.image(modality))
    mask = n4.positive_mask(volume)
    # Fewer iterations than the default, which take ANTs 20 s per volume.
    settings = {"iterations": (10, 10, 10, 10)}
    ours = n4.correct_bias_field(volume, mask, **settings)
    theirs = n4.correct_bias_field(volume, mask, engine="ants", **settings)
    assert variation(ours, theirs, mask) < PARITY


@pytest.mark.soak
@pytest.mark.parametrize("mask_of", [n4.positive_mask, n4.get_mask], ids=["positive", "get_mask"])
@pytest.mark.parametrize("modality", spec.MODALITIES)
@pytest.mark.parametrize("number", [0, 1])
def test_equals_ants_on_every_real_volume_at_full_length(real_cases, number, modality, mask_of):
    volume, _ = nifti.read_volume(layouts.find_cases(real_cases)[number].image(modality))
    mask = mask_of(volume) & (volume > 0)
    ours = n4.correct_bias_field(volume, mask)
    theirs = n4.correct_bias_field(volume, mask, engine="ants")
    assert variation(ours, theirs, mask) < PARITY


def test_known_field_is_removed():
    """Three tissues under a smooth field are nearly constant after the correction."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (64, 56, 48)), indexing="ij")
    rng = np.random.default_rng(0)
    tissue = rng.choice([100.0, 160.0, 220.0], size=x.shape) * rng.normal(1, 0.02, x.shape)
    biased = (tissue * np.exp(0.3 * x - 0.2 * y * z)).astype(np.float32)
    corrected = n4.correct_bias_field(biased)
    everywhere = np.ones(x.shape, bool)
    before, after = (variation(array, tissue, everywhere) for array in (biased, corrected))
    assert before > 0.15 and after < 0.02


@pytest.mark.parametrize(
    "volume",
    [
        np.zeros((9, 8, 7), np.float32),
        np.full((9, 8, 7), 5, np.float32),
        -np.ones((9, 8, 7), np.float32),
        np.ones((1, 1, 1), np.float32),
    ],
    ids=["empty", "constant", "negative", "one voxel"],
)
@pytest.mark.parametrize("engine", n4.ENGINES)
def test_volumes_without_contrast_are_unchanged(volume, engine):
    np.testing.assert_array_equal(n4.correct_bias_field(volume, engine=engine), volume)


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match="engine 'itk'; expected one of n4, ants"):
        n4.correct_bias_field(np.ones((4, 4, 4)), engine="itk")
    with pytest.raises(ValueError, match=r"mask has shape \(4, 4, 5\), volume \(4, 4, 4\)"):
        n4.correct_bias_field(np.ones((4, 4, 4)), np.ones((4, 4, 5)))


@pytest.mark.parametrize(
    "length, factor, expected",
    [(240, 4, (2, 60)), (155, 4, (3, 38)), (9, 4, (2, 2)), (3, 4, (1, 1)), (8, 1, (0, 8))],
)
def test_shrink_slice_keeps_the_samples_of_itk(length, factor, expected):
    picked = range(length)[n4.shrink_slice(length, factor)]
    assert (picked[0], len(picked)) == expected


def test_larger_tolerance_changes_the_field_slightly(volume):
    mask = n4.positive_mask(volume)
    full = n4.correct_bias_field(volume, mask)
    early = n4.correct_bias_field(volume, mask, tolerance=1e-3)
    assert 0 < variation(early, full, mask) < 0.05


@pytest.mark.parametrize("size", [1, 2, 500])
@pytest.mark.parametrize("tolerance", [0, 1e-7, 1e-3, 0.3])
def test_level_has_converged_below_the_tolerance(size, tolerance):
    rng = np.random.default_rng(3)
    results = set()
    for scale in (0, *np.logspace(-9, 1, 200)):
        ratio = np.exp(change := scale * rng.normal(size=size))
        expected = bool(size == 1 or ratio.std(ddof=1) / ratio.mean() < tolerance)
        assert n4.has_converged(change, tolerance) == (expected and tolerance > 0)
        results.add(expected)
    assert len(results) == 2 or size == 1 or not tolerance


def test_basis_weights_sum_to_one():
    weights = basis(11, spans=4)
    assert weights.shape == (11, 7)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights[0], [1 / 6, 4 / 6, 1 / 6, 0, 0, 0, 0])
    np.testing.assert_allclose(weights[-1], [0, 0, 0, 0, 1 / 6, 4 / 6, 1 / 6], atol=1e-15)


def test_fit_equals_the_sums_of_lee_wolberg_and_shin():
    """The products per axis against sums over the scattered points."""
    rng = np.random.default_rng(2)
    mask = rng.random((6, 5, 4)) < 0.6
    values = rng.normal(size=mask.sum())
    fit = LevelFit(mask, spans=2)
    x, y, z = (basis(n, 2) for n in mask.shape)
    upper, lower = np.zeros((5, 5, 5)), np.zeros((5, 5, 5))
    for (i, j, k), value in zip(np.argwhere(mask), values):
        weight = x[i][:, None, None] * y[j][:, None] * z[k]
        upper += weight**2 * (weight * value / (weight**2).sum())
        lower += weight**2
    expected = np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)
    np.testing.assert_allclose(fit.lattice(values), expected, atol=1e-12)

    full = np.einsum("xa,yb,zc,abc->xyz", x, y, z, expected)
    np.testing.assert_allclose(fit.values(expected), full[mask], atol=1e-12)
    box = (slice(1, 5), slice(0, 4), slice(2, 4))
    twice = evaluate([expected, np.ones((4, 4, 4))], mask.shape, box)
    np.testing.assert_allclose(twice, full[box] + 1, atol=1e-5)
