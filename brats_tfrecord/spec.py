"""The vocabulary: modalities, classes, label schemes, regions. Imports nothing of the project.

Canonical names and ids are the same for every release; a `LabelScheme` says which values a
release writes into its mask files. Regions are derived from classes and never stored.
"""

from dataclasses import dataclass

MODALITIES = ("t1", "t1ce", "t2", "flair")
"""Canonical modality names, in the order in which volumes are stacked on the channel axis."""

ORIENTATION = ("L", "P", "S")
"""Axis codes of every array inside the project: BraTS's own order."""

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
"""One colour a class (sRGB), the same in every figure, report and viewer."""

REGIONS = {"WT": (NCR, ED, ET), "TC": (NCR, ET), "ET": (ET,)}
"""Evaluation regions as unions of canonical classes (Menze et al. 2015, BraTS)."""

REGION_TITLES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}
REGION_COLOURS = {"WT": "#3aaa35", "TC": "#e6332a", "ET": "#ffd500"}


@dataclass(frozen=True)
class LabelScheme:
    """Which value a release's mask files hold for each canonical class.

    Attributes:
        name: the scheme's name, as flags and manifests spell it.
        values: file value of class 0, 1, 2, …; its length is the number of classes.
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
