"""A run's card as Markdown that reads well as plain text too. Imports no TensorFlow."""

from brats_tfrecord import spec
from brats_tfrecord.wording import duration


def text(card):
    """The Markdown of a card that `run_card.write` made."""
    flags = [
        (f"--{name}", value, name in card["not_default"]) for name, value in card["flags"].items()
    ]
    sections = {
        "Result": (("", "value"), _result(card["result"])),
        "Time": (("", "value"), _times(card["timings"])),
        "Data and network": (("", "value"), _data_and_network(card)),
        "Flags that differ from their defaults": (
            ("flag", "value"),
            [(flag, value) for flag, value, differs in flags if differs],
        ),
        "Flags at their defaults": (
            ("flag", "value"),
            [(flag, value) for flag, value, differs in flags if not differs],
        ),
        "Versions": (("package", "version"), list(card["versions"].items())),
        "Sessions": (
            ("begun (UTC)", "ran for", "epochs before", "after", "state"),
            [_session(session) for session in card["sessions"]],
        ),
    }
    lines = ["# Run card", "", _headline(card), ""]
    for title, (head, rows) in sections.items():
        lines += [f"## {title}", "", *_table(head, rows), ""]
    return "\n".join(lines)


def _headline(card):
    times = len(card["sessions"]) - 1
    resumed = "" if not times else ", resumed " + ("once" if times == 1 else f"{times} times")
    return (
        f"**{card['state']}** after {card['result']['finished_epochs']} of "
        f"{card['flags']['epochs']} epochs{resumed}."
    )


def _result(result):
    rows = [
        ("finished epochs", result["finished_epochs"]),
        ("best epoch", result["best_epoch"] or "none was validated: the last counts"),
    ]
    best = result["best"] or result["last"]
    rows += [
        (f"Dice {region}, {title}, validation", f"{best[f'val_dice_{region}']:.4f}")
        for region, title in spec.REGION_TITLES.items()
        if f"val_dice_{region}" in best
    ]
    for name, title in (
        ("val_dice_mean", "Dice, mean of the three"),
        ("val_loss", "loss, validation"),
        ("loss", "loss, training"),
    ):
        if name in best:
            rows.append((title, f"{best[name]:.4f}"))
    return rows


def _times(timings):
    rate, wait, each = (
        timings[name]
        for name in ("volumes_per_second_median", "input_wait", "epoch_seconds_median")
    )
    return [
        ("all sessions", duration(timings["sessions_seconds"])),
        ("training steps alone", duration(timings["training_seconds"])),
        ("an epoch's steps, median", "not measured" if each is None else f"{each:.1f} s"),
        ("speed, median", "not measured" if rate is None else f"{rate:.2f} volumes/s"),
        ("waiting for input", "not measured" if wait is None else f"{wait:.1%} of training"),
    ]


def _data_and_network(card):
    dataset, network = card["dataset"], dict(card["network"])
    patch = "x".join(map(str, network.pop("patch_shape")))
    rows = [
        (
            f"{use} cases",
            f"{count}, of "
            + (
                "no fold"
                if not dataset["folds"][use]
                else "fold " + ", ".join(map(str, dataset["folds"][use]))
            ),
        )
        for use, count in dataset["cases"].items()
    ]
    rows += [
        ("dataset fingerprint", dataset["fingerprint"]),
        ("label scheme", dataset["label_scheme"]),
        ("crops, patches in voxels", f"{'x'.join(map(str, dataset['crop_shape']))}, {patch}"),
    ]
    rows += [
        (f"network {name}", f"{value:,}" if isinstance(value, int) else value)
        for name, value in network.items()
    ]
    return [
        *rows,
        ("precision", card["arithmetic"]["precision"]),
        ("devices", ", ".join(card["arithmetic"]["devices"])),
    ]


def _session(session):
    return (
        session["begun"][:19].replace("T", " "),
        duration(session["seconds"]),
        session["epochs_before"],
        session["epochs_after"],
        session["state"],
    )


def _table(head, rows):
    """A Markdown table with columns of even width."""
    cells = [
        [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)
    ]
    widths = [max(3, *map(len, column)) for column in zip(*cells)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
