"""What the scanner makes of the phantom: contrast, distractors, bias field, Rician noise.

Intensities are relative to healthy white matter until the last step. The order of values in the
tables is the field's: white over grey over CSF in T1, the reverse in T2, dark CSF in FLAIR.
"""

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.phantom import anatomy, fields

# Per modality t1, t1ce, t2, flair.
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
_MCA = np.array([[4, -22, -24, 2], [20, -14, -18, 2], [40, -8, -9, 1.8], [60, 2, -1, 1.5]])
_ACA = np.array(
    [[3, -24, -22, 1.8], [2, -48, -6, 1.8], [2, -50, 12, 1.8], [2, -30, 28, 1.6], [2, 0, 33, 1.5]]
)
_PLEXUS = np.array([[14, 16, 12, 2], [21, 33, 5, 3.5], [29, 18, -11, 2]])


def brain(tissues, lesion):
    """Bool, 1-D: voxels that skull stripping leaves; it bites into gaping sulci and fissures."""
    return (tissues.pial > -0.3) | (tissues.depth > 2.5) | (lesion.labels > 0)


def volumes(rng, grid, tissues, lesion):
    """Yields t1, t1ce, t2, flair as int16, one value (1 or more) for each voxel of `tissues`.

    Args:
        rng: `numpy.random.Generator`.
        grid, tissues, lesion: the case.
    """

    def draw(knot_mm):
        return grid.to_voxels(grid.noise(rng, knot_mm))[tissues.inside]

    # Each case's own contrast: every tissue a little brighter or darker in every modality.
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
            # Cortex differs from region to region, up to the brightness of faint edema.
            signal += 0.20 * patches * tissues.grey
        for name, weight in distractors:
            signal += (value[name] - signal) * weight
        for name, weight in tumour:
            signal += (value[name] * (1 + 0.04 * texture) - signal) * weight
        yield _scan(rng, signal, draw(45), np.float32(_WHITE_LEVEL[channel]))


def _distractors(draw, grid, tissues):
    """What looks like tumour in one modality: (name in the table, weight 0-1), in order."""
    spots, places = draw(5), draw(12)
    caps = np.exp(-((fields.clamp_below(tissues.ventricle) / 3.5) ** 2))
    caps = caps * fields.step(places + 0.6, 0.3)
    lesions = fields.step(spots - 2.0, 0.15) * (1 - tissues.grey) * fields.step(tissues.pial - 4)
    white = np.maximum(caps, lesions) * (1 - tissues.csf)
    vessels = _vessels(draw, grid, tissues, places)
    plexus = np.maximum(_tube_to_voxels(grid, tissues, _PLEXUS), tissues.ventricle + 0.5)
    return [
        ("hyperintensity", 0.9 * white),
        ("plexus", 0.9 * fields.step(-plexus)),
        ("vessel", 0.85 * fields.step(-vessels)),
    ]


def _vessels(draw, grid, tissues, places):
    """Signed distance to arteries, veins, sinuses, dura and pituitary, negative inside."""
    x, y, z = tissues.points
    tubes = np.minimum(*(_tube_to_voxels(grid, tissues, chain) for chain in (_MCA, _ACA)))
    veins = np.maximum(np.abs(draw(6)) * 5 - 1.2, np.abs(tissues.pial) - 1.0)
    veins[(tissues.cerebellum > -1) | (places < 0.3)] = 10
    sagittal = np.hypot(tissues.midline, tissues.depth - 2) - 4.0
    sagittal += fields.clamp_below(np.where(y > 45, -12, 12) - z)
    transverse = np.hypot(tissues.cerebellum + 2, tissues.depth - 3) - 4.0
    transverse += fields.clamp_below(np.maximum(36 - y, np.abs(z + 24) - 9))
    dura = np.maximum(tissues.depth - 2.2, (1.3 - draw(9)) * 4)
    pituitary = np.sqrt(x * x + (y + 18) ** 2 + (z + 29) ** 2) - 6
    return np.minimum.reduce([tubes, veins, sagittal, transverse, dura, pituitary])


def _tumour(rng, draw, lesion):
    """The tumour's parts: (name in the table, weight 0-1), from the outside in."""
    # Edema pales towards its border, enhancement is patchy.
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


def _scan(rng, signal, slow, white_level):
    """Bias field of 20-40 % peak to peak, Rician noise, the case's own gain; int16."""
    slow = (slow - slow.min()) / (slow.max() - slow.min()) - np.float32(0.5)
    field = 1 + slow * np.float32(rng.uniform(0.2, 0.4))
    deviation = np.float32(rng.uniform(0.025, 0.045))
    real, imaginary = deviation * rng.standard_normal((2, signal.size), dtype=np.float32)
    magnitude = np.hypot(signal * field + real, imaginary)
    gain = white_level * np.float32(np.exp(rng.normal(0, 0.2)))
    return np.clip(np.rint(magnitude * gain), 1, 32767).astype(np.int16)


def _tube_to_voxels(grid, tissues, chain):
    """Signed distance of the voxels to a tube on both sides, negative inside."""
    x, y, z = grid.points
    level = anatomy.tube(np.abs(x), y, z, chain.astype(np.float32), 1.0)
    return grid.to_voxels(level.astype(np.float32))[tissues.inside]
