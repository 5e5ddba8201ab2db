"""Conversions with the command line tool, and the documented recipe written out in ANTsPy."""

import dataclasses
import gzip
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import layouts, nifti, voxel_digest
from brats_tfrecord.errors import InputError
from brats_tfrecord.phantom import generate
from brats_tfrecord.preprocess import masks
from brats_tfrecord.records import convert, example, manifest
from brats_tfrecord.records.convert_options import ConvertOptions

pytestmark = pytest.mark.slow

ORIGIN, WINDOW_SHAPE = (8, 6, 4), (80, 80, 56)
WINDOW = "8:88,6:86,4:60"
UNCHANGED = {"bias_correction": "none", "crop": "fixed", "crop_window": WINDOW, "jobs": 1}


def records(dataset):
    """Reads case id -> `StoredCase` of a whole dataset with TensorFlow."""
    paths = [str(dataset.root / shard.name) for shard in dataset.shards]
    return {
        stored.case_id: stored
        for stored in (
            example.decode(record, dataset.recipe.image_dtype)
            for record in tf.data.TFRecordDataset(paths).as_numpy_iterator()
        )
    }


def listing(root):
    return {path.name: files.sha256(path) for path in sorted(root.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def dataset(small_dataset):
    return manifest.load(small_dataset)


def test_the_manifest_describes_shards_and_cases(dataset, small_cohort):
    assert [(shard.name, shard.count) for shard in dataset.shards] == [
        ("fold0-00000-of-00002.tfrecord", 1),
        ("fold0-00001-of-00002.tfrecord", 1),
        ("fold1-00000-of-00002.tfrecord", 1),
        ("fold1-00001-of-00002.tfrecord", 1),
        ("unlabelled-00000-of-00001.tfrecord", 1),
    ]
    for shard in dataset.shards:
        path = dataset.root / shard.name
        assert (path.stat().st_size, files.sha256(path)) == (shard.bytes, shard.sha256)
        sidecar = json.loads((path.with_suffix(".json")).read_text())
        assert sidecar["shard"] == dataclasses.asdict(shard)
    stored = records(dataset)
    assert list(stored) == [case.case_id for case in dataset.cases]
    for case in layouts.find_cases(small_cohort):
        row = next(row for row in dataset.cases if row.case_id == case.case_id)
        raw = nifti.read_case(case)
        assert row.inputs["t1ce"] == files.sha256(case.image("t1ce"))
        assert row.voxels == voxel_digest.digests_of(spec.MODALITIES, raw.volumes)
        assert len(set(row.voxels.values())) == 4
        assert row.brain_voxels == np.count_nonzero((raw.volumes > 0).any(axis=-1))
        if case.mask is not None:
            truth = masks.to_classes(raw.mask, spec.LABEL_SCHEMES["brats2020"], "")
            np.testing.assert_array_equal(stored[case.case_id].native_classes(), truth)
            assert row.class_voxels == tuple(np.bincount(truth.ravel(), minlength=4))
        assert row.labelled == (row.fold is not None) == (case.mask is not None)


def test_the_manifest_holds_no_path_host_or_time(dataset, small_cohort):
    text = (dataset.root / manifest.FILE_NAME).read_text()
    assert str(small_cohort) not in text and str(dataset.root) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d|:\d\d:\d\d", text)


def test_the_number_of_jobs_does_not_change_the_bytes(small_cohort, tmp_path):
    for jobs in (1, 2):
        convert.convert(
            ConvertOptions(
                str(small_cohort),
                str(tmp_path / str(jobs)),
                folds=2,
                crop="fixed",
                crop_window=WINDOW,
                jobs=jobs,
            )
        )
    one, two = listing(tmp_path / "1"), listing(tmp_path / "2")
    assert one == two and "dataset.json" in one
    assert not [path for path in (tmp_path / "2").iterdir() if path.name.startswith(".")]


def test_the_ants_recipe_gives_the_documented_result(tmp_path, monkeypatch):
    """Compares one record with the documented recipe, written out with ANTsPy and NumPy."""
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")  # read by the import
    import ants

    generate.write_cohort(tmp_path / "in", cases=1, seed=5, shape=(60, 64, 48))
    window = (slice(5, 55), slice(6, 58), slice(4, 44))
    convert.convert(
        ConvertOptions(
            str(tmp_path / "in"),
            str(tmp_path / "out"),
            jobs=1,
            folds=1,
            bias_correction="ants",
            crop="fixed",
            crop_window="5:55,6:58,4:44",
        )
    )
    [stored] = records(manifest.load(tmp_path / "out")).values()
    [case] = layouts.find_cases(tmp_path / "in")
    for channel, modality in enumerate(spec.MODALITIES):
        image = ants.image_read(str(case.image(modality)))
        mask = ants.get_mask(image)
        mask = mask.new_image_like(((mask.numpy() > 0) & (image.numpy() > 0)).astype(np.float32))
        corrected = ants.n4_bias_field_correction(image, mask=mask).numpy()[window]
        expected = (
            (corrected - corrected.mean(dtype=np.float64)) / corrected.std(dtype=np.float64)
        ).astype(np.float16)
        ulp = np.spacing(np.abs(expected))
        assert (np.abs(stored.image[..., channel].astype(np.float32) - expected) <= ulp).all()
    seg = np.asarray(nibabel.load(case.mask).dataobj)
    seg = np.where(seg == 4, 3, seg)[window]
    one_hot = np.stack([seg == value for value in range(4)], axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(masks.one_hot(stored.classes, 4), one_hot)


def test_processed_nifti_files_have_the_position_of_the_input(dataset, small_cohort):
    case = layouts.find_cases(small_cohort)[0]
    stored = records(dataset)[case.case_id]
    image = nibabel.load(
        dataset.root / "processed_images" / case.case_id / f"{case.case_id}_flair.nii.gz"
    )
    np.testing.assert_array_equal(image.get_fdata(), stored.image[..., 3].astype(np.float32))
    native = nibabel.load(case.image("flair"))
    np.testing.assert_array_equal(
        image.affine @ [1, 2, 3, 1], native.affine @ [*(np.add(ORIGIN, (1, 2, 3))), 1]
    )
    mask = nibabel.load(
        dataset.root / "processed_masks" / case.case_id / f"{case.case_id}_seg.nii.gz"
    )
    assert mask.shape == (*WINDOW_SHAPE, 4)
    np.testing.assert_array_equal(np.argmax(mask.dataobj, axis=-1), stored.classes)


@pytest.fixture
def broken_cohort(small_cohort, tmp_path):
    """Four labelled cases: a truncated file, no t2, an unknown label, and a sound case."""
    root = tmp_path / "broken"
    for n in (1, 2, 3, 4):
        shutil.copytree(small_cohort / f"BraTS20_Training_00{n}", root / f"BraTS20_Training_00{n}")
    t1 = root / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz"
    t1.write_bytes(t1.read_bytes()[:5000])
    (root / "BraTS20_Training_002" / "BraTS20_Training_002_t2.nii.gz").unlink()
    seg = root / "BraTS20_Training_003" / "BraTS20_Training_003_seg.nii.gz"
    data = bytearray(gzip.decompress(seg.read_bytes()))
    data[400] = 9
    seg.write_bytes(gzip.compress(bytes(data)))
    return root


def test_failed_cases_are_named_and_the_others_converted(run_tool, broken_cohort, tmp_path):
    done = run_tool(
        "convert_to_tfrecord.py",
        f"--input_dir={broken_cohort}",
        f"--output_dir={tmp_path / 'out'}",
        "--folds=2",
        "--bias_correction=none",
        "--crop=fixed",
        f"--crop_window={WINDOW}",
        expect=1,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "Successfully processed 1/4 patients"
    for name, reason in (
        ("BraTS20_Training_001_t1.nii.gz", "truncated or damaged"),
        ("BraTS20_Training_002", "no t2 image"),
        ("BraTS20_Training_003", "the mask holds label 9"),
    ):
        assert any(
            line.startswith("failed: ") and name in line and reason in line for line in lines
        ), done.stdout
    dataset = manifest.load(tmp_path / "out")
    assert [case.case_id for case in dataset.cases] == ["BraTS20_Training_004"]
    assert len(dataset.failures) == 3
    assert not any(str(broken_cohort) in failure.reason for failure in dataset.failures)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--folds=9"], "--folds=9: only 4 labelled patients; --folds=4 is the most that works"),
        (["--crop_window=5:1,2"], "--crop_window=5:1,2: expected first:end of x,y,z"),
        (["--bias_correction=n5"], "--bias_correction=n5: value should be one of"),
        (["--fold=2"], "Unknown command line flag 'fold'"),
        (["--inspect", "--folds=3"], "--output_dir"),
        (["--jobs=0"], "--jobs=0: expected the number of worker processes"),
        (["--input_dir="], "--input_dir: is empty"),
        (["extra"], "'extra': expected only flags"),
        (["--input_dir=/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_bad_flags_write_nothing(run_tool, small_cohort, tmp_path, flags, message):
    done = run_tool(
        "convert_to_tfrecord.py",
        f"--input_dir={small_cohort}",
        f"--output_dir={tmp_path / 'out'}",
        *flags,
        expect=2,
    )
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_dataset_is_left_if_every_case_fails(small_cohort, tmp_path):
    """The default window is larger than these phantoms; the message names the remedy."""
    chosen = ConvertOptions(
        str(small_cohort),
        str(tmp_path / "out"),
        folds=2,
        jobs=1,
        bias_correction="none",
        crop="fixed",
    )
    with pytest.raises(InputError, match="none of the 5 cases .* give --crop=brain, or a --crop_w"):
        convert.convert(chosen)
    assert not list((tmp_path / "out").iterdir())
    convert.convert(dataclasses.replace(chosen, crop_window=WINDOW))


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/x"])
def test_an_output_that_cannot_be_written_is_refused_at_once(run_tool, small_cohort, place):
    done = run_tool(
        "convert_to_tfrecord.py",
        f"--input_dir={small_cohort}",
        f"--output_dir={place}",
        "--folds=2",
        expect=2,
    )
    assert f"--output_dir={place}: cannot be written to" in done.stderr


def test_files_of_an_unfinished_conversion_are_removed(small_cohort, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "fold3-00000-of-00001.tfrecord").write_bytes(b"half")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="has not finished"):
        manifest.load(out)
    convert.convert(ConvertOptions(str(small_cohort), str(out), folds=2, **UNCHANGED))
    assert not (out / "fold3-00000-of-00001.tfrecord").exists()
    assert (out / "notes.txt").read_text() == "mine"


def test_folders_without_a_sound_dataset_are_refused(tmp_path, small_dataset):
    with pytest.raises(InputError, match="is not a dataset"):
        manifest.load(tmp_path)
    shutil.copytree(small_dataset, tmp_path / "copy")
    (tmp_path / "copy" / "fold0-00000-of-00002.tfrecord").unlink()
    with pytest.raises(InputError, match="fold0-00000-of-00002.tfrecord: this shard is missing"):
        manifest.load(tmp_path / "copy")
    (tmp_path / "copy" / "fold0-00000-of-00002.tfrecord").write_bytes(b"short")
    with pytest.raises(InputError, match="this shard has 5 bytes, dataset.json says"):
        manifest.load(tmp_path / "copy")
    (tmp_path / "copy" / manifest.FILE_NAME).write_text('{"schema": 4}')
    with pytest.raises(InputError, match="dataset.json: is damaged"):
        manifest.load(tmp_path / "copy")
    (tmp_path / "copy" / manifest.FILE_NAME).write_text("{}")
    with pytest.raises(InputError, match="is not a manifest of convert_to_tfrecord"):
        manifest.load(tmp_path / "copy")
