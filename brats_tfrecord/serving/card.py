"""The model card, `assets/model.json`: describes a SavedModel's input, output and training."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brats_tfrecord import files, spec, targets
from brats_tfrecord.errors import InputError
from brats_tfrecord.pieces import Piece
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.missing_modalities import MissingModalities
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.recognition import Identity, KnownCases, Recognition
from brats_tfrecord.targets import Targets

FILE_NAME = "model.json"
SCHEMA = 4
READABLE = (3, SCHEMA)
"""Schemas that `read` accepts. Cards of schema 3 do not say what the network was trained to see."""

_NEW_FIELDS = {"brain_channel": False, "missing": None}
"""Fields that were added within a schema, and what a card without them means. Older versions need
not know them, because the graph computes what they say."""


@dataclass(frozen=True)
class ModelCard:
    """Describes a SavedModel: how to prepare its input, read its output, and how it was trained.

    Attributes:
        recipe: preprocessing from raw volumes to the network's input.
        modalities: names of the channels of the image that the model is given, in order.
        label_scheme: name of the label scheme of the output, a key of `spec.LABEL_SCHEMES`.
        targets: meaning of the K output channels, one of `targets.NAMES`.
        piece: what the network sees at once.
        dataset_fingerprint: fingerprint of the training dataset.
        train_case_ids: ids of the cases that the weights were fitted to.
        select_case_ids: ids of the validation cases that selected the epoch.
        training: options, versions and figures of the run; free form, JSON types.
        post_processing: corrections of the label map. The `segment` signature replaces a small
            enhancing tumour itself. Callers remove small components, because TensorFlow has no
            3-D connected components.
        flips: whether the output is the mean over the eight flips of the input's axes.
        members: number of networks whose probabilities are averaged; set at export.
        assets: file name -> hex SHA-256 of the other files in `assets/`; set at export.
        identities: case id -> patient and voxels of the cases that trained or selected the model;
            empty in a card of schema 3.
        missing: which modalities a case may lack. A card without this entry, such as those of
            earlier versions, is of a model that was trained on complete cases only.
        brain_channel: whether the networks see the brain channel too, which the graph computes
            from the image; false in cards that do not say so.

    Raises:
        ValueError: at construction, if a field has an invalid value.
    """

    recipe: Recipe
    modalities: tuple[str, ...]
    label_scheme: str
    targets: str
    piece: Piece
    dataset_fingerprint: str
    train_case_ids: tuple[str, ...]
    select_case_ids: tuple[str, ...]
    training: dict[str, Any]
    post_processing: PostProcessing = field(default_factory=PostProcessing)
    flips: bool = False
    members: int = 1
    assets: dict[str, str] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    missing: MissingModalities = field(default_factory=MissingModalities)
    brain_channel: bool = False

    def __post_init__(self) -> None:
        valid = {
            "modalities": bool(self.modalities) and set(self.modalities) <= set(spec.MODALITIES),
            "label_scheme": self.label_scheme in spec.LABEL_SCHEMES,
            "targets": self.targets in targets.NAMES,
            "piece": isinstance(self.piece, Piece),
            "flips": isinstance(self.flips, bool),
            "members": _is_count(self.members),
            "assets": isinstance(self.assets, dict),
            "brain_channel": isinstance(self.brain_channel, bool),
        }
        for name, is_valid in valid.items():
            if not is_valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}")

    @property
    def scheme(self) -> spec.LabelScheme:
        """The label scheme of the output."""
        return spec.LABEL_SCHEMES[self.label_scheme]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the input channels of the networks, in order."""
        return spec.input_names(self.modalities, self.brain_channel)

    @property
    def channels(self) -> Targets:
        """The meaning of the K output channels."""
        return targets.make_targets(self.targets, self.scheme.classes)

    def recognise(
        self, case_id: str, patient_id: str | None, voxels: Mapping[str, str]
    ) -> Recognition:
        """Returns how training used a case, and by what it was recognised; see `KnownCases`.

        Args:
            case_id: id of the case.
            patient_id: id of its patient, or None if unknown.
            voxels: modality -> digest of its voxels (`cohort.voxel_digest`), as far as known.
        """
        return self._known_cases.recognise(case_id, patient_id, voxels)

    @property
    def recognises_by_id_only(self) -> bool:
        """Whether the card, of an older version, does not tell who some of its cases are."""
        return not self.identities.keys() >= {*self.train_case_ids, *self.select_case_ids}

    @functools.cached_property
    def _known_cases(self):
        return KnownCases(self.train_case_ids, self.select_case_ids, self.identities)

    def to_json(self) -> dict[str, Any]:
        """Returns the card as a dict of JSON types, the inverse of `from_json`."""
        value = {
            **dataclasses.asdict(self),
            "schema": SCHEMA,
            "recipe": self.recipe.to_json(),
            "piece": self.piece.to_json(),
            "post_processing": self.post_processing.to_json(),
            "classes": list(self.scheme.class_names),
            "channels": list(self.channels.channel_names),
            "missing": self.missing.to_json(),
        }
        if value["missing"] is None:
            del value["missing"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ModelCard":
        """Makes a card from the dict of `to_json`, also of schema 3 or after a round trip.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: a field is missing or has an invalid
                value.
        """
        value = {**_NEW_FIELDS, **value}
        if value["schema"] == 3:
            value = {**value, "identities": {}, "piece": _old_piece(value)}
        fields = {item.name: value[item.name] for item in dataclasses.fields(cls)}
        fields["piece"] = Piece.from_json(fields["piece"])
        fields["missing"] = MissingModalities.from_json(fields["missing"])
        fields["identities"] = {
            case_id: Identity.from_json(item) for case_id, item in fields["identities"].items()
        }
        fields["recipe"] = Recipe.from_json(fields["recipe"])
        fields["post_processing"] = PostProcessing.from_json(fields["post_processing"])
        for name in ("modalities", "train_case_ids", "select_case_ids"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    @property
    def caveats(self) -> tuple[str, ...]:
        """A sentence for each reason to distrust every segmentation of the model."""
        network = self.training.get("options", {}).get("network")
        if network == "unet_nn" and self.piece.whole_voxels:
            return (
                "the model was exported by an older version, whose unet_nn sees the whole image "
                "at once although it was trained on patches; train it again",
            )
        return ()


def read(model_dir: Path | str) -> ModelCard:
    """Reads the card of a SavedModel; `golden.check` compares it with the other files.

    Args:
        model_dir: folder of the SavedModel.

    Raises:
        InputError: the folder holds no SavedModel, or its card is missing, damaged or of another
            schema.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "saved_model.pb").is_file():
        subfolder = model_dir / "saved_model"
        if (subfolder / "saved_model.pb").is_file():
            way_out = f"try {subfolder}"
        else:
            way_out = "expected a folder with saved_model.pb; train.py writes MODEL_DIR/saved_model"
        raise InputError(f"{model_dir}: holds no SavedModel; {way_out}")
    path = model_dir / "assets" / FILE_NAME
    value = read_json(model_dir)
    schema = value["schema"]
    if schema not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise InputError(
            f"{path}: has schema {schema}, this version reads {readable}; {_way_out(schema)}"
        )
    try:
        return ModelCard.from_json(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}: {error}); copy or export the model again"
        ) from error


def read_json(model_dir: Path | str) -> dict[str, Any]:
    """Reads the file of a SavedModel's card.

    Raises:
        InputError: the file is missing, or holds no JSON object with a schema.
    """
    path = Path(model_dir) / "assets" / FILE_NAME
    try:
        value = json.loads(path.read_bytes())
        value["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{model_dir}: this SavedModel was not exported by train.py, or its "
            f"assets/{path.name} is missing or damaged; export the model again"
        ) from error
    return value


def content_digest(value: dict[str, Any]) -> str:
    """Computes the hex SHA-256 of a card's JSON without `assets`: one of these stores the digest.

    Args:
        value: return value of `ModelCard.to_json` or `read_json`.
    """
    content = {**json.loads(json.dumps(value)), "assets": None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _old_piece(value):
    """The piece of a card of schema 3: one piece, or windows of 128 voxels above."""
    return Piece.of_network(False, value["stride"], ()).to_json() | {
        "whole_voxels": value["whole_voxels"]
    }


def _way_out(schema):
    if _is_count(schema) and schema > SCHEMA:
        return "it was written by a newer version, use that version to read it"
    return "it was written by an older version, export the model again"


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def fingerprint(model_dir: Path | str) -> str:
    """Computes the hex SHA-256 over the names and contents of a SavedModel's files."""
    model_dir = Path(model_dir)
    digest = hashlib.sha256()
    for path in sorted(model_dir.rglob("*")):
        if path.is_file() and path.name != "fingerprint.pb":  # TensorFlow's, not part of the model
            digest.update(path.relative_to(model_dir).as_posix().encode() + b"\0")
            digest.update(bytes.fromhex(files.sha256(path)))
    return digest.hexdigest()
