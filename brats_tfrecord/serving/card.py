"""`assets/model.json`: all that a SavedModel knows of itself."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from brats_tfrecord import files, spec, targets
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.postprocess import PostProcessing

FILE_NAME = "model.json"
SCHEMA = 3


@dataclass(frozen=True)
class ModelCard:
    """What a model needs to be used, and what its user needs to know.

    Attributes:
        recipe: how raw volumes become its input.
        modalities: its input channels, in order.
        label_scheme: name of the scheme of the labels it writes.
        targets: what its output channels are, one of `targets.NAMES`.
        stride: its input's extents are padded to multiples of this.
        whole_voxels: images of up to this many voxels are predicted in one piece.
        dataset_fingerprint: of the dataset it was trained on.
        train_case_ids, select_case_ids: cases its weights were fitted to, and chosen by.
        training: options, versions and figures of the run; free form, JSON types.
        post_processing: `PostProcessing` of its labels. Faint enhancement is dealt with in its
            graph; small components are whoever's that runs it, for TensorFlow has no 3-D
            connected components.
        flips: whether it answers with the mean over the eight flips of its input's axes.
        members: number of networks whose probabilities it averages; set by the exporter.
        assets: name -> hex SHA-256 of the other files in `assets/`; set by the exporter.

    Raises:
        ValueError: at construction, naming the field and what came.
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
    post_processing: PostProcessing = PostProcessing()
    flips: bool = False
    members: int = 1
    assets: dict = field(default_factory=dict)

    def __post_init__(self):
        known = {
            "modalities": bool(self.modalities) and set(self.modalities) <= set(spec.MODALITIES),
            "label_scheme": self.label_scheme in spec.LABEL_SCHEMES,
            "targets": self.targets in targets.NAMES,
            "stride": _is_count(self.stride),
            "whole_voxels": _is_count(self.whole_voxels),
            "flips": isinstance(self.flips, bool),
            "members": _is_count(self.members),
            "assets": isinstance(self.assets, dict),
        }
        for name, good in known.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}")

    @property
    def scheme(self):
        """The `spec.LabelScheme` of the labels it writes."""
        return spec.LABEL_SCHEMES[self.label_scheme]

    @property
    def channels(self):
        """The `targets.Targets` of its output channels."""
        return targets.make_targets(self.targets, self.scheme.classes)

    def use_of(self, case_id):
        """ "train", "select" or "unseen": what the model's making used the case for."""
        if case_id in self.train_case_ids:
            return "train"
        return "select" if case_id in self.select_case_ids else "unseen"

    def to_json(self):
        """The card as a dict of JSON types; `from_json` gives back an equal object."""
        return {
            **dataclasses.asdict(self),
            "schema": SCHEMA,
            "recipe": self.recipe.to_json(),
            "post_processing": self.post_processing.to_json(),
            "classes": list(self.scheme.class_names),
            "channels": list(self.channels.channel_names),
        }

    @classmethod
    def from_json(cls, value):
        """A card from `to_json`'s dict, or from what JSON makes of it.

        Raises:
            KeyError, TypeError, ValueError: another's dict, or a damaged one.
        """
        fields = {part.name: value[part.name] for part in dataclasses.fields(cls)}
        fields["recipe"] = Recipe.from_json(fields["recipe"])
        fields["post_processing"] = PostProcessing.from_json(fields["post_processing"])
        for name in ("modalities", "train_case_ids", "select_case_ids"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    @property
    def digest(self):
        """Hex SHA-256 of all that the card says, but for its `assets`, one of which holds it."""
        # By way of JSON, which turns some numbers into their equals of another type.
        read_back = self.from_json(json.loads(json.dumps(self.to_json())))
        said = {**read_back.to_json(), "assets": None}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read(model_dir):
    """Reads the card of the SavedModel in `model_dir`; `golden.check` compares it with the rest.

    Raises:
        InputError: no SavedModel there, not one of ours, one of another schema, or a damaged one.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "saved_model.pb").is_file():
        hint = model_dir / "saved_model"
        way_out = (
            f"try {hint}"
            if (hint / "saved_model.pb").is_file()
            else (
                "expected a folder with saved_model.pb, as train.py writes to MODEL_DIR/saved_model"
            )
        )
        raise InputError(f"{model_dir}: no SavedModel there; {way_out}")
    path = model_dir / "assets" / FILE_NAME
    try:
        value = json.loads(path.read_bytes())
        schema = value["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{model_dir}: a SavedModel, but not one of ours ({path.name} is missing "
            "or damaged among its assets); export it with train.py"
        ) from error
    if schema != SCHEMA:
        raise InputError(
            f"{model_dir}: has schema {schema}, this version reads {SCHEMA}; {_way_out(schema)}"
        )
    try:
        return ModelCard.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}: {error}); copy or export the model again"
        ) from error


def _way_out(schema):
    if _is_count(schema) and schema > SCHEMA:
        return "it was written by a newer version, use that one to read it"
    return "it was written by an older version, export it again"


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def fingerprint(model_dir):
    """Hex SHA-256 over the names and contents of a SavedModel's files."""
    model_dir = Path(model_dir)
    digest = hashlib.sha256()
    for path in sorted(model_dir.rglob("*")):
        if path.is_file() and path.name != "fingerprint.pb":  # TensorFlow's own, not ours
            digest.update(path.relative_to(model_dir).as_posix().encode() + b"\0")
            digest.update(bytes.fromhex(files.sha256(path)))
    return digest.hexdigest()
