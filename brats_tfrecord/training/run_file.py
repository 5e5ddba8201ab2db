"""run.json, the record of what a run is; `run_folder` writes and compares it.

Imports no TensorFlow.
"""

from pathlib import Path
from typing import Any

from brats_tfrecord import files

RUN_FILE = "run.json"
RESULTS = ("history.csv", "saved_model", "checkpoints")
"""Files and folders that are worth keeping; a folder with any of them belongs to its run."""


def has_results(root: Path | str) -> bool:
    """Tells whether a run, or any fold of a cross-validation, has written results."""
    root = Path(root)
    return any(
        (folder / name).exists() for folder in (root, *root.glob("fold*")) for name in RESULTS
    )


def preset_values(root: Path | str, preset: str) -> dict[str, Any] | None:
    """Returns what a preset has set when the run in a folder began.

    Args:
        root: folder of the run.
        preset: name of the preset.

    Returns:
        Option -> value; None if the folder holds no run with this preset that has results.
    """
    try:
        recorded = files.read_json(Path(root) / RUN_FILE)["preset"]
        values = {str(name): value for name, value in recorded["values"].items()}
        is_same = recorded["name"] == preset and has_results(root)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged file is refused when the folder is claimed
    return values if is_same else None
