"""A model that has met two scans, and a cohort of these scans in other files and under other ids.

Usage: `write(root)` makes `root/trained` (the model's cases), `root/model` and `root/cohort`.
"""

import gzip

import nibabel
import numpy as np
import stand_in
from tiny_cohorts import write_tiny_case

from brats_tfrecord.cohort.case import RELEASE_2023_SUFFIXES
from brats_tfrecord.records import convert, manifest
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.workflow import identities_of

TRAINED, SELECTED = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"

EXPECTED = {
    TRAINED: ("train", "case id"),
    "BraTS-GLI-00001-001": ("train", "patient"),
    "BraTS-GLI-00101-000": ("train", "same scan"),
    "BraTS-GLI-00102-000": ("train", "same scan"),
    "BraTS-GLI-00103-000": ("train", "same scan"),
    "BraTS-GLI-00104-000": ("select", "same scan"),
    "BraTS-GLI-00105-000": ("unseen", None),
}
"""Case of `root/cohort` -> (use, ground of the recognition)."""


def write(root):
    """Writes the folders."""
    scans = root / "scans"
    for index in range(1, 5):
        write_tiny_case(scans, index)
    for index, case_id in enumerate((TRAINED, SELECTED), 1):
        _rename(scans, index, root / "trained", case_id)
    _write_model(root)
    cohort = root / "cohort"
    _rename(scans, 1, cohort, TRAINED)
    _rename(scans, 3, cohort, "BraTS-GLI-00001-001")
    _rename(scans, 1, cohort, "BraTS-GLI-00101-000", _compressed_anew)
    _rename(scans, 1, cohort, "BraTS-GLI-00102-000", _uncompressed)
    _rename(scans, 1, cohort, "BraTS-GLI-00103-000", _floats_in_another_order)
    _rename(scans, 2, cohort, "BraTS-GLI-00104-000", _compressed_anew)
    _rename(scans, 4, cohort, "BraTS-GLI-00105-000")


def chosen(input_dir, output_dir):
    """Returns the options of a conversion with the recipe of the model."""
    return ConvertOptions(
        input_dir=str(input_dir),
        output_dir=str(output_dir),
        folds=2,
        jobs=1,
        bias_correction="none",
        crop="fixed",
        crop_window="2:18,2:18,2:14",
    )


def _write_model(root):
    convert.convert(chosen(root / "trained", root / "dataset"))
    dataset = manifest.load(root / "dataset")
    stand_in.save_thresholds(
        root / "model",
        dataset.recipe,
        {"flair": 0.3, "t1ce": 0.3, "t2": 0.3},
        train_case_ids=(TRAINED,),
        select_case_ids=(SELECTED,),
        identities=identities_of(dataset, (TRAINED, SELECTED)),
    )


def _rename(scans, index, root, case_id, change=lambda path: None):
    """Copies a case of BraTS 2020 under a name of BraTS 2023, and changes each file of an image."""
    old = f"BraTS20_Training_{index:03d}"
    folder = root / case_id
    folder.mkdir(parents=True)
    for kind, suffix in {**RELEASE_2023_SUFFIXES, "seg": "seg"}.items():
        path = folder / f"{case_id}-{suffix}.nii.gz"
        image = nibabel.load(scans / old / f"{old}_{kind}.nii.gz")
        if kind == "seg":
            mask = np.asarray(image.dataobj)
            mask[mask == 4] = 3
            nibabel.save(nibabel.Nifti1Image(mask, image.affine), path)
        else:
            path.write_bytes((scans / old / f"{old}_{kind}.nii.gz").read_bytes())
            change(path)


def _compressed_anew(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=7))


def _floats_in_another_order(path):
    image = nibabel.load(path)
    floats = nibabel.Nifti1Image(image.get_fdata(dtype=np.float64), image.affine)
    nibabel.save(floats.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]])), path)


def _uncompressed(path):
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
