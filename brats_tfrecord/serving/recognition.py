"""Recognises the cases that trained or selected a model, under whatever name they come."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

GROUNDS = BY_ID, BY_SCAN, BY_PATIENT = "case id", "same scan", "patient"
"""Grounds of a recognition: an equal case id, equal voxels of a modality, an equal patient id."""

ID_ONLY = (
    "the model's card is of an older version and names cases by id only: a trained scan under "
    "another id and another scan of a trained patient count as unseen; train the model again to "
    "have them recognised"
)
"""The caveat of a card without identities."""


@dataclass(frozen=True)
class Identity:
    """Who a case is, besides its case id.

    Attributes:
        patient_id: id of the patient.
        voxels: modality -> digest of its voxels (`cohort.voxel_digest`).

    Raises:
        ValueError: at construction, if a field has an invalid value.
    """

    patient_id: str
    voxels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.patient_id, str):
            raise ValueError(f"patient_id is {self.patient_id!r}")
        if not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in self.voxels.values()):
            raise ValueError(f"voxels are {self.voxels!r}")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Identity":
        """Makes an identity of the dict that `dataclasses.asdict` returns.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or has an invalid value.
        """
        return cls(value["patient_id"], dict(value["voxels"]))


@dataclass(frozen=True)
class Recognition:
    """How a model used a case.

    Attributes:
        use: "train", "select" (it selected the epoch) or "unseen".
        by: `BY_ID`, `BY_SCAN` or `BY_PATIENT`; None if the case is unseen.
    """

    use: str
    by: str | None = None


class KnownCases:
    """An index of the cases that trained or selected a model."""

    def __init__(
        self, train: Collection[str], select: Collection[str], identities: Mapping[str, Identity]
    ) -> None:
        """Indexes the cases.

        Args:
            train: ids of the cases that the weights were fitted to.
            select: ids of the cases that selected the epoch.
            identities: case id -> identity; cases without one are recognised by id only.
        """
        self._uses = []
        for use, ids in (("train", train), ("select", select)):
            known = [identities[case_id] for case_id in ids if case_id in identities]
            scans = {digest for identity in known for digest in identity.voxels.values()}
            patients = {identity.patient_id for identity in known}
            self._uses.append((use, set(ids), scans, patients))

    def recognise(
        self, case_id: str, patient_id: str | None, voxels: Mapping[str, str]
    ) -> Recognition:
        """Returns how the cases were used that a case is, or shares its patient with.

        Training outweighs selection. One equal modality makes two cases the same scan.

        Args:
            case_id: id of the case.
            patient_id: id of its patient, or None if unknown.
            voxels: modality -> digest of its voxels, as far as known.
        """
        for use, ids, scans, patients in self._uses:
            if case_id in ids:
                return Recognition(use, BY_ID)
            if not scans.isdisjoint(voxels.values()):
                return Recognition(use, BY_SCAN)
            if patient_id in patients:
                return Recognition(use, BY_PATIENT)
        return Recognition("unseen")
