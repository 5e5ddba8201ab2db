"""A case is compressed for display, and restored without changes."""

from dataclasses import replace

import numpy as np
import pytest

from app import canvas, intake
from app import scene as scenes
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry

SHAPE = (5, 6, 7)  # LPS
MODALITIES = ("t1", "t1ce", "flair")
# The file counts towards the head, the patient's right and the back.
GEOMETRY = Geometry(
    (7, 5, 6), np.array([[0, 1.0, 0, -9], [0, 0, -2, 4], [3, 0, 0, 5], [0, 0, 0, 1]])
)


def case(with_truth=True):
    """Whole numbers as they come from scanners, fractions, and numbers beyond 16 bits."""
    x, y, z = np.ogrid[:5, :6, :7]
    whole = (x + 10 * y + 100 * z - 50).astype(np.float32)
    volumes = np.moveaxis(np.stack([whole, whole / 3, whole * 1e4]), 0, -1)
    truth = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 4).astype(np.uint8)
    raw = nifti.RawCase("case", "patient", None, "brats2023", MODALITIES, volumes, None, GEOMETRY)
    return intake.LoadedCase(
        raw, truth if with_truth else None, "digest", 0.5, ("odd",), ("a note",)
    )


@pytest.mark.parametrize("with_truth", [True, False])
def test_unpacked_restores_the_case(with_truth):
    packed = case(with_truth)
    unpacked = scenes.prepare(packed).unpacked()
    assert unpacked.raw.volumes.dtype == np.float32
    assert np.array_equal(unpacked.raw.volumes, packed.raw.volumes)
    assert unpacked.raw.volumes[..., 0].flags.c_contiguous, "each channel in one piece"
    assert np.array_equal(unpacked.truth, packed.truth) if with_truth else unpacked.truth is None
    assert replace(unpacked.raw, volumes=None) == replace(packed.raw, volumes=None)
    assert (unpacked.digest, unpacked.seconds, unpacked.warnings) == ("digest", 0.5, ("odd",))
    assert unpacked.notes == ("a note",)
    assert unpacked.case_id == scenes.prepare(packed).case_id == "case"


def test_volumes_and_truth_are_found_by_name():
    packed, scene = case(), scenes.prepare(case())
    for channel, modality in enumerate(MODALITIES):
        assert np.array_equal(scene.volume(modality), packed.raw.volumes[..., channel]), modality
    assert scene.volume("t1").dtype == np.int16, "half the bytes, because int16 holds every value"
    assert np.array_equal(scene.truth(), packed.truth)
    assert [layer.name for layer in scene.layers] == ["flair", "t1", "t1ce", canvas.TRUTH]


def test_a_scene_takes_a_fraction_of_the_memory_of_its_volumes():
    volumes = np.zeros((64, 64, 64, 3), np.float32)
    volumes[16:48, 16:48, 16:48] = np.arange(32)[:, None]
    identity = Geometry((64, 64, 64), np.diag([-1.0, -1, 1, 1]))
    raw = replace(case().raw, volumes=volumes, geometry=identity)
    scene = scenes.prepare(intake.LoadedCase(raw, None, "digest", 0.5))
    assert sum(len(layer.nifti) for layer in scene.layers) < volumes.nbytes / 20
    assert not any(isinstance(value, np.ndarray) for value in vars(scene).values())
