"""Saves small modules with weights as an exported model has them, and reads them again."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.serving import stored_weights


def save(folder, *networks):
    """Saves a module that tracks the weights of networks, in the same structure."""
    module = tf.Module()
    module.weights = [[tf.Variable(tensor) for tensor in network] for network in networks]
    tf.saved_model.save(module, str(folder))
    return folder


def numbered(count, offset=0):
    """`count` float32 arrays of differing shapes, each filled with its own number."""
    return [np.full((1, n % 3 + 1), n + offset, np.float32) for n in range(count)]


def assert_equal(read, networks):
    assert [len(network) for network in read] == [len(network) for network in networks]
    for ours, theirs in zip(read, networks):
        for tensor, expected in zip(ours, theirs):
            np.testing.assert_array_equal(tensor, expected, strict=True)


def test_weights_come_in_the_order_of_the_network(tmp_path):
    # Twelve, because by name the tenth comes before the second.
    assert_equal(stored_weights.read(save(tmp_path, numbered(12))), [numbered(12)])


def test_networks_of_an_ensemble_are_kept_apart(tmp_path):
    networks = [numbered(3, offset=100 * n) for n in range(11)]
    assert_equal(stored_weights.read(save(tmp_path, *networks)), networks)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "without index"])
def test_damaged_variables_are_refused(tmp_path, damage):
    save(tmp_path, numbered(3))
    [data] = (tmp_path / "variables").glob("variables.data-*")
    content = bytearray(data.read_bytes())
    if damage == "truncated":
        data.write_bytes(content[:4])
    elif damage == "changed":
        content[0] ^= 1  # of the first tensor, whose checksum is then wrong
        data.write_bytes(content)
    elif damage == "missing":
        data.unlink()
    else:
        (tmp_path / "variables" / "variables.index").unlink()
    with pytest.raises(InputError, match="missing or damaged .*export the model again"):
        stored_weights.read(tmp_path)


def test_a_model_of_another_program_is_refused(tmp_path):
    module = tf.Module()
    module.kernels = [tf.Variable(1.0)]
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(InputError, match="holds no weights of a network"):
        stored_weights.read(tmp_path)
