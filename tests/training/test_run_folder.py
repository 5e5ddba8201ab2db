import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import run_folder
from brats_tfrecord.training.options import TrainOptions


@pytest.fixture
def layer():
    made = tf.keras.layers.Dense(1, use_bias=False)
    made.build((None, 1))
    return made


def checkpoints(folder, layer):
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build(layer.trainable_variables)
    return run_folder.Checkpoints(folder, layer, optimizer)


def weight(layer):
    return float(layer.kernel[0, 0])


def test_last_and_best_are_kept_apart_and_older_ones_go(tmp_path, layer):
    kept = checkpoints(tmp_path, layer)
    assert kept.restore_last() == 0
    for epoch, best in ((1, 1), (2, 2), (3, 2)):
        layer.kernel.assign([[float(epoch)]])
        kept.save(epoch, best)
    (tmp_path / "checkpoints/last-00002_temp").mkdir()  # left by a kill
    layer.kernel.assign([[4.0]])
    kept.save(4, 2)
    assert sorted({path.stem for path in (tmp_path / "checkpoints").iterdir()}) == [
        "best-00002", "last-00004"]

    layer.kernel.assign([[0.0]])
    resumed = checkpoints(tmp_path, layer)
    assert (resumed.restore_last(), weight(layer)) == (4, 4.0)
    resumed.restore_best(2)
    assert weight(layer) == 2.0


def test_a_checkpoint_without_its_index_does_not_count(tmp_path, layer):
    kept = checkpoints(tmp_path, layer)
    kept.save(1, None)
    (tmp_path / "checkpoints/last-00002.data-00000-of-00001").write_bytes(b"half")
    assert kept.restore_last() == 1


def test_a_damaged_run_file_is_named(tmp_path, dataset):
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last-00001.index").touch()
    with pytest.raises(InputError, match="run.json: is damaged"):
        run_folder.claim(TrainOptions(str(dataset.root), str(tmp_path)), dataset)
