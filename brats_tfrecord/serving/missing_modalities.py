"""Which modalities a case may lack for a model, by the cases that trained and validated it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brats_tfrecord.wording import plural


@dataclass(frozen=True)
class MissingModalities:
    """The cases that lacked some of a model's modalities when it was trained and validated.

    A combination of missing modalities is a text, their names separated by commas in the order of
    the model's channels; "" is a complete case.

    Attributes:
        dropout: probability with which training replaced a modality by zeros; 0: never.
        train: combination -> number of training cases that lack it.
        validated: combination -> number of validation cases that lack it.

    Both counts are empty if `dropout` is 0 and no case lacks anything.

    Raises:
        ValueError: at construction, if a field has an invalid value.
    """

    dropout: float = 0.0
    train: Mapping[str, int] = field(default_factory=dict)
    validated: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}")
        for counts in (self.train, self.validated):
            if not all(isinstance(key, str) and counts[key] >= 1 for key in counts):
                raise ValueError(f"counts are {counts!r}")

    @classmethod
    def of_cases(
        cls,
        modalities: Sequence[str],
        train: Iterable[Collection[str]],
        validation: Iterable[Collection[str]],
        dropout: float = 0.0,
    ) -> MissingModalities:
        """Counts the combinations of cases.

        Args:
            modalities: names of the model's channels, in order.
            train: names of the modalities that each training case lacks, others included.
            validation: the same for each validation case.
            dropout: probability with which training replaced a modality by zeros.
        """
        counts = [
            collections.Counter(_combination(modalities, missing) for missing in cases)
            for cases in (train, validation)
        ]
        if not dropout and not any(key for count in counts for key in count):
            return cls()
        train_counts, validated = (dict(sorted(count.items())) for count in counts)
        return cls(dropout, train_counts, validated)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> MissingModalities:
        """Restores the value of `to_json`.

        Raises:
            TypeError, ValueError: a field is unknown or has an invalid value.
        """
        return cls() if value is None else cls(**value)

    def to_json(self) -> dict[str, Any] | None:
        """Returns a dict of JSON types; None if no case lacked anything."""
        return None if self == MissingModalities() else dataclasses.asdict(self)

    def refusal(self, case_id: str, modalities: Sequence[str], missing: Collection[str]) -> str:
        """Returns why the model cannot segment a case, in one line, or "".

        Args:
            case_id: id of the case.
            modalities: names of the model's channels, in order.
            missing: names of the modalities that the case lacks, others included.
        """
        lacking = [name for name in modalities if name in missing]
        if not lacking:
            return ""
        needs = f"{case_id}: no {', '.join(lacking)} image; this model needs "
        if lacking == list(modalities):
            return f"{needs}{' or '.join(modalities)}"
        unknown = self.always_there(lacking)
        if not unknown:
            return ""
        return (
            f"{needs}{', '.join(modalities)} and was never trained without {', '.join(unknown)}; "
            "add the missing files, or train a model with --modality_dropout"
        )

    def always_there(self, modalities: Iterable[str]) -> list[str]:
        """Returns those modalities that the network was never trained without."""
        lacked = {name for key in self.train for name in key.split(",")}
        return [name for name in modalities if not self.dropout and name not in lacked]

    def warnings(self, modalities: Sequence[str], missing: Collection[str]) -> tuple[str, ...]:
        """Returns the warning about a case that lacks modalities; empty for a complete case."""
        combination = _combination(modalities, missing)
        if not combination:
            return ()
        count = self.validated.get(combination, 0)
        evidence = (
            f"was validated on {plural(count, 'such case')}" if count else "was not validated"
        )
        names = combination.replace(",", ", ")
        return (
            f"no {names} image: the network sees zeros in its place; the model {evidence}"
            f"{'' if count else f' without {names}'}",
        )

    def text(self) -> str:
        """Describes how the model was trained and validated, for people."""
        if self == MissingModalities():
            return "never trained without one of its modalities"
        parts = [f"trained with modality dropout {self.dropout:g}"] if self.dropout else []
        for verb, counts in (("trained", self.train), ("validated", self.validated)):
            if counts:
                parts.append(f"{verb} on {', '.join(_cases(*item) for item in counts.items())}")
        return "; ".join(parts)


def _combination(modalities, missing):
    return ",".join(name for name in modalities if name in missing)


def _cases(combination, count):
    if not combination:
        return plural(count, "complete case")
    return f"{plural(count, 'case')} without {combination.replace(',', ', ')}"
