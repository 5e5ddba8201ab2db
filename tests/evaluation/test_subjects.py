"""A model is judged by masks of its own classes; which values a release gives them is the same."""

import shutil
import types

import nibabel
import numpy as np
import pytest
from tiny_cohorts import write_tiny_case

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation import subjects
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.preprocess import masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import convert, manifest
from brats_tfrecord.records.convert_options import ConvertOptions


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
        convert.convert(
            ConvertOptions(
                input_dir=str(cohort),
                output_dir=str(root),
                label_scheme=scheme,
                folds=1,
                jobs=1,
                bias_correction="none",
                crop_window="0:16,0:16,0:12",
                crop="fixed",
            )
        )
        return root

    return convert_as


def model(scheme, recipe=None):
    return types.SimpleNamespace(
        scheme=spec.LABEL_SCHEMES[scheme], recipe=recipe or Recipe(), modalities=("flair", "t2")
    )


def refused(source):
    return pytest.raises(
        InputError,
        match=(
            f"{source}: its masks follow brats2024 .NCR/NET, ED, ET, RC., the model brats2020 "
            ".NCR/NET, ED, ET.; expected the same classes"
        ),
    )


def test_files_of_other_classes_are_refused(cohort):
    options = EvaluateOptions(
        model="m", output_dir="o", input_dir=str(cohort), label_scheme="brats2024"
    )
    with refused(f"--input_dir={cohort}"):
        subjects.from_files(options, model("brats2020"))
    assert subjects.from_files(options, model("brats2024")).cases[0].labelled


def test_a_dataset_of_other_classes_is_refused(dataset_of):
    root = dataset_of("brats2024")
    with refused(f"--data_dir={root}"):
        subjects.from_dataset(root, "0", model("brats2020"))


def test_other_values_of_the_same_classes_are_not(cohort, dataset_of):
    root = dataset_of("brats2020")
    recipe = manifest.load(root).recipe
    source = subjects.from_dataset(root, "0", model("brats2023", recipe))
    assert source.cases[0].labelled
    assert source.identity["--data_dir"] == manifest.load(root).fingerprint
    options = EvaluateOptions(model="m", output_dir="o", input_dir=str(cohort))
    assert len(subjects.from_files(options, model("msd")).cases) == 1


def test_cases_without_a_mask_are_nothing_to_compare(tmp_path):
    folder = write_tiny_case(tmp_path, 1)
    next(folder.glob("*_seg.nii.gz")).unlink()
    options = EvaluateOptions(
        model="m", output_dir="o", input_dir=str(tmp_path), label_scheme="brats2024"
    )
    [subject] = subjects.from_files(options, model("brats2020")).cases
    assert not subject.labelled


def test_a_case_is_another_when_a_file_that_is_read_is(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "in")
    options = EvaluateOptions(model="m", output_dir="o", input_dir=str(tmp_path / "in"))
    [subject] = subjects.from_files(options, model("brats2020")).cases
    keys = [subject.key()]
    for kind in ("t1", "t1ce", "seg"):  # t1 is neither the model's nor shown
        path = next((tmp_path / "in").rglob(f"*_{kind}.nii.gz"))
        path.write_bytes(path.read_bytes() + b"x")
        keys.append(subject.key())
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_crop_shares_are_those_of_the_conversion(cohort, tmp_path):
    """A window that cuts through brain and tumour, on thick slices brought to 1 mm."""
    shutil.copytree(cohort, tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.nii.gz"):
        image = nibabel.load(path)
        affine = image.affine @ np.diag([1, 1, 2, 1])
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
    convert.convert(
        ConvertOptions(
            input_dir=str(tmp_path / "in"),
            output_dir=str(tmp_path / "out"),
            folds=1,
            jobs=1,
            bias_correction="none",
            crop_window="3:14,2:18,0:17",
            crop="fixed",
            resample="1mm",
        )
    )
    dataset = manifest.load(tmp_path / "out")
    [row] = dataset.cases
    [case] = layouts.find_cases(tmp_path / "in")
    raw = nifti.read_case(case, any_spacing=True)
    truth = masks.to_classes(raw.mask, spec.LABEL_SCHEMES["brats2020"], case.case_id)
    found = subjects._crop_of_files(raw, truth, model("brats2020", dataset.recipe))
    assert found == {
        "brain": row.brain_voxels_lost / row.brain_voxels,
        "tumour": row.tumour_voxels_lost / sum(row.class_voxels[1:]),
    }
    assert 0.1 < found["brain"] < 0.9 and 0.1 < found["tumour"] < 0.9
    assert subjects._crop_of_files(raw, None, model("brats2020", dataset.recipe))["tumour"] is None
