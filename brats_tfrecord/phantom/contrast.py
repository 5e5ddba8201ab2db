"""Simulates MR images of the phantom: contrast, distractors, bias field and Rician noise.

Intensities are relative to healthy white matter until the last step. The contrasts are those of
real scans: white matter is brighter than grey matter and CSF in T1, darker in T2, and CSF is dark
in FLAIR.
"""

from collections.abc import Iterator

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.phantom import anatomy, fields
from brats_tfrecord.phantom.anatomy import Tissues
from brats_tfrecord.phantom.gliomas import Lesion

# Intensities in t1, t1ce, t2 and flair.
_TISSUE = {
    "grey": (0.72, 0.76, 1.32, 1.20),
    "csf": (0.20, 0.22, 2.90, 0.22),
    "edema": (0.72, 0.74, 2.15, 1.62),
    "enhancing": (0.66, 1.80, 2.00, 1.45),
    "necrosis": (0.42, 0.42, 2.70, 1.15),
    "nonenhancing": (0.48, 0.52, 2.65, 1.45),
    "vessel": (0.55, 1.80, 0.45, 0.45),
    "plexus": (0.60, 1.50, 1.60, 1.15),
    "hyperintensity": (0.92, 0.95, 1.18, 1.65),
    "blood": (1.25, 1.30, 0.80, 0.90),
}
_WHITE_LEVEL = (360.0, 390.0, 290.0, 230.0)
# Rows of x, y, z, radius: middle and anterior cerebral artery, choroid plexus.
_MCA = np.array([[4, -22, -24, 2], [20, -14, -18, 2], [40, -8, -9, 1.8], [60, 2, -1, 1.5]])
_ACA = np.array(
    [[3, -24, -22, 1.8], [2, -48, -6, 1.8], [2, -50, 12, 1.8], [2, -30, 28, 1.6], [2, 0, 33, 1.5]]
)
_PLEXUS = np.array([[14, 16, 12, 2], [21, 33, 5, 3.5], [29, 18, -11, 2]])


def brain_mask(tissues: Tissues, lesion: Lesion) -> np.ndarray:
    """Computes which voxels of `tissues` skull stripping keeps; bool, 1-D.

    Wide sulci and fissures at the surface are removed.
    """
    return (tissues.pial > -0.3) | (tissues.depth > 2.5) | (lesion.labels > 0)


def scan(
    rng: np.random.Generator, grid: fields.Grid, tissues: Tissues, lesion: Lesion
) -> Iterator[np.ndarray]:
    """Yields t1, t1ce, t2 and flair, each int16 and 1-D over the voxels of `tissues`, 1 or more."""

    def draw(knot_mm):
        return grid.to_voxels(grid.noise(rng, knot_mm))[tissues.inside]

    # The contrast varies between cases: each tissue is a little brighter or darker per modality.
    table = {
        name: np.array(row) * np.exp(rng.normal(0, 0.04, len(row))) for name, row in _TISSUE.items()
    }
    texture, patches = draw(7), draw(16)
    distractors = _distractors(draw, grid, tissues)
    tumour = _tumour(rng, draw, lesion)
    for channel, modality in enumerate(spec.MODALITIES):
        value = {name: np.float32(row[channel]) for name, row in table.items()}
        signal = 1 + (value["grey"] - 1) * tissues.grey + (value["csf"] - 1) * tissues.csf
        signal *= 1 + 0.02 * texture
        if modality == "flair":
            # The cortex varies between regions, up to the brightness of faint edema.
            signal += 0.20 * patches * tissues.grey
        for name, weight in distractors:
            signal += (value[name] - signal) * weight
        for name, weight in tumour:
            signal += (value[name] * (1 + 0.04 * texture) - signal) * weight
        yield _acquire(rng, signal, draw(45), np.float32(_WHITE_LEVEL[channel]))


def _distractors(draw, grid, tissues):
    """Returns structures that resemble a tumour in one modality.

    Each is (name in the table, weight 0-1), in the order in which they are painted.
    """
    spots, patches = draw(5), draw(12)
    caps = np.exp(-((fields.clamp_below(tissues.ventricle) / 3.5) ** 2))
    caps = caps * fields.step(patches + 0.6, 0.3)
    lesions = fields.step(spots - 2.0, 0.15) * (1 - tissues.grey) * fields.step(tissues.pial - 4)
    white = np.maximum(caps, lesions) * (1 - tissues.csf)
    vessels = _vessels(draw, grid, tissues, patches)
    plexus = np.maximum(_tube_to_voxels(grid, tissues, _PLEXUS), tissues.ventricle + 0.5)
    return [
        ("hyperintensity", 0.9 * white),
        ("plexus", 0.9 * fields.step(-plexus)),
        ("vessel", 0.85 * fields.step(-vessels)),
    ]


def _vessels(draw, grid, tissues, patches):
    """Computes the signed distance to vessels, dura and pituitary gland, negative inside."""
    x, y, z = tissues.points
    tubes = np.minimum(*(_tube_to_voxels(grid, tissues, chain) for chain in (_MCA, _ACA)))
    veins = np.maximum(np.abs(draw(6)) * 5 - 1.2, np.abs(tissues.pial) - 1.0)
    veins[(tissues.cerebellum > -1) | (patches < 0.3)] = 10
    sagittal = np.hypot(tissues.midline, tissues.depth - 2) - 4.0
    sagittal += fields.clamp_below(np.where(y > 45, -12, 12) - z)
    transverse = np.hypot(tissues.cerebellum + 2, tissues.depth - 3) - 4.0
    transverse += fields.clamp_below(np.maximum(36 - y, np.abs(z + 24) - 9))
    dura = np.maximum(tissues.depth - 2.2, (1.3 - draw(9)) * 4)
    pituitary = np.sqrt(x * x + (y + 18) ** 2 + (z + 29) ** 2) - 6
    return np.minimum.reduce([tubes, veins, sagittal, transverse, dura, pituitary])


def _tumour(rng, draw, lesion):
    """Returns the parts of the tumour from the outside in: (name in the table, weight 0-1)."""
    # Edema fades towards its border, and enhancement is patchy.
    fade = 0.78 + 0.22 * fields.step(lesion.edema - 5, 2.5)
    patchy = np.clip(0.88 + 0.18 * draw(4), 0.4, 1.2)
    enhancing = (lesion.labels == spec.ET).any()
    inner = "necrosis" if enhancing else "nonenhancing"
    edema = fields.step(lesion.edema, 0.6)
    parts = [("edema", edema * fade)]
    if enhancing:
        parts.append(("enhancing", fields.step(lesion.core) * patchy))
    parts.append((inner, fields.step(lesion.necrosis)))
    if rng.random() < 0.35:
        parts.append(("blood", fields.step(np.minimum(lesion.necrosis - 1, draw(5) * 4 - 3))))
    return parts


def _acquire(rng, signal, smooth, white_level):
    """Applies a bias field of 20-40 % peak to peak, Rician noise and a random gain; int16."""
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min()) - np.float32(0.5)
    field = 1 + smooth * np.float32(rng.uniform(0.2, 0.4))
    deviation = np.float32(rng.uniform(0.025, 0.045))
    real, imaginary = deviation * rng.standard_normal((2, signal.size), dtype=np.float32)
    magnitude = np.hypot(signal * field + real, imaginary)
    gain = white_level * np.float32(np.exp(rng.normal(0, 0.2)))
    return np.clip(np.rint(magnitude * gain), 1, 32767).astype(np.int16)


def _tube_to_voxels(grid, tissues, chain):
    """Computes the signed distance to a tube mirrored to both sides, negative inside."""
    x, y, z = grid.points
    level = anatomy.tube(np.abs(x), y, z, chain.astype(np.float32), 1.0)
    return grid.to_voxels(level.astype(np.float32))[tissues.inside]
