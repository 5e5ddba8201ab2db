"""Starts a network from the weights of another one, as far as their channels agree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.wording import plural

FILE_NAME = "initial_model.json"


@dataclass(frozen=True)
class InitialWeights:
    """The weights of a trained network and the meaning of its channels.

    Attributes:
        source: where they come from, for messages.
        architecture: options of the network that all layers but the first and the last follow.
        inputs: names of the input channels, in order.
        outputs: names of the output channels, in order.
        weights: float32 arrays in the order of `Network.model.weights`.
        known_cases: the cases that the model has seen, as JSON types: "train" and "select" are
            lists of case ids, "identities" is case id -> patient and voxels. `record` stores them.
    """

    source: str
    architecture: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: list[np.ndarray]
    known_cases: dict[str, Any]


def record(initial: InitialWeights, model_dir: Path | str) -> None:
    """Writes to the folder of a run which cases its initial weights have seen.

    A resumed run does not read the model that it started from, but its own card names these cases.
    """
    files.write_json(Path(model_dir) / FILE_NAME, initial.known_cases)


def recorded_cases(model_dir: Path | str) -> dict[str, Any] | None:
    """Returns what `record` wrote; None for a run that began with random weights.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(model_dir) / FILE_NAME
    if not path.exists():
        return None
    try:
        value = files.read_json(path)
        return {name: value[name] for name in ("train", "select", "identities")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is damaged ({error}); copy it from a backup, or train in a new --model_dir"
        ) from error


def assign(
    initial: InitialWeights,
    model: tf.keras.Model,
    architecture: dict[str, str],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
) -> str:
    """Copies weights into a network: the kernels of channels that both have, and all inner layers.

    Input channels that the other network lacks keep their random kernels. The last layer is taken
    if it has the same output channels, in any order, and stays random otherwise. Coarser outputs of
    deep supervision always stay random, because models are exported without them.

    Args:
        initial: the weights.
        model: network to change, `Network.model`, within its strategy's scope.
        architecture: its options, see `InitialWeights`.
        inputs, outputs: names of its channels, in order.

    Returns:
        What was taken and what was not, in one line.

    Raises:
        InputError: the architectures differ, or the weights do not fit.
    """
    _require_same_architecture(initial, architecture)
    shared = [name for name in inputs if name in initial.inputs]
    takes_outputs = set(outputs) == set(initial.outputs)
    given = iter(initial.weights)
    [image] = model.inputs
    values = []
    for layer in model.layers:
        for variable in layer.weights:
            own, value = variable.numpy(), next(given, None)
            if value is not None and layer.input is image and value.ndim == 5:
                value = _with_channels(own, value, -2, inputs, initial.inputs, shared)
            elif value is not None and layer.name == "logits":
                is_transposed = isinstance(layer, tf.keras.layers.Conv3DTranspose)
                axis = -2 if is_transposed and value.ndim == 5 else -1
                taken = outputs if takes_outputs else ()
                value = _with_channels(own, value, axis, outputs, initial.outputs, taken)
            if value is None or value.shape != own.shape:
                raise _unfit(initial)
            values.append(value)
    if next(given, None) is not None:
        raise _unfit(initial)
    model.set_weights(values)
    return _describe(initial, inputs, shared, outputs, takes_outputs)


def _require_same_architecture(initial, architecture):
    differences = [
        f"--{name} is {architecture[name]}, there it is {value}"
        for name, value in initial.architecture.items()
        if architecture[name] != value
    ]
    if differences:
        flags = " ".join(f"--{name}={value}" for name, value in initial.architecture.items())
        raise InputError(
            f"--init_from={initial.source}: is another network: {'; '.join(differences)}; "
            f"give {flags}"
        )


def _with_channels(own, given, axis, names, given_names, taken):
    """Returns `own` with the channels `taken` of an axis replaced by those of `given`.

    None if the shapes do not allow it.
    """
    if own.shape[axis] != len(names) or given.shape[axis] != len(given_names):
        return None
    own, given = np.moveaxis(own, axis, 0).copy(), np.moveaxis(given, axis, 0)
    if taken and own.shape[1:] != given.shape[1:]:
        return None
    for name in taken:
        own[names.index(name)] = given[given_names.index(name)]
    return np.moveaxis(own, 0, axis)


def _unfit(initial):
    return InputError(
        f"--init_from={initial.source}: its weights do not fit this version's network; "
        "export the model again, or train from random weights"
    )


def _describe(initial, inputs, shared, outputs, takes_outputs):
    random = [name for name in inputs if name not in shared]
    parts = [
        f"{plural(len(initial.weights), 'array')} of weights",
        f"input channels {','.join(shared) or 'none'}"
        + (f" ({','.join(random)} random)" if random else ""),
        "the outputs"
        if takes_outputs
        else f"not the outputs, which are {','.join(initial.outputs)} there and "
        f"{','.join(outputs)} here",
    ]
    return f"starting from {initial.source}: {'; '.join(parts)}"
