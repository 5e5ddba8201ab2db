"""Errors of the export are explained like those of the training."""

import errno
from types import SimpleNamespace

import pytest
import tensorflow as tf

from brats_tfrecord import workflow
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.training.train_options import TrainOptions


@pytest.mark.parametrize(
    "raised, expected, message",
    [
        (OSError(errno.ENOSPC, "full"), Stopped, "--model_dir=model: the disk is full"),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM on a GPU"),
            InputError,
            "smaller --batch_size",
        ),
    ],
)
def test_errors_of_the_export_name_the_flag_to_change(monkeypatch, raised, expected, message):
    def build_network(options):
        raise raised

    monkeypatch.setattr(workflow, "train", lambda options, initial: SimpleNamespace(network=None))
    monkeypatch.setattr(workflow.networks, "build_network", build_network)
    with pytest.raises(expected, match=message):
        workflow.train_and_export(TrainOptions("data", "model"))


def test_only_the_chief_exports(monkeypatch):
    monkeypatch.setattr(workflow, "train", lambda options, initial: None)
    assert workflow.train_and_export(TrainOptions("data", "model")) is None
