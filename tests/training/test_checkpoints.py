import contextlib
import os
import pathlib

import pytest
import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
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
        "last-00003-000000",
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


def save_two(folder, layer):
    """Two states, with the weights 1 and 2; returns the two files of the second."""
    kept = checkpoints(folder, layer)
    for epoch in (1, 2):
        layer.kernel.assign([[float(epoch)]])
        kept.save_last(Position(epoch, loss=epoch / 3))
    folder = folder / "checkpoints"
    assert len(list(folder.iterdir())) == 4  # nothing else is left behind
    return folder / "last-00002-000000.index", folder / "last-00002-000000.data-00000-of-00001"


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
    ],
)
def test_the_state_before_a_damaged_one_is_used_and_one_line_says_so(tmp_path, layer, part, damage):
    damage(save_two(tmp_path, layer)[part])
    layer.kernel.assign([[9.0]])
    resumed = checkpoints(tmp_path, layer)
    assert (resumed.restore_last(), weight(layer)) == (Position(1, loss=1 / 3), 1.0)
    assert resumed.notices == [
        f"{tmp_path}/checkpoints/last-00002-000000: this checkpoint is damaged or incomplete; "
        "continuing from the state before it, last-00001-000000"
    ]
    resumed.save_last(Position(1, 7))  # keeps the whole state, not the damaged one
    names = {path.stem for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"last-00001-000000", "last-00001-000007"}


def test_if_both_states_are_damaged_the_newer_is_named(tmp_path, layer):
    save_two(tmp_path, layer)
    for path in (tmp_path / "checkpoints").glob("*.data*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="last-00002-000000: this checkpoint is damaged"):
        checkpoints(tmp_path, layer).restore_last()


def test_a_first_state_that_was_cut_short_is_no_reason_to_refuse_the_run(tmp_path, layer):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last-00000-000003.data-00000-of-00001").write_bytes(b"half")
    resumed = checkpoints(tmp_path, layer)
    assert resumed.restore_last() == Position()
    assert resumed.notices[0].endswith("damaged or incomplete; continuing from the beginning")


def test_files_and_folder_are_on_the_disk_before_the_older_state_goes(tmp_path, layer, monkeypatch):
    """Replaces the removal and fsync by a log of their calls."""
    kept, log = checkpoints(tmp_path, layer), []
    monkeypatch.setattr(files.os, "fsync", lambda number: log.append(os.readlink(fd(number))))
    monkeypatch.setattr(pathlib.Path, "unlink", lambda path: log.append(f"remove {path.stem}"))
    for step in (1, 2, 3):
        kept.save_last(Position(0, step))
    folder = str(tmp_path / "checkpoints")
    data, index, third, *removed = log[-5:]
    assert pathlib.Path(data).name == "last-00000-000003.data-00000-of-00001"
    assert pathlib.Path(index).name == "last-00000-000003.index"
    assert third == folder and set(removed) == {"remove last-00000-000001"}


def fd(number):
    return f"/proc/self/fd/{number}"


def test_the_same_position_is_written_once(tmp_path, layer):
    index, _ = save_two(tmp_path, layer)
    kept = checkpoints(tmp_path, layer)
    written = index.stat().st_mtime_ns
    kept.save_last(kept.restore_last())
    assert index.stat().st_mtime_ns == written
    assert len(list((tmp_path / "checkpoints").glob("*.index"))) == 2
