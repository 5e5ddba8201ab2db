"""Names and ids of modalities, classes, label schemes and regions. Imports nothing of the project.

Canonical names and ids are the same for every release; a `LabelScheme` maps them to the values in
the mask files of a release. Regions are derived from classes and never stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MODALITIES = ("t1", "t1ce", "t2", "flair")
"""Canonical modality names, in the order in which volumes are stacked on the channel axis."""

BRAIN_CHANNEL = "brain"
"""Name of the input channel that follows the modalities if a network has a brain channel."""

ORIENTATION = ("L", "P", "S")
"""Axis codes of every array in the project, and of the files of BraTS."""

BRATS_GRID = (240, 240, 155)
"""Shape (X, Y, Z) in voxels of 1 mm of every volume that BraTS publishes."""

BACKGROUND, NCR, ED, ET, RC = range(5)
"""Canonical class ids: background, necrosis, edema, enhancing tumour, resection cavity."""

CLASS_NAMES = ("background", "NCR/NET", "ED", "ET", "RC")
CLASS_TITLES = (
    "background",
    "necrotic / non-enhancing core",
    "peritumoral edema",
    "enhancing tumour",
    "resection cavity",
)
CLASS_COLOURS = ("#000000", "#e6332a", "#3aaa35", "#ffd500", "#36a9e1")
"""Colour of each class (sRGB) in figures, reports and the viewer."""

REGIONS = {"WT": (NCR, ED, ET), "TC": (NCR, ET), "ET": (ET,)}
"""Evaluation regions as unions of canonical classes (Menze et al. 2015, BraTS)."""

REGION_TITLES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}
REGION_COLOURS = {"WT": "#3aaa35", "TC": "#e6332a", "ET": "#ffd500"}


@dataclass(frozen=True)
class LabelScheme:
    """The label values in the mask files of a release.

    Attributes:
        name: the scheme's name in flags and manifests.
        values: file values of classes 0, 1, 2, …; its length is the number of classes.
    """

    name: str
    values: tuple[int, ...]

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.values)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Canonical class names, in the order of their ids."""
        return CLASS_NAMES[: self.classes]


LABEL_SCHEMES = {
    scheme.name: scheme
    for scheme in (
        LabelScheme("brats2020", (0, 1, 2, 4)),
        LabelScheme("brats2023", (0, 1, 2, 3)),
        LabelScheme("brats2024", (0, 1, 2, 3, 4)),
        LabelScheme("msd", (0, 2, 1, 3)),
    )
}


def input_names(modalities: Sequence[str], brain_channel: bool) -> tuple[str, ...]:
    """Returns the names of a network's input channels, in order.

    Args:
        modalities: names of its modalities.
        brain_channel: whether the brain channel follows them.
    """
    return (*modalities, BRAIN_CHANNEL) if brain_channel else tuple(modalities)


def structures(classes: int = 4) -> tuple[str, ...]:
    """Returns the names of the structures in the order of tables: regions, then classes.

    Args:
        classes: number of classes, background included. With 5 the resection cavity comes last.

    Returns:
        ("WT", "TC", "ET", "NCR/NET", "ED"[, "RC"]). ET is both a region and a class, listed once.

    Raises:
        ValueError: `classes` is neither 4 nor 5.
    """
    if classes not in (4, 5):
        raise ValueError(f"classes is {classes}; expected 4, or 5 with the resection cavity")
    names = [name for name in CLASS_NAMES[1:classes] if name not in REGIONS]
    return (*REGIONS, *names)


def members(structure: str) -> tuple[int, ...]:
    """Returns the class ids that make up a structure."""
    return REGIONS.get(structure) or (CLASS_NAMES.index(structure),)
