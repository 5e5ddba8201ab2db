"""A tiny dataset, written through contract 1, and a CPU split in two before TensorFlow starts."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import files, spec
from brats_tfrecord.cohort.geometry import Geometry, RawCase
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example, manifest, shards

SHAPE = (20, 17, 16)
FOLDS = 3

# Logical devices can only be set before the first operation of the process.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Six labelled cases in three folds and one unlabelled, two records a shard."""
    root = tmp_path_factory.mktemp("dataset")
    recipe = Recipe(bias_correction="none", crop_origin=(0, 0, 0), crop_shape=SHAPE, crop="fixed")
    scheme = spec.LABEL_SCHEMES["brats2020"]
    fold_of_case = {f"case{n}": n % FOLDS for n in range(6)} | {"unlabelled": None}
    plans = shards.plan_shards(fold_of_case, 2, seed=0)
    for plan in plans:
        rows = []
        with tf.io.TFRecordWriter(str(root / plan.name)) as writer:
            for case_id in plan.case_ids:
                raw = _raw_case(case_id, labelled=plan.fold is not None)
                done = recipe.apply(raw)
                writer.write(example.encode(raw, done, recipe))
                rows.append(
                    manifest.CaseRow(
                        case_id,
                        case_id,
                        None,
                        plan.fold is not None,
                        plan.fold,
                        plan.name,
                        {},
                        "",
                        done.brain_voxels,
                        0,
                        0,
                        done.class_voxels,
                        (),
                    )
                )
        path = root / plan.name
        shard = manifest.Shard(
            plan.name, plan.fold, len(rows), path.stat().st_size, files.sha256(path)
        )
        files.write_json(root / plan.sidecar, manifest.sidecar(shard, recipe, rows, []))
    manifest.write(root, plans, manifest.Head(recipe, "", {}, scheme, FOLDS, 0, {}))
    return manifest.load(root)


@pytest.fixture(scope="session")
def other_dataset(dataset):
    """The same records, as another conversion would have fingerprinted them."""
    return dataclasses.replace(dataset, fingerprint="0" * 64)


@pytest.fixture(scope="module")
def without_tracing():
    """A few steps of a tiny network are made sooner than compiled."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


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
