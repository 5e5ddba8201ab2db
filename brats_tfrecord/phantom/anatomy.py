"""The healthy anatomy of the phantom: outline, cortex, fissures, ventricles, nuclei, cerebellum.

Shapes are implicit functions of head coordinates in millimetres: x to the patient's left, y to
the back, z up, with the origin near the third ventricle. They are evaluated on a 2 mm grid and
resampled to voxels, where distances become tissue fractions. Sulci are the zero level of
band-passed noise, stretched towards the centre and limited in depth, which gives a labyrinth of
even width like that of real gyri.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brats_tfrecord.phantom import fields

# Rows of x, y, z, radius: frontal horn, body and atrium of a lateral ventricle, then its two other
# horns.
_VENTRICLE = np.array(
    [[9, -36, 6, 4], [8, -18, 14, 6], [10, 4, 19, 6], [16, 24, 15, 7], [22, 35, 6, 8]], np.float32
)
_OCCIPITAL_HORN = np.array([[22, 35, 6, 7], [21, 56, 3, 3]], np.float32)
_TEMPORAL_HORN = np.array([[22, 35, 6, 7], [30, 20, -10, 4], [30, -4, -20, 3]], np.float32)

# Centre and semi-axes of thalamus, caudate head and lentiform nucleus; the right side is mirrored.
_DEEP_GREY = (((10, 6, 3), (8, 14, 8)), ((12, -24, 5), (5, 12, 9)), ((25, -5, -1), (7, 18, 10)))


@dataclass(frozen=True)
class Outline:
    """Signed distances (mm, positive inside) on the coarse grid.

    Attributes:
        cerebrum, cerebellum, stem: the three parts of the brain.
        hull: their union, which is the brain after skull stripping.
    """

    cerebrum: np.ndarray
    cerebellum: np.ndarray
    stem: np.ndarray
    hull: np.ndarray


@dataclass(frozen=True)
class Tissues:
    """Tissue fractions and distances of the voxels inside the hull, 1-D over those voxels.

    Attributes:
        inside: bool [X, Y, Z] over the box, true for those voxels.
        points: head coordinates x, y, z in millimetres.
        depth: distance to the hull in millimetres.
        csf, grey: tissue fractions; the remainder is white matter.
        pial: distance to the nearest CSF outside the ventricles, negative within it.
        ventricle: signed distance to the ventricles, negative inside.
        midline: signed distance from the interhemispheric plane.
        cerebellum: signed distance to the cerebellum, positive inside.
    """

    inside: np.ndarray
    points: tuple[np.ndarray, ...]
    depth: np.ndarray
    csf: np.ndarray
    grey: np.ndarray
    pial: np.ndarray
    ventricle: np.ndarray
    midline: np.ndarray
    cerebellum: np.ndarray


def draw_outline(rng: np.random.Generator, grid: fields.Grid) -> Outline:
    """Draws the outer shape of a brain; size and proportions vary by a few per cent."""
    x, y, z = (
        axis / np.float32(scale)
        for axis, scale in zip(grid.points, rng.normal(1, 0.022, 3).clip(0.96, 1.03))
    )
    lateral = np.abs(x)
    width = 65.5 * (1 - 0.15 * fields.clamp_below(-y / 84) ** 1.5)
    vault = _ellipsoid(x / width, y / 81, z / np.where(z > -4, 64, 35), power=2.7) * 45
    temporal = _ellipsoid((lateral - 41) / 25, (y + 4) / 43, (z + 23) / 27) * 28
    cerebellum = _ellipsoid((lateral - 21) / 33, (y - 47) / 32, (z + 40) / 23) * 28
    cerebellum = cerebellum - 5 * np.exp(-((x / 5) ** 2)) * fields.step(y - 50, 4)
    pons = _ellipsoid(x / 17, (y - 13) / 14, (z + 31) / 16) * 15
    medulla = np.minimum(11 - np.hypot(x, (y - 19) + 0.3 * (z + 40)), np.minimum(z + 68, -12 - z))
    bumps = 1.5 * grid.noise(rng, 14)
    parts = [_union(vault, temporal) + bumps, cerebellum + 0.4 * bumps, _union(pons, medulla)]
    cerebrum, cerebellum, stem = (fields.to_distance(part, 0.3) for part in parts)
    hull = np.maximum(np.maximum(cerebrum, cerebellum), stem)
    return Outline(cerebrum, cerebellum, stem, hull)


def fill_outline(
    rng: np.random.Generator, grid: fields.Grid, outline: Outline, points: Sequence[np.ndarray]
) -> Tissues:
    """Fills the outline with tissue.

    Args:
        rng: source of the random numbers.
        grid: the grid.
        outline: the outer shape.
        points: head coordinates (x, y, z) at which the inner anatomy is evaluated, each on the
            coarse grid; `gliomas.displaced_points` models the mass effect of a tumour with them.
    """
    x, y, z = (part + 2.0 * grid.noise(rng, 28) for part in points)
    inside = grid.to_voxels(outline.hull) > 0
    voxels = {
        name: grid.to_voxels(field)[inside]
        for name, field in _inner_shapes(rng, grid, outline, x, y, z).items()
    }
    depth = voxels["hull"]
    pial = _pial_distance(rng, voxels)
    csf = np.maximum(1 - fields.step(pial), 1 - fields.step(voxels["ventricle"]))
    thickness = rng.normal(3.2, 0.2)
    cortex = fields.step(thickness - pial, 0.6) * fields.step(1 - voxels["stem"], 1.0)
    nuclei = 0.8 * fields.step(voxels["nuclei"], 0.8)
    grey = np.maximum(cortex, nuclei)
    grey, csf = _with_cerebellum(voxels, grey, csf)
    return Tissues(
        inside=inside,
        points=tuple(np.broadcast_to(axis, inside.shape)[inside] for axis in np.ix_(*grid.voxels)),
        depth=depth,
        csf=csf,
        grey=grey * (1 - csf),
        pial=pial,
        ventricle=voxels["ventricle"],
        midline=voxels["midline"],
        cerebellum=voxels["cerebellum"],
    )


def _inner_shapes(rng, grid, outline, x, y, z):
    """Computes every field that is resampled to voxels, on the coarse grid."""
    lateral = np.abs(x)
    # The fissure ends at the corpus callosum, above thalamus and brain stem.
    central = 30 * _ellipsoid(x / 60, (y - 1) / 45, (z - 2) / 27)
    fissure_end = fields.clamp_below(np.maximum(central, outline.stem + 4))
    cerebrum = np.minimum(outline.cerebrum, -outline.cerebellum)
    # Sulci are shallow on the medial wall.
    near = np.minimum(cerebrum, np.hypot(x, fissure_end) + 5)
    reach = 17.5 + 6 * grid.noise(rng, 9)
    sylvian = (z + 5 - 0.3 * (y + 8)) * 0.95 + 2.5 * grid.noise(rng, 9)
    sylvian_end = fields.clamp_below(np.maximum(33 - lateral, np.abs(y + 2) - 33))
    return {
        "hull": outline.hull,
        "cerebrum": cerebrum,
        "cerebellum": outline.cerebellum,
        "stem": outline.stem,
        "midline": x,
        "fissure_end": fissure_end,
        "sulci": _sulci(rng, grid, x, y, z),
        "sulci_end": fields.clamp_below(near - reach),
        "sylvian": sylvian,
        "sylvian_end": sylvian_end,
        "ventricle": _ventricles(rng, x, y, z),
        "nuclei": _nuclei(lateral, y, z),
        "folia": 36 * np.arctan2(z + 38, y - 10) + 2.2 * grid.noise(rng, 9) + 0.12 * lateral,
        "folia_size": np.hypot(z + 38, y - 10),
    }


def _sulci(rng, grid, x, y, z):
    """Computes the signed distance (mm) to the sheets that contain the sulci.

    The noise is sampled at points shifted outwards along their ray, so that the sheets are
    perpendicular to the hull.
    """
    pattern = grid.noise(rng, 6.2, band_pass=True)
    radius = np.sqrt((x / 68) ** 2 + (y / 84) ** 2 + (z / 60) ** 2)
    pull = np.maximum(radius, 0.15) ** np.float32(-0.55)
    indices = [
        (part * pull - axis[0]) / fields.COARSE_MM for part, axis in zip((x, y, z), grid.coarse)
    ]
    sheets = ndimage.map_coordinates(pattern, indices, order=1, mode="reflect")
    slope = np.sqrt(sum(part * part for part in np.gradient(sheets, fields.COARSE_MM)))
    slope = ndimage.gaussian_filter(slope, 2.0, truncate=2.0)
    return (sheets / np.maximum(slope, 0.25 * slope.mean())).astype(np.float32)


def _pial_distance(rng, voxels):
    """Computes the distance to the outer CSF: hull, sulci, fissures and the cerebellar tent."""
    # Sulci are wide at the surface and narrow at depth; atrophy widens all of them.
    width = rng.uniform(-0.1, 0.3) + 0.8 * np.exp(-fields.clamp_below(voxels["cerebrum"]) / 5)
    sulci = np.hypot(voxels["sulci"], voxels["sulci_end"]) - width
    fissure = np.hypot(voxels["midline"], voxels["fissure_end"]) - 1.1
    sylvian = np.hypot(voxels["sylvian"], voxels["sylvian_end"]) - rng.uniform(1.2, 2.2)
    pial = np.minimum(np.minimum(voxels["cerebrum"], sulci), np.minimum(fissure, sylvian))
    tent = np.abs(voxels["cerebellum"]) - 0.7
    pial = np.where(voxels["cerebellum"] > 0, np.minimum(voxels["hull"], tent), pial)
    return np.where(voxels["stem"] > np.maximum(pial, 0), voxels["stem"], pial)


def _with_cerebellum(voxels, grey, csf):
    """Adds cerebellar tissue: thin folia around a white core that branches into them."""
    inside = voxels["cerebellum"] > 0
    depth = voxels["cerebellum"][inside]
    # Folia fade towards the centre, where they would be finer than a voxel.
    fade = fields.step(voxels["folia_size"][inside] - 16, 3)
    wave = fade * np.cos(voxels["folia"][inside])
    grey[inside] = 0.9 - 0.7 * fields.step(depth - 7.5 + 4 * wave, 1.2)
    fissures = 0.6 * fields.step(wave - 0.7, 0.15) * fields.step(10 - depth, 1.5)
    csf[inside] = np.maximum(csf[inside], fissures)
    return grey, csf


def _ventricles(rng, x, y, z):
    """Computes the signed distance to the ventricles, negative inside.

    The two lateral ventricles differ in size.
    """
    size = rng.uniform(0.85, 1.5)
    left, right = size * rng.uniform(0.88, 1.12, 2)
    sides = np.where(x > 0, left, right).astype(np.float32)
    lateral = np.abs(x)
    horns = [
        tube(lateral, y, z, chain, sides) for chain in (_VENTRICLE, _OCCIPITAL_HORN, _TEMPORAL_HORN)
    ]
    paired = np.maximum(np.minimum.reduce(horns), 1.0 - lateral)
    third = -4 * _ellipsoid(x / (2.6 * size), (y + 1) / 14, (z + 2) / 10)
    fourth = -4 * _ellipsoid(x / 6, (y - 31) / 4, (z + 36) / 8)
    return np.minimum(paired, np.minimum(third, fourth)).astype(np.float32)


def tube(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, chain: np.ndarray, size: np.ndarray | float
) -> np.ndarray:
    """Computes the signed distance (mm) to a tube, negative inside.

    Args:
        x, y, z: head coordinates, broadcastable to one another.
        chain: [N, 4], x, y, z and radius of the points that the tube connects. Its width along x
            is two thirds of its height.
        size: factor of the radii.
    """
    distances = []
    for (*start, first), (*end, last) in itertools.pairwise(chain):
        along = [b - a for a, b in zip(start, end)]
        t = sum((p - a) * d for p, a, d in zip((x, y, z), start, along)) / sum(d * d for d in along)
        t = np.clip(t, 0, 1)
        gaps = [p - a - t * d for p, a, d in zip((x, y, z), start, along)]
        distance = np.sqrt((1.5 * gaps[0]) ** 2 + gaps[1] ** 2 + gaps[2] ** 2)
        distance -= (first + t * (last - first)) * size
        distances.append(distance)
    return np.minimum.reduce(distances)


def _nuclei(lateral, y, z):
    """Computes the approximate signed distance to the deep grey nuclei, positive inside."""
    distances = []
    for centre, semi_axes in _DEEP_GREY:
        scaled = ((part - c) / s for part, c, s in zip((lateral, y, z), centre, semi_axes))
        distances.append(min(semi_axes) * _ellipsoid(*scaled))
    return np.maximum.reduce(distances).astype(np.float32)


def _ellipsoid(x, y, z, power=2.0):
    """Computes the level of a unit superellipsoid: 1 at the centre, 0 on the surface."""
    if power == 2.0:
        return 1 - np.sqrt(x * x + y * y + z * z)
    power = np.float32(power)
    return 1 - (np.abs(x) ** power + np.abs(y) ** power + np.abs(z) ** power) ** (1 / power)


def _union(first, second, blend_mm=4.0):
    """Computes a smooth maximum of two levels, rounded over `blend_mm` where they meet."""
    bridge = fields.clamp_below(1 - np.abs(first - second) / np.float32(blend_mm))
    return np.maximum(first, second) + bridge * bridge * np.float32(blend_mm / 4)
