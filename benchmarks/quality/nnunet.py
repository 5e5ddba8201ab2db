"""nnU-Net (Isensee et al. 2021): its own plans, 3d_fullres configuration, trainer and inference.

Only the length differs from `nnUNetTrainer`: it stops at the deadline, and its polynomial learning
rate falls with the elapsed time instead of the epochs. The targets are the regions WT, TC and ET,
as in the BraTS entries of nnU-Net's authors. Predictions are not averaged over flips, as on all
other sides. On a CPU its trainer computes in float32.
"""

import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.preprocess import masks
from quality.cases import how_to_read

NUMBER, NAME, CONFIGURATION = 1, "Dataset001_Quality", "3d_fullres"
POWER = 0.9


def prepare(root: Path, cases, settings, dataset) -> None:
    """Writes the cases as nnU-Net reads them, makes its plans and preprocesses; once for all folds.

    Args:
        root: folder of the comparison.
        cases: case id -> `Case`.
        settings: the settings.
        dataset: `Manifest`, whose folds become nnU-Net's splits.
    """
    splits = _preprocessed(root) / "splits_final.json"
    if splits.exists():
        return
    _set_environment(root, root / "models", settings.cores)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    how, case_ids = how_to_read(dataset), dataset.case_ids(range(dataset.folds))
    for case_id in case_ids:
        _write_case(_raw(root), cases[case_id], settings.modality_names, dataset.recipe, how)
    files.write_json(
        _raw(root) / "dataset.json",
        {
            "channel_names": {str(n): name for n, name in enumerate(settings.modality_names)},
            "labels": {"background": 0} | {name: list(ids) for name, ids in spec.REGIONS.items()},
            # The label of a voxel in none of the later regions.
            "regions_class_order": [spec.ED, spec.NCR, spec.ET],
            "numTraining": len(case_ids),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        },
    )
    processes = settings.cores * settings.parallel
    api.extract_fingerprints([NUMBER], num_processes=processes)
    api.plan_experiments([NUMBER])
    api.preprocess([NUMBER], configurations=[CONFIGURATION], num_processes=[processes])
    names = [
        {use: list(map(files.safe_file_name, ids)) for use, ids in split.items()}
        for split in _splits(dataset)
    ]
    files.write_json(splits, names)


def train(root: Path, training, settings, deadline):
    """Trains until the deadline.

    Args:
        root: folder of the comparison, after `prepare`.
        training: the `Training`.
        settings: the settings.
        deadline: (start, end), as `time.perf_counter`.

    Returns:
        (number of steps, minutes since the start, function from a `Case` to its classes).
    """
    _set_environment(root, root / "models" / training.name, settings.cores)
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(training.seed)
    torch.set_num_threads(settings.cores)
    trainer = nnUNetTrainer(
        {**files.read_json(_preprocessed(root) / "nnUNetPlans.json"), "continue_training": False},
        CONFIGURATION,
        training.fold,
        files.read_json(_raw(root) / "dataset.json"),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    trainer.on_train_start()
    trainer.network.train()
    steps = _train_steps(trainer, *deadline)
    minutes = (time.perf_counter() - deadline[0]) / 60
    trainer.on_train_end()
    return steps, minutes, partial(_predict, root, _make_predictor(trainer), settings)


def _train_steps(trainer, start, end):
    """Takes steps until another like the last would not end in time; returns their number."""
    steps, seconds = 0, 0.0
    while (began := time.perf_counter()) + seconds < end:
        share = (began - start) / (end - start)
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - share) ** POWER
        trainer.train_step(next(trainer.dataloader_train))
        steps, seconds = steps + 1, time.perf_counter() - began
    return steps


def _make_predictor(trainer):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    return predictor


def _predict(root, predictor, settings, case):
    """Segments a case; returns uint8 [X, Y, Z] canonical classes on its own grid."""
    reader = predictor.plans_manager.image_reader_writer_class()
    name = files.safe_file_name(case.case_id)
    images, properties = reader.read_images(
        [
            str(_raw(root) / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
            for channel in range(len(settings.modality_names))
        ]
    )
    labels = predictor.predict_single_npy_array(images, properties)
    return np.ascontiguousarray(labels.T.astype(np.uint8))  # nnU-Net's axes are Z, Y, X


def _write_case(raw_root, case, modalities, recipe, how):
    """Writes the bias-corrected volumes and the canonical classes of a case, in LPS order."""
    raw = nifti.read_case(case, modalities, **how)
    classes = masks.to_classes(raw.mask, spec.LABEL_SCHEMES[raw.label_scheme], case.case_id)
    geometry = Geometry(classes.shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
    name, volumes = files.safe_file_name(case.case_id), recipe.correct(raw.volumes)
    for channel in range(len(modalities)):
        path = raw_root / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
        nifti.write_volume(path, volumes[..., channel], geometry)
    classes[classes > spec.ET] = spec.BACKGROUND  # a resection cavity belongs to no region
    nifti.write_volume(raw_root / "labelsTr" / f"{name}.nii.gz", classes, geometry)


def _splits(dataset):
    """Lists {"train": case ids, "val": case ids} of every fold."""
    folds = range(dataset.folds)
    return [
        {
            "train": dataset.case_ids([other for other in folds if other != fold]),
            "val": dataset.case_ids([fold]),
        }
        for fold in folds
    ]


def _raw(root):
    return root / "nnunet" / "raw" / NAME


def _preprocessed(root):
    return root / "nnunet" / "preprocessed" / NAME


def _set_environment(root, results, cores):
    """Sets nnU-Net's folders and its number of processes, before it is imported."""
    os.environ.update(
        nnUNet_raw=str(_raw(root).parent),
        nnUNet_preprocessed=str(_preprocessed(root).parent),
        nnUNet_results=str(results),
        nnUNet_n_proc_DA=str(cores),
    )
