import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from brats_tfrecord.training.logbook import history, history_plot


def row(epoch, dice=None, **measured):
    value = {
        "epoch": epoch,
        "loss": 1 / epoch,
        "accuracy": 0.1 * epoch,
        "learning_rate": 1e-3,
        "volumes_per_second": 2.0,
        "input_wait": 0.25,
        "seconds": 3.0,
        **measured,
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
    return dict.fromkeys(history.COLUMNS) | value


def labels(axes):
    return [line.get_label() for line in axes.lines]


def test_every_panel_plots_its_columns():
    rows = [row(1, 0.1), row(2), row(3, 0.3)]
    loss, dice, accuracy, rate, speed, wait = history_plot.plot(rows, 3).axes
    assert labels(loss) == labels(accuracy) == ["training", "validation"]
    assert list(loss.lines[1].get_xdata()) == [1, 3]
    assert labels(dice) == [
        "WT, whole tumour",
        "TC, tumour core",
        "ET, enhancing tumour",
        "mean",
        "best: epoch 3, 0.300",
    ]
    assert list(accuracy.lines[0].get_ydata()) == [r["accuracy"] for r in rows]
    assert list(rate.lines[0].get_ydata()) == [1e-3] * 3
    assert list(speed.lines[0].get_ydata()) == [2.0] * 3
    assert list(wait.lines[0].get_ydata()) == [25] * 3 and "%" in wait.get_title()


@pytest.mark.parametrize("loss", [0.0025, 2.5, 2500])
def test_long_numbers_do_not_overlap_the_panel_to_their_left(loss):
    rows = [
        row(
            epoch,
            loss=loss * (1 + 0.05 / epoch),
            accuracy=0.99875 + 1e-5 * epoch,
            learning_rate=1e-5,
            volumes_per_second=12345.0,
        )
        for epoch in range(1, 41)
    ]
    figure = history_plot.plot(rows)
    FigureCanvasAgg(figure).draw()
    for index, axes in enumerate(figure.axes):
        free_from = figure.axes[index - 1].bbox.x1 if index % 3 else 0
        for label in axes.get_yticklabels():
            assert label.get_window_extent().x0 > free_from, (axes.get_title(), label.get_text())


@pytest.mark.parametrize("rows", [[], [row(1, input_wait=None)]])
def test_a_panel_without_values_says_so(rows):
    axes = history_plot.plot(rows).axes
    texts = [" ".join(text.get_text() for text in panel.texts) for panel in axes]
    assert texts[1] == "no epoch was validated yet" and texts[5] == "not measured"
    assert (texts[0] == "") == bool(rows)


def test_the_axis_of_a_single_epoch_shows_whole_epochs():
    assert history_plot.plot([row(1, 0.5)], 1).axes[0].get_xlim() == (0.5, 2.5)
