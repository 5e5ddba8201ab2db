import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import history


def row(epoch, dice=None):
    value = {"epoch": epoch, "loss": 1 / epoch, "accuracy": 0.1 * epoch,
             "volumes_per_second": 2.0, "seconds": 3.0}
    if dice is not None:
        value |= {"val_loss": 1.0, "val_accuracy": 0.5, "val_dice_WT": dice, "val_dice_TC": dice,
                  "val_dice_ET": dice, "val_dice_mean": dice}
    return value


def written(folder, *rows):
    course = history.History(folder)
    for one in rows:
        course.add(one)
    course.draw()
    return course


def test_rows_come_back_as_they_were(tmp_path):
    course = written(tmp_path, row(1), row(2, 1 / 3), row(3))
    assert history.History(tmp_path, 3).rows == course.rows
    assert course.rows[0]["val_loss"] is None
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_epoch_is_the_first_of_the_highest_dice(tmp_path):
    assert written(tmp_path / "a", row(1), row(2, 0.5), row(3, 0.7), row(4, 0.7)).best_epoch == 3
    assert written(tmp_path / "b", row(1), row(2)).best_epoch is None


def test_a_row_whose_checkpoint_was_never_finished_is_dropped(tmp_path):
    written(tmp_path, row(1, 0.2), row(2, 0.9))
    resumed = history.History(tmp_path, 1)
    assert resumed.best_epoch == 1
    resumed.add(row(2, 0.3))
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "2"]


def test_a_history_that_lacks_finished_epochs_is_refused(tmp_path):
    written(tmp_path, row(1))
    with pytest.raises(InputError, match="history.csv: lacks rows of the 2 epochs"):
        history.History(tmp_path, 2)
    (tmp_path / "history.csv").write_text("epoch,loss\n1,x\n")
    with pytest.raises(InputError, match="history.csv"):
        history.History(tmp_path, 1)


def test_tensorboard_gets_the_scalars(tmp_path):
    written(tmp_path, row(1, 0.25))
    (events,) = (tmp_path / "tensorboard").iterdir()
    found = {value.tag: tf.make_ndarray(value.tensor).item()
             for event in tf.compat.v1.train.summary_iterator(str(events))
             for value in event.summary.value}
    assert found["val_dice_WT"] == 0.25 and found["loss"] == 1.0


def test_plot_shows_training_validation_and_each_region():
    rows = [dict.fromkeys(history.COLUMNS) | row(epoch, 0.1 * epoch) for epoch in (1, 2, 3)]
    loss, accuracy, dice = history.plot(rows).axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert list(accuracy.lines[0].get_ydata()) == [r["accuracy"] for r in rows]
    assert [line.get_label() for line in dice.lines] == ["WT", "TC", "ET"]
