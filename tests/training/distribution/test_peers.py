import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.distribution.peers import Peers


@pytest.fixture
def two():
    """Peers of two processes, both of which always give the same values; the shapes they sum."""
    peers, shapes = Peers(tf.distribute.get_strategy()), set()
    peers.count = 2

    def reduce_sum(block):
        shapes.add(tuple(block.shape))
        return 2 * block

    peers._reduce_sum = reduce_sum
    return peers, shapes


def test_arrays_of_any_shape_are_summed_in_blocks_of_one_shape(two):
    peers, shapes = two
    large = np.arange(30_000.0).reshape(3, 100, 100)
    np.testing.assert_array_equal(peers.sum(large), 2 * large)
    np.testing.assert_array_equal(peers.sum([[1, 2**52], [np.nan, 0]]), [[2, 2**53], [np.nan, 0]])
    assert peers.sum(np.zeros((0, 4))).shape == (0, 4) and peers.sum([]).shape == (0,)
    assert len(shapes) == 1


def test_a_single_process_sums_nothing():
    peers = Peers(tf.distribute.get_strategy())
    np.testing.assert_array_equal(peers.sum([[1, 2]]), [[1.0, 2.0]])
    assert peers.anyone(0, "reason") == [False, True]
