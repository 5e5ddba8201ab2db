"""The gliomas of the phantom: necrosis in an enhancing rim in edema, and their mass effect.

A core is an ellipsoid with a rough surface; its rim is a shell of uneven thickness. Edema spreads
from the core through white matter and stops at cortex and CSF, which gives it a finger-like form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.phantom import fields
from brats_tfrecord.phantom.anatomy import Outline, Tissues

_FRONT_TO_BACK_MM = (-72, 60)
_LEFT_RIGHT_MM = 68
"""Limits of the lesions in head coordinates.

They lie within the crop of the documented recipe (the preprocessing of the student project from
which this toolkit grew), [48:192, 48:192, 5:149] of a BraTS volume.
"""


@dataclass(frozen=True)
class Plan:
    """The parameters of a tumour, drawn before the tissue is known.

    Attributes:
        centres: float [N, 3], head coordinates of the cores in millimetres, largest core first.
        radii: float [N], mean radii of the cores in millimetres.
        stretches: float [N, 3], factors of the semi-axes.
        rim_mm: mean thickness of the enhancing rim; 0 for a tumour without enhancement.
        volume_ml: volume of the whole tumour.
        mass_effect: fraction by which tissue is displaced at the centre of a core.
    """

    centres: np.ndarray
    radii: np.ndarray
    stretches: np.ndarray
    rim_mm: float
    volume_ml: float
    mass_effect: float


@dataclass(frozen=True)
class Lesion:
    """The tumour in the voxels inside the hull, 1-D as `anatomy.Tissues`.

    Attributes:
        labels: canonical class ids, uint8.
        edema, core, necrosis: approximate signed distances (mm) to the outer borders of the whole
            tumour, the tumour core and the necrosis; positive inside.
    """

    labels: np.ndarray
    edema: np.ndarray
    core: np.ndarray
    necrosis: np.ndarray


def draw_plan(
    rng: np.random.Generator, grid: fields.Grid, outline: Outline, enhancing: bool
) -> Plan:
    """Draws position, size and form of a tumour within the outline and the documented crop.

    One enhancing tumour in three has a second focus near the first.
    """
    radius = rng.uniform(12, 17) if enhancing else rng.uniform(13, 18)
    centres, radii = [_draw_centre(rng, grid, outline, radius)], [radius]
    if enhancing and rng.random() < 0.35:
        radii.append(radius * rng.uniform(0.45, 0.6))
        neighbour = centres[0], sum(radii) + 4
        centres.append(_draw_centre(rng, grid, outline, radii[1], neighbour))
    core_ml = 4.19e-3 * sum(r**3 for r in radii)
    if not enhancing:
        rim_mm = 0.0
    elif rng.random() < 0.16:  # the rim fills its core, with little or no necrosis
        rim_mm = 0.9 * radius
    else:
        rim_mm = rng.uniform(2.8, 4.2)
    return Plan(
        centres=np.array(centres),
        radii=np.array(radii),
        stretches=np.exp(rng.normal(0, 0.14, (len(radii), 3))),
        rim_mm=float(rim_mm),
        volume_ml=float(np.clip(core_ml * rng.uniform(2.6, 5.5), 28, 112)),
        mass_effect=float(rng.uniform(0.35, 0.6)),
    )


def displaced_points(plan: Plan, grid: fields.Grid) -> Sequence[np.ndarray]:
    """Computes the head coordinates at which the anatomy is evaluated, to model mass effect."""
    points: Sequence[np.ndarray] = grid.points
    for centre, radius in zip(plan.centres, plan.radii):
        offsets = [axis - np.float32(c) for axis, c in zip(points, centre)]
        squares = sum(offset * offset for offset in offsets)
        pull = np.float32(plan.mass_effect) * np.exp(-squares / np.float32((1.6 * radius) ** 2))
        points = [axis - offset * pull for axis, offset in zip(points, offsets)]
    return points


def grow(
    rng: np.random.Generator, plan: Plan, grid: fields.Grid, outline: Outline, tissues: Tissues
) -> Lesion:
    """Computes the labels and distances of the planned tumour in `tissues`."""
    core_field = _core_field(rng, plan, grid, outline)
    rim_field = plan.rim_mm * (1 + 0.30 * grid.noise(rng, 5.0) + 0.25 * grid.noise(rng, 9.0))
    core, rim, fingers = (
        grid.to_voxels(field)[tissues.inside]
        for field in (
            core_field,
            np.maximum(rim_field, min(plan.rim_mm, 1.3)),
            4.0 * grid.noise(rng, 6.0),
        )
    )
    edema = _edema(plan, grid, tissues, core, fingers)
    necrosis = core - rim if plan.rim_mm else core
    labels = np.zeros(core.shape, np.uint8)
    labels[edema > 0] = spec.ED
    labels[_shell(tissues.inside, core > 0)] = spec.ED
    labels[core > 0] = spec.ET
    labels[necrosis > 0] = spec.NCR
    return Lesion(labels, edema, core, necrosis)


def _draw_centre(rng, grid, outline, radius, neighbour=None):
    """Draws a centre (x, y, z) deep enough in the cerebrum for a core of `radius`.

    `neighbour` is another centre and the approximate distance to it.
    """
    x, y, z = grid.points
    margin = radius + 6
    fits = np.minimum(outline.cerebrum, -outline.cerebellum) > 0.85 * radius + 4
    fits &= (outline.stem < -radius) & (np.abs(x) > 0.55 * radius + 5)
    fits &= (np.abs(x) < _LEFT_RIGHT_MM - margin) & (z > -22)
    fits &= (y > _FRONT_TO_BACK_MM[0] + margin) & (y < _FRONT_TO_BACK_MM[1] - margin)
    if neighbour is not None:
        centre, distance = neighbour
        squares = sum((axis - np.float32(c)) ** 2 for axis, c in zip((x, y, z), centre))
        near = fits & (np.abs(np.sqrt(squares) - distance) < 5)
        fits = near if near.any() else fits
    indices = np.unravel_index(rng.choice(np.flatnonzero(fits)), fits.shape)
    return [float(axis[index]) for axis, index in zip(grid.coarse, indices)]


def _core_field(rng, plan, grid, outline):
    """Computes the signed distance to the border of all cores, at least 3 mm inside the hull."""
    rough = grid.noise(rng, 8.0)
    fine = grid.noise(rng, 4.5)
    levels = []
    for centre, radius, stretch in zip(plan.centres, plan.radii, plan.stretches):
        parts = [
            (axis - np.float32(c)) / np.float32(s)
            for axis, c, s in zip(grid.points, centre, stretch)
        ]
        level = np.float32(radius) - np.sqrt(sum(part * part for part in parts))
        levels.append(level + np.float32(radius) * (0.20 * rough + 0.06 * fine))
    level = np.maximum.reduce(levels)
    level = np.minimum(level, np.minimum(outline.cerebrum, -outline.cerebellum) - 3.5)
    return fields.to_distance(level, 0.6)


def _edema(plan, grid, tissues, core, fingers):
    """Computes the approximate signed distance to the border of a tumour of the planned volume."""
    other_side = tissues.midline * np.float32(np.sign(plan.centres[0][0])) < -1
    score = core + fingers - 7 * tissues.grey - 14 * tissues.csf - 7 * other_side
    score[(tissues.cerebellum > -1) | (tissues.depth < 1)] = -100
    beyond_limit = fields.clamp_below(tissues.points[1] - np.float32(_FRONT_TO_BACK_MM[1] - 2))
    score = score - 5 * beyond_limit
    voxel_ml = np.prod([float(axis[1] - axis[0]) for axis in grid.voxels]) / 1000
    count = int(plan.volume_ml / voxel_ml)
    border = max(np.partition(score, -count)[-count], -24.0)
    edema = np.maximum(score - border, core + 1.5).astype(np.float32)
    edema[~_connected(tissues.inside, edema > -1.5, core > 0)] = -10
    return edema


def _connected(inside, tumour, core):
    """Returns the voxels of `tumour` connected to the core, so that edema does not skip sulci."""
    volume = np.zeros(inside.shape, bool)
    volume[inside] = tumour
    components = ndimage.label(volume)[0][inside]
    return np.isin(components, np.unique(components[core])) & tumour


def _shell(inside, core):
    """Returns the voxels of the core and two layers around it, so that edema encloses it."""
    volume = np.zeros(inside.shape, bool)
    volume[inside] = core
    box = tuple(slice(max(side.start - 3, 0), side.stop + 3) for side in bounding_box(volume))
    volume[box] = ndimage.binary_dilation(volume[box], iterations=2)
    return volume[inside]
