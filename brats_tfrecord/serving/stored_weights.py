"""Reads the weights of a SavedModel from its variables alone, without its graph."""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord.errors import InputError

_KEY = re.compile(r"weights/(\d+)/(\d+)/\.ATTRIBUTES/VARIABLE_VALUE")
"""Name under which TensorFlow stores a tensor of `export._ServedModule.weights`."""


def read(model_dir: Path | str) -> list[list[np.ndarray]]:
    """Reads the weights of each network of a SavedModel, in the order of `Model.weights`.

    TensorFlow fixes its devices when it creates its first tensor, and `tf.saved_model.load` creates
    many. This function creates none, so that a strategy can still be made afterwards.

    Args:
        model_dir: folder of a SavedModel that this package exported.

    Returns:
        For each network a list of float32 arrays.

    Raises:
        InputError: the variables are missing or damaged, or are not those of networks.
    """
    prefix = Path(model_dir) / "variables" / "variables"
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        places = {
            tuple(map(int, match.groups())): match[0]
            for match in map(_KEY.fullmatch, reader.get_variable_to_shape_map())
            if match
        }
        tensors = {place: reader.get_tensor(places[place]) for place in sorted(places)}
    # The reader turns TensorFlow's errors into Python's, a truncated file into an IndexError.
    except (tf.errors.OpError, LookupError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{model_dir}: its variables are missing or damaged ({reason}); "
            "copy or export the model again"
        ) from error
    if not tensors:
        raise InputError(
            f"{model_dir}: holds no weights of a network; expected a SavedModel that train.py wrote"
        )
    networks = sorted({network for network, _ in tensors})
    return [
        [tensor for (owner, _), tensor in tensors.items() if owner == network]
        for network in networks
    ]
