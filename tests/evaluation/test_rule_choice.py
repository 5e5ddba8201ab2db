"""Which rule set an evaluation uses, by --rules and the challenge that the case ids name."""

import re

import pytest

from brats_tfrecord import metrics
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation import rule_choice


def ids(*challenges):
    return [f"BraTS-{name}-0000{n}-000" for name in challenges for n in range(2)]


@pytest.mark.parametrize(
    "challenges, name",
    [
        (["GLI"], "brats2023"),
        (["SSA"], "brats2023"),
        (["PED"], "brats2023"),
        (["GLI", "PED", "SSA"], "brats2023"),
        (["MEN"], "brats2023-men"),
        (["MET"], "brats2023-met"),
    ],
)
def test_brats2023_is_the_challenge_of_the_case_ids(challenges, name):
    rule_set, note = rule_choice.choose("brats2023", ids(*challenges))
    named = " and ".join(f"BraTS-{challenge}" for challenge in sorted(challenges))
    assert note == f"rules {name} chosen for {named}, named by the case ids"
    assert rule_set.name == name
    assert rule_set.text == f"R{note[1:]}. {metrics.RULE_SETS[name].text}"
    assert rule_set.lesions == metrics.RULE_SETS[name].lesions


@pytest.mark.parametrize(
    "case_ids, cause, name",
    [
        (["ours-7"], "no case id names a challenge of 2023", "brats2023"),
        (["BraTS20_Training_001"], "no case id names a challenge of 2023", "brats2023"),
        (
            ids("GoAT"),
            "no rules of BraTS-GOAT are known here; the rules used are those of glioma",
            "brats2023",
        ),
        (ids("GoAT", "MET"), "no rules of BraTS-GOAT .* used are brats2023-met", "brats2023-met"),
    ],
)
def test_other_ids_are_scored_as_glioma_and_this_is_said(case_ids, cause, name):
    rule_set, note = rule_choice.choose("brats2023", case_ids)
    assert rule_set.name == name
    assert re.search(cause, note)
    assert note[1:] in rule_set.text and "brats2023-met" in note


def test_challenges_with_different_rules_are_refused_together():
    with pytest.raises(
        InputError, match=r"--rules=brats2023: the cases are of BraTS-GLI and BraTS-MET, .* each in"
    ) as caught:
        rule_choice.choose("brats2023", ids("MET", "GLI"))
    assert "brats2023, brats2023-met" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rules, challenges, others",
    [
        ("brats2020", ["MET"], "BraTS-MET"),
        ("brats2020", ["GLI", "MEN"], "BraTS-MEN"),
        ("brats2023-met", ["MEN", "GLI"], "BraTS-GLI and BraTS-MEN"),
        ("brats2023-men", ["SSA"], "BraTS-SSA"),
    ],
)
def test_rules_of_another_tumour_are_named(rules, challenges, others):
    rule_set, note = rule_choice.choose(rules, ids(*challenges))
    assert rule_set.name == rules
    assert f"the case ids name {others}, the rules {rules} are of other tumours" in note
    assert note[1:] in rule_set.text and "\n" not in note


@pytest.mark.parametrize(
    "rules, case_ids",
    [
        ("brats2020", ["BraTS20_Training_001"]),
        ("brats2020", ids("GLI", "SSA", "PED")),
        ("brats2023-met", ids("MET")),
        ("brats2023-men", ["ours-7"]),
        ("nnunet", ids("MET", "GLI")),
    ],
)
def test_rules_that_fit_are_used_without_a_note(rules, case_ids):
    assert rule_choice.choose(rules, case_ids) == (metrics.RULE_SETS[rules], None)
