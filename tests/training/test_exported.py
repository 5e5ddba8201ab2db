"""Flags that concern only the export of a finished run."""

import dataclasses

import numpy as np
import pytest

from brats_tfrecord import spec, workflow
from brats_tfrecord.serving import card
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.predict import Segmenter
from brats_tfrecord.serving.tuning import TuningResult
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow


def test_a_finished_run_is_exported_again(dataset, tmp_path, monkeypatch):
    """With the post-processing chosen for its validation cases, then without, but with flips."""

    def choose(cases):
        return TuningResult(PostProcessing(7), len(cases), patients=len(cases))

    monkeypatch.setattr(workflow.tuning, "choose_post_processing", choose)
    options = TrainOptions(
        str(dataset.root),
        str(tmp_path),
        filters="2,4",
        patch_size=8,
        epochs=1,
        validation_fold="0",
        precision="float32",
    )
    first = workflow.train_and_export(options)
    tuned = card.read(first.path)
    assert tuned.post_processing == PostProcessing(7) and not tuned.flips
    assert tuned.training["post_processing"]["cases"] == len(dataset.case_ids([0]))

    other = dataclasses.replace(options, post_processing="none", test_time_flips=True)
    second = workflow.train_and_export(other)
    flipped = card.read(second.path)
    assert flipped.post_processing.is_off and flipped.flips
    assert second.result.history == first.result.history


@pytest.mark.parametrize(
    "network, targets", [("unet", "classes"), ("unet_nn", "classes"), ("unet_nn", "regions")]
)
def test_validation_predicts_as_the_exported_model_does(dataset, tmp_path, network, targets):
    """The crop of 20 x 17 x 16 voxels is larger than the patches that unet_nn was trained on."""
    options = TrainOptions(
        str(dataset.root),
        str(tmp_path),
        network=network,
        targets=targets,
        filters="2,4",
        patch_size=9,
        epochs=2,
        learning_rate=0.02,
        loss="dice_cross_entropy",
        precision="float32",
        post_processing="auto",
    )
    run = workflow.train_and_export(options)
    piece = card.read(run.path).piece
    assert piece.shape == ((9, 9, 9) if network == "unet_nn" else (128, 128, 128))
    best = run.result.history[run.result.best_epoch - 1]
    dice = np.mean([case.dice(PostProcessing()) for case in run.validation_cases], axis=0)
    for region, expected in zip(spec.REGIONS, dice):
        assert best[f"val_dice_{region}"] == pytest.approx(expected, abs=1e-6)
    assert best["val_dice_WT"] > 0.05, "not trained enough to tell predictions apart"


@pytest.mark.parametrize(
    "network, targets, flags",
    [("unet", "classes", {}), ("unet_nn", "regions", {"modality_dropout": 0.4, "augment": "full"})],
)
def test_a_model_with_a_brain_channel_is_given_the_modalities_alone(
    stripped_dataset, tmp_path, network, targets, flags
):
    """unet_nn sees windows of 9 voxels, many of which have no background in their corners."""
    run = workflow.train_and_export(
        TrainOptions(
            str(stripped_dataset.root),
            str(tmp_path),
            brain_channel=True,
            filters="2,4",
            precision="float32",
            network=network,
            targets=targets,
            patch_size=9,
            epochs=2,
            learning_rate=0.02,
            loss="dice_cross_entropy",
            **flags,
        )
    )
    segmenter = Segmenter(run.path)
    assert segmenter.card.brain_channel and segmenter.modalities == ("flair", "t1ce", "t2")
    assert run.network.input_shape[-1] == 4
    best = run.result.history[run.result.best_epoch - 1]
    dice = np.mean([case.dice(PostProcessing()) for case in run.validation_cases], axis=0)
    for region, expected in zip(spec.REGIONS, dice):
        assert best[f"val_dice_{region}"] == pytest.approx(expected, abs=1e-6)
    text = (tmp_path / "run_card.md").read_text()
    assert "flair, t1ce, t2, brain" in text
