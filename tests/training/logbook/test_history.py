import os

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.logbook import history


def row(epoch, dice=None, loss=None):
    value = {
        "epoch": epoch,
        "loss": loss or 1 / epoch,
        "accuracy": 0.1 * epoch,
        "learning_rate": 1e-3,
        "volumes_per_second": 2.0,
        "input_wait": 0.25,
        "seconds": 3.0,
    }
    if dice is not None:
        value |= {
            "val_loss": 1.0,
            "val_accuracy": 0.5,
            "val_dice_WT": dice,
            "val_dice_TC": dice,
            "val_dice_ET": dice,
            "val_dice_mean": dice,
        }
    return value


def written(folder, *rows):
    written = history.History(folder)
    for row in rows:
        written.add(row)
    written.draw()
    return written


def tensorboard(folder):
    """The events of a run as TensorBoard reads them."""
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def scalars(folder, tag):
    return [(event.step, event.value) for event in tensorboard(folder).Scalars(tag)]


def test_rows_are_read_back_unchanged(tmp_path):
    first = written(tmp_path, row(1), row(2, 1 / 3), row(3))
    assert history.History(tmp_path, 3).rows == first.rows
    assert first.rows[0]["val_loss"] is None
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert len(lines) == 4 and '"' not in "".join(lines)
    assert lines[1] == "1,1.0,0.1,,,,,,,0.001,2.0,0.25,3.0"
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_epoch_is_the_first_with_the_highest_dice(tmp_path):
    assert written(tmp_path / "a", row(1), row(2, 0.5), row(3, 0.7), row(4, 0.7)).best_epoch == 3
    assert written(tmp_path / "b", row(1), row(2)).best_epoch is None


def test_a_row_without_its_checkpoint_is_dropped(tmp_path):
    written(tmp_path, row(1, 0.2), row(2, 0.9))
    resumed = history.History(tmp_path, 1)
    assert resumed.best_epoch == 1
    resumed.add(row(2, 0.3))
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "2"]


def test_a_history_without_checkpoints_is_refused(tmp_path):
    """A single row is possible: its session was killed before the first checkpoint."""
    written(tmp_path, row(1))
    assert history.History(tmp_path, 0).rows == []
    written(tmp_path, row(1), row(2))
    with pytest.raises(InputError, match="has rows of 2 epochs, but their checkpoints are missing"):
        history.History(tmp_path, 0)


@pytest.mark.parametrize(
    "damage, lost",
    [
        (lambda text: None, 3),
        (lambda text: "", 3),
        (lambda text: "\0" * len(text), 3),
        (lambda text: text[: text.index("\n3,") + 5], 1),  # cut off within a row
        (lambda text: text.replace("1,1.0,", "1,x,"), 1),
        (lambda text: text + "4,9\n", 0),
    ],
)
def test_lost_rows_are_empty_and_one_line_says_so(tmp_path, damage, lost):
    written(tmp_path, row(1, 0.4), row(2, 0.7), row(3, 0.5))
    path = tmp_path / "history.csv"
    text = damage(path.read_text())
    path.unlink() if text is None else path.write_text(text)
    read = history.History(tmp_path, 3)
    assert [row["epoch"] for row in read.rows] == [1, 2, 3]
    assert sum(row["loss"] is None for row in read.rows) == lost
    assert read.best_epoch == (None if lost == 3 else 2)
    lines = [line.split("; ")[1] for line in read.notices]
    epochs = "1 epoch" if lost == 1 else f"{lost} epochs"
    assert lines == ([f"the rows of {epochs} are lost and stay empty"] if lost else [])
    read.add(row(4, 0.6))
    read.draw()
    again = history.History(tmp_path, 4)
    assert again.rows == read.rows and not again.notices


def test_rows_that_are_kept_elsewhere_replace_lost_ones(tmp_path):
    spare = [{"epoch": 2, "loss": 0.5, "val_dice_mean": 0.7}, {"epoch": 9, "loss": 0.1}]
    read = history.History(tmp_path, 3, spare)
    assert read.best_epoch == 2 and read.rows[1]["loss"] == 0.5
    assert read.notices == [
        f"{tmp_path}/history.csv: is missing or damaged; the row of epoch 2 is restored from "
        "run_card.json; the rows of 2 epochs are lost and stay empty; the best epoch is chosen "
        "from the others"
    ]


def test_tensorboard_scalars_are_grouped(tmp_path):
    written(tmp_path, row(1, 0.25))
    assert scalars(tmp_path, "train/loss") == [(1, 1.0)]
    assert scalars(tmp_path, "validation/dice_WT") == [(1, 0.25)]
    assert scalars(tmp_path, "speed/input_wait") == [(1, 0.25)]
    assert {tag.split("/")[0] for tag in tensorboard(tmp_path).Tags()["scalars"]} == {
        "train",
        "validation",
        "speed",
    }


def test_tensorboard_shows_each_epoch_once_after_sessions_that_were_killed(tmp_path):
    """Two sessions were killed after the row of an epoch, before its checkpoint."""
    written(tmp_path, row(1, loss=0.5))
    again = history.History(tmp_path, 0)
    for epoch in (1, 2, 3):
        again.add(row(epoch, loss=0.25))
    again.add_images(3, np.zeros((1, 8, 8, 3), np.uint8))
    last = history.History(tmp_path, 2)
    last.add(row(3, loss=0.125))
    assert scalars(tmp_path, "train/loss") == [(1, 0.25), (2, 0.25), (3, 0.125)]
    assert tensorboard(tmp_path).Images("overlays/1") == []


def test_a_finished_run_gets_no_more_event_files(tmp_path):
    written(tmp_path, row(1))
    history.History(tmp_path, 1)
    assert len(os.listdir(tmp_path / "tensorboard")) == 1


def test_pictures_go_to_tensorboard_and_the_latest_to_overlays_png(tmp_path):
    written = history.History(tmp_path)
    for epoch in (1, 2):
        pictures = np.zeros((2, 4, 6, 3), np.uint8)
        pictures[1, 0, 0] = (10 * epoch, 0, 255)
        written.add_images(epoch, pictures)
    shown = tensorboard(tmp_path)
    assert [event.step for event in shown.Images("overlays/2")] == [1, 2]
    assert (shown.Images("overlays/2")[0].width, shown.Images("overlays/2")[0].height) == (6, 4)
    png = tf.io.decode_png((tmp_path / "overlays.png").read_bytes()).numpy()
    assert png.shape == (8, 6, 3) and png[4, 0].tolist() == [20, 0, 255]


def test_without_pictures_no_file_is_written(tmp_path):
    history.History(tmp_path).add_images(1, np.zeros((0, 1, 1, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
