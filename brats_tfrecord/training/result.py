"""What training leaves for the exporter."""

from dataclasses import dataclass

import numpy as np

from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.training.network.network_options import NetworkOptions
from brats_tfrecord.training.train_options import TrainOptions


@dataclass(frozen=True)
class TrainResult:
    """The weights of a run's best epoch, and all that tells what they are.

    Attributes:
        weights: float32 arrays of the best epoch, in the order of `Network.model.get_weights()`.
        network: `network_options.NetworkOptions` that build the network they fit.
        stride: what the extents of the network's input must be multiples of.
        modalities: names of its input channels.
        targets: name of what its outputs are, see `targets`.
        history: one dict an epoch, see `history.COLUMNS`.
        best_epoch: whose weights these are, counted from 1.
        train_case_ids, select_case_ids: cases that trained it, and that chose the epoch.
        precision: dtype policy it was trained with.
        options: the `TrainOptions`.
        manifest: the dataset's.
    """

    weights: list[np.ndarray]
    network: NetworkOptions
    stride: int
    modalities: tuple[str, ...]
    targets: str
    history: list[dict]
    best_epoch: int
    train_case_ids: list[str]
    select_case_ids: list[str]
    precision: str
    options: TrainOptions
    manifest: Manifest


def make_result(trainer, weights, history, best_epoch):
    """The `TrainResult` of a `Trainer` whose best epoch had these weights."""
    options, dataset = trainer.options, trainer.dataset
    return TrainResult(
        weights=weights,
        network=trainer.network_options,
        stride=trainer.network.stride,
        modalities=options.modality_names,
        targets=options.targets,
        history=history,
        best_epoch=best_epoch,
        train_case_ids=dataset.case_ids(trainer.train_folds),
        select_case_ids=dataset.case_ids(options.validation_folds),
        precision=trainer.precision,
        options=options,
        manifest=dataset,
    )
