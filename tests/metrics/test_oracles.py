"""Our metrics against MedPy, surface-distance, panoptica and MONAI, on masks of tumour size.

Where a library has the same definition, its values are equal to 1e-6. Where it has another one,
the measured differences are listed here. MONAI needs torch; both come with the extra `peers`, and
the test of MONAI is skipped without them.
"""

import numpy as np
import pytest
import surface_distance
from medpy.metric import binary
from panoptica import Metric
from scipy import ndimage

from brats_tfrecord import metrics, spec
from brats_tfrecord.metrics import surface

SHAPE = (96, 88, 80)
SPACING_MM = (0.9, 1.1, 1.4)
EVEN_MM = (1.0, 1.0, 1.0)


def tumour(seed, centre, radii, roughness=0.25):
    """An irregular ellipsoid with a hole and a satellite, bool [X, Y, Z].

    Args:
        seed: of the random surface.
        centre, radii: in voxels.
        roughness: standard deviation of the surface, relative to the radii.
    """
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 4)
    grid = np.indices(SHAPE, np.float64)
    distance = np.sqrt(
        sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
    )
    mask = distance + roughness * noise / noise.std() < 1
    x, y, z = centre
    mask[x - 3 : x + 4, y - 2 : y + 3, z - 2 : z + 2] = False
    mask[x + 22 : x + 27, y + 10 : y + 14, z - 12 : z - 9] = True
    return mask


def voxel(x, y, z):
    """A mask of one voxel."""
    mask = np.zeros(SHAPE, bool)
    mask[x, y, z] = True
    return mask


TRUTH = tumour(0, (40, 45, 38), (24, 19, 15))
PAIRS = {
    "similar": (TRUTH, tumour(1, (41, 44, 39), (24, 19, 15))),
    "shifted": (TRUTH, np.roll(TRUTH, (3, -5, 2), (0, 1, 2))),
    "eroded": (TRUTH, ndimage.binary_erosion(TRUTH, iterations=3)),
    "false part": (TRUTH, TRUTH | tumour(2, (72, 62, 60), (8, 12, 6), 0)),
    "missed part": (TRUTH | tumour(3, (70, 20, 60), (9, 6, 7), 0), TRUTH),
    "apart": (tumour(4, (30, 30, 25), (17, 13, 11)), tumour(5, (60, 58, 52), (10, 14, 12))),
    "equal": (TRUTH, TRUTH),
    "voxel in tumour": (TRUTH, voxel(33, 51, 40)),
    "two voxels": (voxel(11, 70, 5), voxel(60, 9, 71)),
}
"""Truths and predictions, neither of them empty."""

EMPTY = np.zeros(SHAPE, bool)

SURFACE_DISTANCE_MM = {
    # Larger directed HD95, mean distance from the truth, mean distance from the prediction.
    "similar": (0.1487, 0.2817, 0.3129),
    "shifted": (0.3377, 0.3197, 0.3177),
    "eroded": (-0.2474, 0.3152, 0.3963),
    "false part": (0.8516, 0.0000, 0.2853),
    "missed part": (1.0629, 0.2685, 0.0000),
    "apart": (0.6373, 0.6938, 0.5690),
    "equal": (0.0000, 0.0000, 0.0000),
    "voxel in tumour": (0.1551, 0.1586, -0.0155),
    "two voxels": (0.0000, 0.9895, 0.9895),
}
"""Our value minus that of surface-distance at `SPACING_MM`."""


def ours(truth, prediction, spacing_mm, rules="nnunet"):
    """Our metrics of the pair as one structure."""
    maps = (mask * np.uint8(spec.ET) for mask in (truth, prediction))
    return metrics.case_metrics(*maps, spacing_mm, rules)["ET"]


def directed_hd95(truth, prediction, spacing_mm):
    """MedPy's distances from each surface to the other, and their 95th percentiles."""
    pairs = (truth, prediction), (prediction, truth)
    # The function behind MedPy's `hd` and `hd95`, of one direction.
    return [np.percentile(binary.__surface_distances(*pair, spacing_mm), 95) for pair in pairs]


def surface_dice(truth, prediction, spacing_mm):
    """The normalised surface Dice of surface-distance."""
    elements = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
    return {
        f"nsd_{tolerance_mm}mm": same(
            surface_distance.compute_surface_dice_at_tolerance(elements, tolerance_mm)
        )
        for tolerance_mm in (1, 2)
    }


def same(value):
    """Equal to 1e-6."""
    return pytest.approx(float(value), rel=1e-6, abs=1e-6)


def test_masks_have_the_size_of_tumours():
    volumes_ml = [
        np.count_nonzero(mask) * np.prod(SPACING_MM) / 1000
        for name, pair in PAIRS.items()
        for mask in pair
        if "voxel" not in name
    ]
    assert min(volumes_ml) > 9 and max(volumes_ml) < 60 and np.median(volumes_ml) > 30


@pytest.mark.parametrize("spacing_mm", [SPACING_MM, EVEN_MM], ids=["uneven", "even"])
@pytest.mark.parametrize("name", PAIRS)
def test_medpy_has_our_definitions(name, spacing_mm):
    truth, prediction = PAIRS[name]
    assert ours(truth, prediction, spacing_mm) == {
        "dice": same(binary.dc(prediction, truth)),
        "hd95": same(max(directed_hd95(truth, prediction, spacing_mm))),
        "hd95_pooled": same(binary.hd95(prediction, truth, spacing_mm)),
        "hd100": same(binary.hd(prediction, truth, spacing_mm)),
        "assd": same(binary.assd(prediction, truth, spacing_mm)),
        **surface_dice(truth, prediction, spacing_mm),
        "sensitivity": same(binary.sensitivity(prediction, truth)),
        "specificity": same(binary.specificity(prediction, truth)),
        "volume_error_ml": same(
            (prediction.sum(dtype=int) - truth.sum(dtype=int)) * np.prod(spacing_mm) / 1000
        ),
    }


def test_medpy_raises_and_we_return_none_where_a_mask_is_empty():
    for truth, prediction in ((TRUTH, EMPTY), (EMPTY, TRUTH), (EMPTY, EMPTY)):
        figures = ours(truth, prediction, SPACING_MM)
        assert figures["hd95"] is figures["hd100"] is figures["assd"] is None
        assert figures["specificity"] == same(binary.specificity(prediction, truth))
        with pytest.raises(RuntimeError, match="does not contain any binary object"):
            binary.hd95(prediction, truth, SPACING_MM)
    assert ours(TRUTH, EMPTY, SPACING_MM)["dice"] == binary.dc(EMPTY, TRUTH) == 0
    assert ours(TRUTH, EMPTY, SPACING_MM)["sensitivity"] == binary.sensitivity(EMPTY, TRUTH) == 0


@pytest.mark.parametrize("name", PAIRS)
def test_surface_distance_has_our_definitions_of_brats2023(name):
    truth, prediction = PAIRS[name]
    figures = ours(truth, prediction, SPACING_MM, "brats2023")
    elements = surface_distance.compute_surface_distances(truth, prediction, SPACING_MM)
    expected = {
        "dice": same(surface_distance.compute_dice_coefficient(truth, prediction)),
        "hd95": same(surface_distance.compute_robust_hausdorff(elements, 95)),
        "hd100": same(surface_distance.compute_robust_hausdorff(elements, 100)),
        **surface_dice(truth, prediction, SPACING_MM),
    }
    assert {metric: figures[metric] for metric in expected} == expected
    # Its average distance is one per direction; ours is the mean over both surfaces.
    means = surface_distance.compute_average_surface_distance(elements)
    areas = elements["surfel_areas_gt"].sum(), elements["surfel_areas_pred"].sum()
    assert figures["assd"] == same(np.average(means, weights=areas))


@pytest.mark.parametrize("name", PAIRS)
def test_surface_elements_differ_from_surface_voxels(name):
    """Distances between surface voxels, in the other rule sets, differ by this much."""
    truth, prediction = PAIRS[name]
    figures = ours(truth, prediction, SPACING_MM)
    elements = surface_distance.compute_surface_distances(truth, prediction, SPACING_MM)
    assert figures["dice"] == same(surface_distance.compute_dice_coefficient(truth, prediction))
    assert figures["hd100"] == same(surface_distance.compute_robust_hausdorff(elements, 100))
    distances = surface.surface_distances(truth, prediction, SPACING_MM)
    means = distances.truth_to_prediction.mean(), distances.prediction_to_truth.mean()
    differences = np.subtract(
        (max(directed_hd95(truth, prediction, SPACING_MM)), *means),
        (
            surface_distance.compute_robust_hausdorff(elements, 95),
            *surface_distance.compute_average_surface_distance(elements),
        ),
    )
    np.testing.assert_allclose(differences, SURFACE_DISTANCE_MM[name], atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PAIRS)
def test_panoptica_has_our_definitions_at_even_spacing(name):
    truth, prediction = PAIRS[name]
    figures = ours(truth, prediction, EVEN_MM)
    distances = surface.surface_distances(truth, prediction, EVEN_MM)
    assert figures["dice"] == same(Metric.DSC(truth, prediction))
    assert figures["hd95_pooled"] == same(Metric.HD95(truth, prediction))
    assert figures["hd100"] == same(Metric.HD(truth, prediction))
    # Its ASSD is the mean of the two directed means; ours pools the distances.
    means = distances.truth_to_prediction.mean(), distances.prediction_to_truth.mean()
    assert np.mean(means) == same(Metric.ASSD(truth, prediction))


@pytest.mark.filterwarnings("ignore")
def test_monai_has_our_surfaces():
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    for truth, prediction in PAIRS.values():
        figures = ours(truth, prediction, SPACING_MM)
        pair = [torch.from_numpy(mask[None, None]) for mask in (prediction, truth)]
        options = {"spacing": SPACING_MM}
        hd95 = monai.compute_hausdorff_distance(*pair, percentile=95, **options)
        hd100 = monai.compute_hausdorff_distance(*pair, **options)
        assd = monai.compute_average_surface_distance(*pair, symmetric=True, **options)
        assert figures["dice"] == same(monai.compute_dice(*pair))
        assert figures["hd100"] == same(hd100)
        assert figures["assd"] == same(assd)
        # torch.quantile computes the rank in float32.
        assert figures["hd95"] == pytest.approx(float(hd95), rel=1e-4)
