"""A model is judged by masks of its own classes; which values a release gives them is the same."""

import types

import pytest
from tiny_cohorts import write_tiny_case

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import convert, manifest
from brats_tfrecord.records.options import ConvertOptions
from brats_tfrecord.report import subjects
from brats_tfrecord.report.options import EvaluateOptions


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One case whose mask holds 1, 2 and 4: ET in one release, RC in another."""
    root = tmp_path_factory.mktemp("cohort")
    write_tiny_case(root, 1)
    return root


@pytest.fixture(scope="module")
def dataset_of(cohort, tmp_path_factory):
    """Function (label scheme) -> folder of the cohort's dataset under it."""
    def convert_as(scheme):
        root = tmp_path_factory.mktemp(scheme)
        convert.convert(ConvertOptions(
            input_dir=str(cohort), output_dir=str(root), label_scheme=scheme, folds=1, jobs=1,
            bias_correction="none", crop_window="0:16,0:16,0:12", crop="fixed"))
        return root

    return convert_as


def model(scheme, recipe=None):
    return types.SimpleNamespace(scheme=spec.LABEL_SCHEMES[scheme], recipe=recipe or Recipe())


def refused(source):
    return pytest.raises(InputError, match=(
        f"{source}: its masks follow brats2024 .NCR/NET, ED, ET, RC., the model brats2020 "
        ".NCR/NET, ED, ET.; expected the same classes"))


def test_files_of_other_classes_are_refused(cohort):
    options = EvaluateOptions(model="m", output_dir="o", input_dir=str(cohort),
                              label_scheme="brats2024")
    with refused(f"--input_dir={cohort}"):
        subjects.from_files(options, model("brats2020"))
    assert subjects.from_files(options, model("brats2024"))[0] == 1


def test_a_dataset_of_other_classes_is_refused(dataset_of):
    root = dataset_of("brats2024")
    with refused(f"--data_dir={root}"):
        subjects.from_dataset(root, "0", model("brats2020"))


def test_other_values_of_the_same_classes_are_not(cohort, dataset_of):
    root = dataset_of("brats2020")
    recipe = manifest.load(root).recipe
    assert subjects.from_dataset(root, "0", model("brats2023", recipe))[0] == 1
    options = EvaluateOptions(model="m", output_dir="o", input_dir=str(cohort))
    assert subjects.from_files(options, model("msd"))[0] == 1


def test_cases_without_a_mask_are_nothing_to_compare(tmp_path):
    folder = write_tiny_case(tmp_path, 1)
    next(folder.glob("*_seg.nii.gz")).unlink()
    options = EvaluateOptions(model="m", output_dir="o", input_dir=str(tmp_path),
                              label_scheme="brats2024")
    assert subjects.from_files(options, model("brats2020"))[0] == 1
