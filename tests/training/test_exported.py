"""Flags that concern only the export of a finished run."""

import dataclasses

import pytest

from brats_tfrecord import metrics, spec, workflow
from brats_tfrecord.serving import card
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.tuning import TuningResult
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow


def test_a_finished_run_is_exported_again(dataset, tmp_path, monkeypatch):
    """With the post-processing chosen for its validation cases, then without, but with flips."""

    def choose(cases):
        dice = dict.fromkeys(spec.REGIONS, 0.5)
        return TuningResult(PostProcessing(7 if cases else 0), len(cases), dice, dice)

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


@pytest.mark.parametrize("network", ["unet", "unet_nn"])
def test_validation_predicts_as_the_exported_model_does(dataset, tmp_path, network):
    """The crop of 20 x 17 x 16 voxels is larger than the patches that unet_nn was trained on."""
    options = TrainOptions(
        str(dataset.root),
        str(tmp_path),
        network=network,
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
    dice = {region: [] for region in spec.REGIONS}
    for case in run.validation_cases:
        scores = metrics.case_metrics(case.truth, case.prediction, case.spacing_mm)
        for region, values in dice.items():
            values.append(scores[region]["dice"])
    for region, values in dice.items():
        assert best[f"val_dice_{region}"] == pytest.approx(sum(values) / len(values), abs=1e-6)
    assert best["val_dice_WT"] > 0.05, "not trained enough to tell predictions apart"
