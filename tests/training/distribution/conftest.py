"""GPUs that exist for TensorFlow's lists only."""

import pytest
import tensorflow as tf


@pytest.fixture
def show_gpus(monkeypatch):
    """Function (details of each GPU) that lets TensorFlow list these GPUs."""

    def show(details):
        gpus = list(range(len(details)))
        for name in ("list_physical_devices", "get_visible_devices"):
            monkeypatch.setattr(tf.config, name, lambda kind: gpus)
        monkeypatch.setattr(tf.config.experimental, "get_device_details", details.__getitem__)

    return show
