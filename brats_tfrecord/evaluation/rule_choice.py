"""Chooses the rule set of an evaluation from --rules and the challenge that the case ids name."""

import dataclasses
from collections.abc import Iterable

from brats_tfrecord.cohort import naming
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics import RULE_SETS, RuleSet

_RULES_OF_2023 = {
    "GLI": "brats2023",
    "SSA": "brats2023",
    "PED": "brats2023",
    "MEN": "brats2023-men",
    "MET": "brats2023-met",
}
"""Challenge in the case ids -> its rule set."""

_TUMOURS = {name: name for name in _RULES_OF_2023.values()} | {"brats2020": "brats2023"}
"""Rule set -> rule set of 2023 for the same tumours. Other rule sets are of no tumour."""


def choose(rules: str, case_ids: Iterable[str]) -> tuple[RuleSet, str | None]:
    """Returns the rule set to use, and a note on the choice.

    `brats2023` is replaced by the rule set of the challenge that the case ids name, such as
    `brats2023-met` for BraTS-MET-00001-000.

    Args:
        rules: value of --rules.
        case_ids: ids of all cases.

    Returns:
        (rule set, note of one line or None). The note says which challenge decided, or that cases
        and rules are of different tumours. It is also the beginning of the rule set's text.

    Raises:
        InputError: `rules` is brats2023, and the cases are of challenges with different rules.
    """
    named = {naming.challenge_of(case_id) for case_id in case_ids}
    challenges = sorted(name for name in named if name is not None)
    if rules == "brats2023":
        rules, note = _rules_of(challenges)
    else:
        note = _contradiction(rules, challenges)
    rule_set = RULE_SETS[rules]
    if note is None:
        return rule_set, None
    text = f"{note[0].upper()}{note[1:]}. {rule_set.text}"
    return dataclasses.replace(rule_set, text=text), note


def _rules_of(challenges):
    """(name of the rule set of 2023 for these challenges, note)."""
    names = sorted({_RULES_OF_2023[name] for name in challenges if name in _RULES_OF_2023})
    if len(names) > 1:
        raise InputError(
            f"--rules=brats2023: the cases are of {_listed(challenges)}, whose challenges score "
            f"lesions by different rules ({', '.join(names)}); expected cases of one tumour: "
            "evaluate each in a folder of its own"
        )
    unknown = [name for name in challenges if name not in _RULES_OF_2023]
    if unknown or not names:
        cause = (
            f"no rules of {_listed(unknown)} are known here"
            if unknown
            else "no case id names a challenge of 2023, such as BraTS-MET-00001-000"
        )
        name = names[0] if names else "brats2023"
        choice = "those of glioma" if name == "brats2023" else name
        return name, (
            f"{cause}; the rules used are {choice} (--rules=brats2023-men and brats2023-met are "
            "those of meningioma and metastases)"
        )
    return names[0], f"rules {names[0]} chosen for {_listed(challenges)}, named by the case ids"


def _contradiction(rules, challenges):
    """A note if cases and rules are of different tumours, otherwise None."""
    tumours = _TUMOURS.get(rules)
    others = [name for name in challenges if _RULES_OF_2023.get(name, tumours) != tumours]
    if tumours is None or not others:
        return None
    return (
        f"the case ids name {_listed(others)}, the rules {rules} are of other tumours; "
        "--rules=brats2023 chooses the rules of the cases' own challenge"
    )


def _listed(challenges):
    return " and ".join(f"BraTS-{name}" for name in challenges)
