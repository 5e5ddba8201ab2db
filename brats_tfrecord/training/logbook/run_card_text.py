"""Formats a run card as Markdown that is readable as plain text, too. Imports no TensorFlow."""

from collections.abc import Iterable, Sequence

from brats_tfrecord import spec
from brats_tfrecord.wording import duration


def to_markdown(card: dict) -> str:
    """Formats a card.

    Args:
        card: content of run_card.json.
    """
    preset = card.get("preset", {"name": "documented", "flags": []})
    own = [name for name in card["not_default"] if name not in preset["flags"]]
    flags = card["flags"]
    sections: dict[str, tuple[Sequence, Iterable[Sequence]]] = {
        "Result": (("", "value"), _result(card["result"])),
        "Time": (("", "value"), [*_times(card["timings"]), *_time_budget(card.get("time_budget"))]),
        "Data and network": (("", "value"), _data_and_network(card)),
        **_preset(preset, flags),
        "Flags that differ from their defaults": (
            ("flag", "value"),
            [(f"--{name}", flags[name]) for name in own],
        ),
        "Flags at their defaults": (
            ("flag", "value"),
            [
                (f"--{name}", value)
                for name, value in flags.items()
                if name not in own and name not in preset["flags"]
            ],
        ),
        "Versions": (("package", "version"), card["versions"].items()),
        "Sessions": (
            ("begun (UTC)", "ran for", "epochs before", "after", "state"),
            [_session(session) for session in card["sessions"]],
        ),
    }
    lines = ["# Run card", "", _headline(card), ""]
    for title, (header, rows) in sections.items():
        lines += [f"## {title}", "", *_table(header, rows), ""]
    return "\n".join(lines)


def _headline(card):
    count = len(card["sessions"]) - 1
    resumed = "" if not count else ", resumed " + ("once" if count == 1 else f"{count} times")
    epochs = card.get("time_budget", card["flags"])["epochs"]
    return (
        f"**{card['state']}** after {card['result']['finished_epochs']} of "
        f"{epochs} epochs{resumed}."
    )


def _result(result):
    best = result["best"] or result["last"]
    figures = {
        **{
            f"val_dice_{region}": f"Dice {region}, {title}, validation"
            for region, title in spec.REGION_TITLES.items()
        },
        "val_dice_mean": "Dice, mean of the three",
        "val_loss": "loss, validation",
        "loss": "loss, training",
    }
    return [
        ("finished epochs", result["finished_epochs"]),
        ("best epoch", result["best_epoch"] or "none was validated: the last counts"),
        *((title, f"{best[name]:.4f}") for name, title in figures.items() if name in best),
    ]


def _times(timings):
    def measured(name, form):
        return "not measured" if timings[name] is None else form.format(timings[name])

    return [
        ("all sessions", duration(timings["sessions_seconds"])),
        ("training steps alone", duration(timings["training_seconds"])),
        ("an epoch's steps, median", measured("epoch_seconds_median", "{:.1f} s")),
        ("speed, median", measured("volumes_per_second_median", "{:.2f} volumes/s")),
        ("waiting for input", measured("input_wait", "{:.1%} of training")),
    ]


def _preset(preset, flags):
    """The section of the flags that a preset has set; none without."""
    rows = [(f"--{name}", flags[name]) for name in preset["flags"]]
    return {f"Flags set by --preset={preset['name']}": (("flag", "value"), rows)} if rows else {}


def _time_budget(planned):
    """Rows about the plans of a run with a time budget; none without."""
    if not planned:
        return []
    plans = planned["plans"]
    steps = [plan["steps"] for plan in plans]
    paces = [plan["step"] for plan in plans]
    return [
        ("time budget", duration(60 * planned["minutes"])),
        ("used of it", duration(planned["used_seconds"])),
        ("steps, first plan and last", f"{steps[0]:,}, {steps[-1]:,}"),
        ("plans made", f"{len(plans)}, of {min(steps):,} to {max(steps):,} steps"),
        ("seconds a step, fastest and slowest plan", f"{min(paces):.3g}, {max(paces):.3g}"),
        ("validations planned", planned["validations"]),
    ]


def _data_and_network(card):
    dataset, network = card["dataset"], dict(card["network"])
    crop, patch = (
        "x".join(map(str, shape)) for shape in (dataset["crop_shape"], network.pop("patch_shape"))
    )
    rows = []
    for use, count in dataset["cases"].items():
        folds = dataset["folds"][use]
        names = f"fold {', '.join(map(str, folds))}" if folds else "no fold"
        rows.append((f"{use} cases", f"{count}, of {names}"))
    return [
        *rows,
        ("dataset fingerprint", dataset["fingerprint"]),
        ("label scheme", dataset["label_scheme"]),
        ("crops, patches in voxels", f"{crop}, {patch}"),
        *(
            (f"network {name}", f"{value:,}" if isinstance(value, int) else value)
            for name, value in network.items()
        ),
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


def _table(header, rows):
    """Lines of a Markdown table whose columns are aligned."""
    cells = [
        [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        for row in (header, *rows)
    ]
    widths = [max(3, *map(len, column)) for column in zip(*cells)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
