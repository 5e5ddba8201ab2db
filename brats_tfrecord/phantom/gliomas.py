"""The phantom's gliomas: necrosis inside an enhancing rim inside edema, and the room they take.

A core is an ellipsoid roughened by noise; its rim is a shell of uneven thickness. Edema spreads
from the core through white matter and halts at cortex and CSF, which gives it fingers.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.phantom import fields

FRONT_TO_BACK_MM = (-72, 60)
LEFT_RIGHT_MM = 68
"""Lesions keep within these head coordinates, where the fixed crop of the recipe reaches."""


@dataclass(frozen=True)
class Plan:
    """A case's tumour as drawn, before it meets tissue.

    Attributes:
        centres: float [N, 3], head coordinates of the cores in millimetres, largest first.
        radii: float [N], mean radii of the cores in millimetres.
        stretches: float [N, 3], factors of the semi-axes.
        rim_mm: mean thickness of the enhancing rim; 0 for a tumour without enhancement.
        volume_ml: wanted volume of the whole tumour.
        mass_effect: share by which tissue at the core's centre is pushed away.
    """

    centres: np.ndarray
    radii: np.ndarray
    stretches: np.ndarray
    rim_mm: float
    volume_ml: float
    mass_effect: float


@dataclass(frozen=True)
class Lesion:
    """The tumour in the voxels inside the hull (1-D over those of `Tissues`).

    Attributes:
        labels: canonical class ids, uint8.
        edema, core, necrosis: signed distances (about, mm) to the outer borders of the
            whole tumour, the tumour core and the necrosis; positive inside.
    """

    labels: np.ndarray
    edema: np.ndarray
    core: np.ndarray
    necrosis: np.ndarray


def plan(rng, grid, shape, enhancing):
    """Draws place, size and form of a tumour that fits the `Outline` and the fixed crop.

    One in three has a second focus in the neighbourhood of the first.
    """
    radius = rng.uniform(12, 17) if enhancing else rng.uniform(13, 18)
    centres, radii = [_place(rng, grid, shape, radius, None)], [radius]
    if enhancing and rng.random() < 0.35:
        radii.append(radius * rng.uniform(0.45, 0.6))
        centres.append(_place(rng, grid, shape, radii[1], (centres[0], sum(radii) + 4)))
    core_ml = 4.19e-3 * sum(r**3 for r in radii)
    # One rim in six fills its core: little or no necrosis.
    rim = 0.0 if not enhancing else (0.9 * radius if rng.random() < 0.16 else rng.uniform(2.8, 4.2))
    return Plan(
        centres=np.array(centres),
        radii=np.array(radii),
        stretches=np.exp(rng.normal(0, 0.14, (len(radii), 3))),
        rim_mm=float(rim),
        volume_ml=float(np.clip(core_ml * rng.uniform(2.6, 5.5), 28, 112)),
        mass_effect=float(rng.uniform(0.35, 0.6)),
    )


def displaced(planned, grid):
    """Head coordinates from which the anatomy around the tumour is taken (mass effect)."""
    points = grid.points
    for centre, radius in zip(planned.centres, planned.radii):
        offsets = [axis - np.float32(c) for axis, c in zip(points, centre)]
        squares = sum(offset * offset for offset in offsets)
        pull = np.float32(planned.mass_effect) * np.exp(-squares / np.float32((1.6 * radius) ** 2))
        points = [axis - offset * pull for axis, offset in zip(points, offsets)]
    return points


def grow(rng, planned, grid, shape, tissues):
    """Puts the planned tumour into `tissues`; returns the `Lesion`."""
    core_field = _core_field(rng, planned, grid, shape)
    rim_field = planned.rim_mm * (1 + 0.30 * grid.noise(rng, 5.0) + 0.25 * grid.noise(rng, 9.0))
    core, rim, fingers = (
        grid.to_voxels(field)[tissues.inside]
        for field in (
            core_field,
            np.maximum(rim_field, min(planned.rim_mm, 1.3)),
            4.0 * grid.noise(rng, 6.0),
        )
    )
    edema = _edema(planned, grid, tissues, core, fingers)
    necrosis = core - rim if planned.rim_mm else core
    labels = np.zeros(core.shape, np.uint8)
    labels[edema > 0] = spec.ED
    labels[_shell(tissues.inside, core > 0)] = spec.ED
    labels[core > 0] = spec.ET
    labels[necrosis > 0] = spec.NCR
    return Lesion(labels, edema, core, necrosis)


def _place(rng, grid, shape, radius, beside):
    """Draws a centre (x, y, z) deep enough in the cerebrum for a core of `radius`.

    `beside`, if given, is another centre and the distance to keep from it, more or less.
    """
    x, y, z = grid.points
    room = radius + 6
    fits = np.minimum(shape.cerebrum, -shape.cerebellum) > 0.85 * radius + 4
    fits &= (shape.stem < -radius) & (np.abs(x) > 0.55 * radius + 5)
    fits &= (np.abs(x) < LEFT_RIGHT_MM - room) & (z > -22)
    fits &= (y > FRONT_TO_BACK_MM[0] + room) & (y < FRONT_TO_BACK_MM[1] - room)
    if beside is not None:
        centre, distance = beside
        away = sum((axis - np.float32(c)) ** 2 for axis, c in zip((x, y, z), centre))
        near = fits & (np.abs(np.sqrt(away) - distance) < 5)
        fits = near if near.any() else fits
    chosen = np.unravel_index(rng.choice(np.flatnonzero(fits)), fits.shape)
    return [float(axis[index]) for axis, index in zip(grid.coarse, chosen)]


def _core_field(rng, planned, grid, shape):
    """Signed distance to the cores' common border, never nearer to the hull than 3 mm."""
    rough = grid.noise(rng, 8.0)
    fine = grid.noise(rng, 4.5)
    level = None
    for centre, radius, stretch in zip(planned.centres, planned.radii, planned.stretches):
        parts = [
            (axis - np.float32(c)) / np.float32(s)
            for axis, c, s in zip(grid.points, centre, stretch)
        ]
        one = np.float32(radius) - np.sqrt(sum(part * part for part in parts))
        one = one + np.float32(radius) * (0.20 * rough + 0.06 * fine)
        level = one if level is None else np.maximum(level, one)
    level = np.minimum(level, np.minimum(shape.cerebrum, -shape.cerebellum) - 3.5)
    return fields.to_distance(level, 0.6)


def _edema(planned, grid, tissues, core, fingers):
    """Signed distance (about) to the border of the whole tumour, at the planned volume."""
    other_side = tissues.midline * np.float32(np.sign(planned.centres[0][0])) < -1
    score = core + fingers - 7 * tissues.grey - 14 * tissues.csf - 7 * other_side
    score[(tissues.cerebellum > -1) | (tissues.depth < 1)] = -100
    ahead = fields.clamp_below(tissues.points[1] - np.float32(FRONT_TO_BACK_MM[1] - 2))
    score = score - 5 * ahead
    voxel_ml = np.prod([float(axis[1] - axis[0]) for axis in grid.voxels]) / 1000
    count = int(planned.volume_ml / voxel_ml)
    border = max(np.partition(score, -count)[-count], -24.0)
    edema = np.maximum(score - border, core + 1.5).astype(np.float32)
    edema[~_joined(tissues.inside, edema > -1.5, core > 0)] = -10
    return edema


def _joined(inside, wide, core):
    """The voxels of `wide` in one piece with the core: edema does not hop across sulci."""
    where = np.zeros(inside.shape, bool)
    where[inside] = wide
    pieces, _ = ndimage.label(where)
    pieces = pieces[inside]
    return np.isin(pieces, np.unique(pieces[core])) & wide


def _shell(inside, core):
    """The voxels of the core and two layers around it, so that edema encloses it."""
    where = np.zeros(inside.shape, bool)
    where[inside] = core
    found = ndimage.find_objects(where)
    if not found:
        return core
    block = tuple(slice(max(part.start - 3, 0), part.stop + 3) for part in found[0])
    where[block] = ndimage.binary_dilation(where[block], iterations=2)
    return where[inside]
