"""The brain channel that training, validation and serving give to a network."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.predictor import Predictor
from brats_tfrecord.training import cross_validation, steps
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.training.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_tracing")]


def options(dataset, model_dir, **changes):
    """Whole crops of 20 x 17 x 16 voxels, which need padding, or patches."""
    small = {
        "filters": "2,4",
        "dropout": "0",
        "patch_size": 0,
        "augment": "none",
        "brain_channel": True,
        "precision": "float32",
    }
    return TrainOptions(str(dataset.root), str(model_dir), **{**small, **changes})


class Network:
    """A network that keeps what it is given."""

    input_shape = (None, None, None, None, 4)
    output_shape = (None, None, None, None, 4)
    weights = ()

    def __init__(self):
        self.images = []

    def __call__(self, image):
        self.images.append(image.numpy())
        return image


@pytest.fixture
def inputs(monkeypatch):
    """The images that steps have given to a network so far."""
    seen, logits = [], steps._logits

    def spy(network, image, training):
        seen.append(image.numpy())
        return logits(network, image, training)

    monkeypatch.setattr(steps, "_logits", spy)
    return seen


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("cohort", ["dataset", "stripped_dataset"])
def test_training_validation_and_serving_give_the_network_the_same(
    request, inputs, cohort, precision
):
    """In `dataset` no corner is background; in the other, one case has a constant channel."""
    dataset = request.getfixturevalue(cohort)
    chosen = options(dataset, "unused", validation_fold="1", precision=precision)
    trainer = Trainer(
        chosen,
        dataset,
        cross_validation.train_folds(chosen, dataset),
        devices.make_strategy("none"),
    )
    batches = [*trainer.train_batches()]
    for batch in batches:
        trainer.train_step(batch)
    slices = tf.zeros([2], tf.int32)
    for batch in trainer.eval_batches:
        trainer.eval_step(batch, slices)
        batches.append(batch)
    assert len(inputs) == 4  # two batches of two cases, and two of one
    card = ModelCard(
        Recipe("none"),
        chosen.modality_names,
        "brats2020",
        "classes",
        trainer.piece,
        "f" * 64,
        (),
        (),
        {},
        brain_channel=True,
    )
    network = Network()
    predictor = Predictor(network, card)
    for batch, seen in zip(batches, inputs):
        assert seen.shape[1:] == (20, 17, 16, 4)
        predictor.probabilities(tf.cast(batch["image"], tf.float32))
        served = network.images.pop()[:, :20, :17, :16]
        np.testing.assert_array_equal(served, seen)
        assert set(np.unique(seen[..., 3])) == {0, 1}


def test_replicas_mark_the_head_of_their_own_cases(stripped_dataset, stripped_case, inputs):
    chosen = options(stripped_dataset, "unused", virtual_devices=2, modalities="t1,t1ce")
    folds = cross_validation.train_folds(chosen, stripped_dataset)
    trainer = Trainer(chosen, stripped_dataset, folds, devices.make_strategy("none", 2))
    heads = [
        (stripped_case(case_id, True).volumes[..., :2] != 0).any(axis=-1)
        for case_id in stripped_dataset.case_ids(folds)
    ]
    for batch in trainer.train_batches():
        trainer.train_step(batch)
    assert len(inputs) == 4 and {image.shape for image in inputs} == {(1, 20, 17, 16, 3)}
    for image in inputs:
        assert any(np.array_equal(image[0, ..., 2], head) for head in heads)
