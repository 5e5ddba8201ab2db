"""A tiny dataset in the dataset format, and a CPU that is split into two devices."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import files, spec
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example, manifest, shards, tfrecord

SHAPE = (20, 17, 16)
FOLDS = 3

# Logical devices can only be set before the first operation of the process.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Six labelled cases in three folds and one unlabelled, two records a shard."""
    return _write_dataset(tmp_path_factory.mktemp("dataset"), _raw_case)


@pytest.fixture(scope="session")
def stripped_dataset(tmp_path_factory):
    """The same cases as after skull-stripping, see `stripped_case`."""
    return _write_dataset(tmp_path_factory.mktemp("stripped"), _stripped_case)


@pytest.fixture(scope="session")
def stripped_case():
    """Function (case id, labelled) -> the `RawCase` of `stripped_dataset`."""
    return _stripped_case


def _write_dataset(root, make_case):
    """Writes the cases that a function (case id, labelled) makes; returns the manifest."""
    recipe = Recipe(bias_correction="none", crop_origin=(0, 0, 0), crop_shape=SHAPE, crop="fixed")
    scheme = spec.LABEL_SCHEMES["brats2020"]
    fold_of_case = {f"case{n}": n % FOLDS for n in range(6)} | {"unlabelled": None}
    plans = shards.plan_shards(fold_of_case, 2, seed=0)
    for plan in plans:
        rows, end = [], 0
        with tf.io.TFRecordWriter(str(root / plan.name)) as writer:
            for case_id in plan.case_ids:
                raw = make_case(case_id, labelled=plan.fold is not None)
                done = recipe.apply(raw)
                payload = example.encode(raw, done, recipe)
                writer.write(payload)
                voxels = example.voxel_offsets(payload)
                rows.append(
                    manifest.CaseRow(
                        case_id=case_id,
                        patient_id=case_id,
                        grade=None,
                        labelled=plan.fold is not None,
                        fold=plan.fold,
                        shard=plan.name,
                        record_offset=end + tfrecord.HEADER_BYTES,
                        record_bytes=len(payload),
                        image_offset=voxels["image"],
                        mask_offset=voxels["mask"],
                        inputs={},
                        voxels={},
                        key="",
                        brain_voxels=done.brain_voxels,
                        brain_voxels_lost=0,
                        tumour_voxels_lost=0,
                        class_voxels=done.class_voxels,
                        warnings=(),
                    )
                )
                end += tfrecord.HEADER_BYTES + len(payload) + tfrecord.FOOTER_BYTES
        path = root / plan.name
        shard = manifest.Shard(
            plan.name, plan.fold, len(rows), path.stat().st_size, files.sha256(path)
        )
        files.write_json(root / plan.sidecar, manifest.sidecar(shard, recipe, rows, []))
    manifest.write(root, plans, manifest.Head(recipe, "", {}, scheme, FOLDS, 0, {}))
    return manifest.load(root)


@pytest.fixture(scope="session")
def other_dataset(dataset):
    """The same records with another fingerprint, as if converted differently."""
    return dataclasses.replace(dataset, fingerprint="0" * 64)


@pytest.fixture(scope="module")
def without_tracing():
    """Runs eagerly: compiling a tiny network takes longer than a few of its steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def _stripped_case(case_id, labelled):
    """A case that is 0 outside an ellipsoid; FLAIR also in some voxels inside, T1ce of one case
    everywhere."""
    raw = _raw_case(case_id, labelled)
    grid = (np.indices(SHAPE).transpose(1, 2, 3, 0) + 0.5) / SHAPE - 0.5
    raw.volumes[np.linalg.norm(grid, axis=-1) > 0.45] = 0
    raw.volumes[9, 8:12, 7, spec.MODALITIES.index("flair")] = 0
    if case_id == "case1":
        raw.volumes[..., spec.MODALITIES.index("t1ce")] = 0
    return raw


def _raw_case(case_id, labelled):
    """A ball of edema around enhancing tumour around necrosis, bright in its modalities."""
    rng = np.random.default_rng(sum(map(ord, case_id)))
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid - [rng.uniform(0.4, 0.6) * n for n in SHAPE], axis=-1)
    classes = np.select([distance < 2, distance < 4, distance < 6], [spec.NCR, spec.ET, spec.ED])
    volumes = rng.normal(100, 10, (*SHAPE, 4)).astype(np.float32)
    volumes[..., spec.MODALITIES.index("flair")] += 80 * (classes > 0)
    volumes[..., spec.MODALITIES.index("t1ce")] += 80 * (classes == spec.ET)
    volumes[..., spec.MODALITIES.index("t2")] += 60 * (classes == spec.NCR)
    values = np.asarray(spec.LABEL_SCHEMES["brats2020"].values, np.int16)[classes]
    geometry = Geometry(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]))
    return RawCase(
        case_id,
        case_id,
        None,
        "brats2020",
        spec.MODALITIES,
        volumes,
        values if labelled else None,
        geometry,
    )
