import contextlib

import pytest
import tensorflow as tf

from brats_tfrecord.training.checkpoints import Checkpoints, Position
from brats_tfrecord.training.optimization import updates


@pytest.fixture
def layer():
    layer = tf.keras.layers.Dense(1, use_bias=False)
    layer.build((None, 1))
    return layer


def checkpoints(folder, layer):
    state = updates.Updates(
        tf.distribute.get_strategy(), tf.keras.optimizers.Adam(), layer.trainable_variables
    )
    return Checkpoints(folder, layer, state)


def weight(layer):
    return float(layer.kernel[0, 0])


def test_the_last_state_and_the_best_model_are_kept_and_older_ones_removed(tmp_path, layer):
    kept = checkpoints(tmp_path, layer)
    assert kept.restore_last() == Position()
    for epoch, best in ((1, 1), (2, 2), (3, 2)):
        layer.kernel.assign([[float(epoch)]])
        if epoch == best:
            kept.save_best(epoch)
        kept.save_last(Position(epoch))
        kept.remove_best_except(best)
    (tmp_path / "checkpoints/last-00002-000000_temp").mkdir()  # left by a killed process
    layer.kernel.assign([[4.0]])
    kept.save_last(Position(3, 12))
    assert sorted({path.stem for path in (tmp_path / "checkpoints").iterdir()}) == [
        "best-00002",
        "last-00003-000012",
    ]

    layer.kernel.assign([[0.0]])
    resumed = checkpoints(tmp_path, layer)
    assert (resumed.restore_last(), weight(layer)) == (Position(3, 12), 4.0)
    resumed.restore_best(2)
    assert weight(layer) == 2.0


def test_the_sums_of_an_epoch_are_restored_bit_for_bit(tmp_path, layer):
    position = Position(2, 3, loss=0.1 + 0.2, accuracy=1 / 3, seconds=7.7, waited=1e-9)
    checkpoints(tmp_path, layer).save_last(position)
    assert checkpoints(tmp_path, layer).restore_last() == position


def test_the_best_model_has_the_validated_weights_the_last_state_the_trained(tmp_path, layer):
    @contextlib.contextmanager
    def halved():
        layer.kernel.assign([[0.5]])
        yield
        layer.kernel.assign([[1.0]])

    kept = checkpoints(tmp_path, layer)
    layer.kernel.assign([[1.0]])
    kept.save_best(1, halved())
    kept.save_last(Position(1))
    kept.restore_best(1)
    assert weight(layer) == 0.5
    kept.restore_last()
    assert weight(layer) == 1.0


def test_a_checkpoint_without_its_index_is_ignored(tmp_path, layer):
    kept = checkpoints(tmp_path, layer)
    kept.save_last(Position(1))
    (tmp_path / "checkpoints/last-00002-000000.data-00000-of-00001").write_bytes(b"half")
    assert kept.restore_last() == Position(1)
