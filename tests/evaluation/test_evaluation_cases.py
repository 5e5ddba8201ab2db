"""Cases read from a cohort and from a dataset: classes of their masks, keys and crop shares."""

import shutil
import types

import nibabel
import numpy as np
import pytest
from tiny_cohorts import write_tiny_case

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation import file_cases, record_cases
from brats_tfrecord.preprocess import masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import convert, manifest
from brats_tfrecord.records.convert_options import ConvertOptions


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One case whose mask has the values 1, 2 and 4; 4 is ET in one release, RC in another."""
    root = tmp_path_factory.mktemp("cohort")
    write_tiny_case(root, 1)
    return root


@pytest.fixture(scope="module")
def dataset_of(cohort, tmp_path_factory):
    """Function (label scheme) -> folder of a dataset converted with it."""

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
            f"{source}: the masks follow brats2024 .NCR/NET, ED, ET, RC., the model brats2020 "
            ".NCR/NET, ED, ET.; expected the same classes"
        ),
    )


def test_files_with_other_classes_are_refused(cohort):
    with refused(f"--input_dir={cohort}"):
        file_cases.from_files(cohort, model("brats2020"), label_scheme="brats2024")
    [case] = file_cases.from_files(cohort, model("brats2024"), label_scheme="brats2024").cases
    assert case.labelled


def test_a_dataset_with_other_classes_is_refused(dataset_of):
    root = dataset_of("brats2024")
    with refused(f"--data_dir={root}"):
        record_cases.from_dataset(root, "0", model("brats2020"))


def test_other_file_values_of_the_same_classes_are_accepted(cohort, dataset_of):
    root = dataset_of("brats2020")
    recipe = manifest.load(root).recipe
    source = record_cases.from_dataset(root, "0", model("brats2023", recipe))
    assert source.cases[0].labelled
    assert source.identity["--data_dir"] == manifest.load(root).fingerprint
    assert len(file_cases.from_files(cohort, model("msd")).cases) == 1


def test_classes_do_not_matter_without_a_mask(tmp_path):
    folder = write_tiny_case(tmp_path, 1)
    next(folder.glob("*_seg.nii.gz")).unlink()
    source = file_cases.from_files(tmp_path, model("brats2020"), label_scheme="brats2024")
    assert [case.labelled for case in source.cases] == [False]


def test_key_changes_with_the_files_that_are_read(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "in")
    [case] = file_cases.from_files(tmp_path / "in", model("brats2020")).cases
    keys = [case.key()]
    for kind in ("t1", "t1ce", "seg"):  # t1 is neither an input of the model nor shown
        path = next((tmp_path / "in").rglob(f"*_{kind}.nii.gz"))
        path.write_bytes(path.read_bytes() + b"x")
        keys.append(case.key())
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_crop_shares_of_files_are_those_of_the_dataset(cohort, tmp_path):
    """The window cuts through brain and tumour of thick slices resampled to 1 mm."""
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
    shares = file_cases.crop_of_case(raw, truth, dataset.recipe)
    assert shares == {
        "brain": row.brain_voxels_lost / row.brain_voxels,
        "tumour": row.tumour_voxels_lost / sum(row.class_voxels[1:]),
    }
    assert 0.1 < shares["brain"] < 0.9 and 0.1 < shares["tumour"] < 0.9
    assert file_cases.crop_of_case(raw, None, dataset.recipe)["tumour"] is None


def test_notes_on_names_and_files_come_with_the_segmentation(tmp_path):
    folder = write_tiny_case(tmp_path, 1)
    mask = next(folder.glob("*_seg.nii.gz"))
    image = nibabel.load(mask)
    nibabel.save(image, mask.with_name("W39_1998.09.19_Segm.nii"))
    mask.unlink()
    path = next(folder.glob("*_flair.nii.gz"))
    voxels = np.asarray(nibabel.load(path).dataobj).astype(np.int16)
    voxels[0, 0, 0] = -1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    [case] = file_cases.from_files(tmp_path, model("brats2020")).cases
    segmenter = types.SimpleNamespace(
        recipe=Recipe(),
        require_usable=lambda case_id, missing: (),
        segment_raw=lambda raw, reading: types.SimpleNamespace(seconds={}),
    )
    stray, negative = case.segment(segmenter).notes
    assert stray.startswith("no file ends in _seg") and negative.startswith("negative intensities")
