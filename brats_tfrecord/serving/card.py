"""`assets/model.json`: all that a SavedModel knows of itself."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records.targets import make_targets

FILE_NAME = "model.json"
SCHEMA = 2


@dataclass(frozen=True)
class ModelCard:
    """What a model needs to be used, and what its user needs to know.

    Attributes:
        recipe: how raw volumes become its input.
        modalities: its input channels, in order.
        label_scheme: name of the scheme of the labels it writes.
        targets: what its output channels are, one of `records.targets.NAMES`.
        stride: its input's extents are padded to multiples of this.
        whole_voxels: images of up to this many voxels are predicted in one piece.
        dataset_fingerprint: of the dataset it was trained on.
        train_case_ids, select_case_ids: cases its weights were fitted to, and chosen by.
        training: options, versions and figures of the run; free form, JSON types.
    """

    recipe: Recipe
    modalities: tuple[str, ...]
    label_scheme: str
    targets: str
    stride: int
    whole_voxels: int
    dataset_fingerprint: str
    train_case_ids: tuple[str, ...]
    select_case_ids: tuple[str, ...]
    training: dict

    @property
    def scheme(self):
        """The `spec.LabelScheme` of the labels it writes."""
        return spec.LABEL_SCHEMES[self.label_scheme]

    @property
    def channels(self):
        """The `records.targets.Targets` of its output channels."""
        return make_targets(self.targets, self.scheme.classes)

    def use_of(self, case_id):
        """"train", "select" or "unseen": what the model's making used the case for."""
        if case_id in self.train_case_ids:
            return "train"
        return "select" if case_id in self.select_case_ids else "unseen"

    def to_json(self):
        """The card as a dict of JSON types; `from_json` gives back an equal object."""
        return {**dataclasses.asdict(self), "schema": SCHEMA, "recipe": self.recipe.to_json(),
                "classes": list(self.scheme.class_names),
                "channels": list(self.channels.channel_names)}

    @classmethod
    def from_json(cls, value):
        """A card from `to_json`'s dict, or from what JSON makes of it."""
        fields = {field.name: value[field.name] for field in dataclasses.fields(cls)}
        fields["recipe"] = Recipe.from_json(fields["recipe"])
        for name in ("modalities", "train_case_ids", "select_case_ids"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def read(model_dir):
    """Reads the card of the SavedModel in `model_dir`.

    Raises:
        InputError: no SavedModel there, not one of ours, or one of another schema.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "saved_model.pb").is_file():
        hint = model_dir / "saved_model"
        way_out = f"try {hint}" if (hint / "saved_model.pb").is_file() else (
            "expected a folder with saved_model.pb, as train.py writes to MODEL_DIR/saved_model")
        raise InputError(f"{model_dir}: no SavedModel there; {way_out}")
    path = model_dir / "assets" / FILE_NAME
    try:
        value = json.loads(path.read_bytes())
        schema = value["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{model_dir}: a SavedModel, but not one of ours ({path.name} is missing "
                         "or damaged among its assets); export it with train.py") from error
    if schema != SCHEMA:
        raise InputError(f"{model_dir}: has schema {schema}, this version reads {SCHEMA}; use the "
                         "version that wrote it, or export it again")
    try:
        return ModelCard.from_json(value)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}); copy or export "
                         "the model again") from error


def fingerprint(model_dir):
    """Hex SHA-256 over the names and contents of a SavedModel's files."""
    model_dir = Path(model_dir)
    digest = hashlib.sha256()
    for path in sorted(model_dir.rglob("*")):
        if path.is_file() and path.name != "fingerprint.pb":  # TensorFlow's own, not ours
            digest.update(path.relative_to(model_dir).as_posix().encode() + b"\0")
            digest.update(bytes.fromhex(files.sha256(path)))
    return digest.hexdigest()
