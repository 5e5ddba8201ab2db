"""Conversions that are killed, stopped or run out of disk space, and are then run again."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time

import nibabel
import numpy as np
import psutil
import pytest
from tiny_cohorts import (
    TINY_FLAGS,
    TINY_SHAPE,
    listing,
    start_conversion,
    wait_for,
    workers_of,
    write_tiny_case,
)

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import convert, manifest, work_folder
from brats_tfrecord.records.convert_options import ConvertOptions

pytestmark = pytest.mark.slow


def flags(cohort, out, *more):
    return (f"--input_dir={cohort}", f"--output_dir={out}", "--jobs=2", *TINY_FLAGS, *more)


def chosen(cohort, out, **more):
    return ConvertOptions(
        str(cohort),
        str(out),
        **{
            "folds": 3,
            "cases_per_shard": 2,
            "crop": "brain",
            "crop_window": "0:16,0:16,0:12",
            "jobs": 2,
            **more,
        },
    )


@pytest.fixture(scope="module")
def unbroken(run_tool, tiny_cohort, tmp_path_factory):
    """The listing of an uninterrupted conversion, and the seconds it took."""
    out = tmp_path_factory.mktemp("unbroken")
    began = time.monotonic()
    run_tool("convert_to_tfrecord.py", *flags(tiny_cohort, out))
    return listing(out), time.monotonic() - began


def kill_and_rerun(run_tool, cohort, out, moment, victim):
    """Kills the converter or a worker `moment` seconds after its start and runs it again."""
    process = start_conversion(*flags(cohort, out))
    time.sleep(moment)
    if victim == "worker" and process.poll() is None and workers_of(process):
        random.choice(workers_of(process)).kill()
        process.communicate(timeout=60)
        assert process.returncode == 0
    else:
        process.kill()
        process.communicate()
    return run_tool("convert_to_tfrecord.py", *flags(cohort, out))


def check_kills(run_tool, cohort, unbroken, tmp_path, count):
    expected, seconds = unbroken
    rng = random.Random(count)
    for index in range(count):
        out, moment = tmp_path / str(index), rng.uniform(0.3 * seconds, seconds)
        done = kill_and_rerun(run_tool, cohort, out, moment, rng.choice(["converter", "worker"]))
        assert done.stdout.endswith("Successfully processed 12/12 patients\n")
        assert listing(out) == expected, f"killed after {moment:.3f} s"
    print(
        f"{count} conversions killed between {0.3 * seconds:.1f} and {seconds:.1f} s, run again: "
        f"{count} listings of {len(expected)} files equal the unbroken run's"
    )


def test_a_rerun_after_a_kill_gives_the_same_bytes(run_tool, tiny_cohort, unbroken, tmp_path):
    check_kills(run_tool, tiny_cohort, unbroken, tmp_path, 5)


@pytest.mark.soak
def test_a_rerun_after_each_of_fifty_kills_gives_the_same_bytes(
    run_tool, tiny_cohort, unbroken, tmp_path
):
    check_kills(run_tool, tiny_cohort, unbroken, tmp_path, 50)


def test_temporary_files_of_a_killed_writer_are_removed(run_tool, tiny_cohort, unbroken, tmp_path):
    """Temporary files of a shard, a sidecar, the manifest and cases, which were never renamed."""
    (tmp_path / "processed").mkdir()
    names = [
        ".fold0-00000-of-00002.tfrecord",
        ".fold2-00001-of-00002.json",
        ".dataset.json",
        "processed/.a.nii.gz",
        ".converting/.a.json",
    ]
    for name in names:
        path = tmp_path / f"{name}.29809-8ce1caa4.tmp"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"cut off")
    (tmp_path / ".notes.tmp").write_bytes(b"somebody else's")
    run_tool("convert_to_tfrecord.py", *flags(tiny_cohort, tmp_path))
    (tmp_path / ".notes.tmp").unlink()
    (tmp_path / "processed").rmdir()
    assert listing(tmp_path) == unbroken[0]


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_folder_that_can_be_resumed(
    run_tool, tiny_cohort, unbroken, tmp_path, sent, code
):
    process = start_conversion(*flags(tiny_cohort, tmp_path))
    wait_for(lambda: list(tmp_path.glob("*.tfrecord")))
    workers = workers_of(process)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.splitlines()[-1].endswith("run the same command again to continue")
    assert "Traceback" not in errors
    assert not psutil.wait_procs(workers, timeout=10)[1]
    done = run_tool("convert_to_tfrecord.py", *flags(tiny_cohort, tmp_path))
    assert "Kept from an earlier run: " in done.stdout
    assert listing(tmp_path) == unbroken[0]


@pytest.mark.parametrize("moment", ["started", "at work"])
def test_workers_do_not_outlive_a_killed_converter(tiny_cohort, tmp_path, moment):
    """Workers without a task end too; loky alone would let them wait for minutes."""
    process = start_conversion(*flags(tiny_cohort, tmp_path))
    workers = wait_for(lambda: workers_of(process))
    if moment == "at work":
        wait_for(
            lambda: list(tmp_path.glob(".converting/*.json")) or list(tmp_path.glob("*.tfrecord"))
        )
    process.kill()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    process.communicate(timeout=10)


def test_a_case_that_kills_its_worker_twice_fails_and_the_others_are_converted(tmp_path):
    """Kills each worker that begins case 004, as the kernel does for lack of memory."""
    victim, out = "BraTS20_Training_004", tmp_path / "out"
    for index in range(1, 8):
        write_tiny_case(tmp_path / "in", index, (180, 160, 130) if index == 4 else TINY_SHAPE)
    process = start_conversion(*flags(tmp_path / "in", out))
    mark, deaths = out / ".converting" / "running" / victim, 0
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if mark.stat().st_size > deaths:
                deaths = mark.stat().st_size
                for worker in workers_of(process):
                    worker.kill()
        time.sleep(0.005)
    output, errors = process.communicate()
    assert process.returncode == 1, errors
    # Another case may have been running at the same time, and is then named too.
    assert re.search(
        rf"; (.+, )?{victim}(, .+)? was running and is tried again alone", output + errors
    )
    assert f"failed: {victim}: the worker that converted it was killed, twice" in output + errors
    assert output.endswith("Successfully processed 6/7 patients\n")
    assert [failure.case_id for failure in manifest.load(out).failures] == [victim]
    assert not (out / ".converting").exists()


def test_a_second_converter_in_the_same_folder_is_refused(tiny_cohort, tmp_path):
    with (
        work_folder.locked(tmp_path),
        pytest.raises(
            InputError, match=f"another conversion is writing to it .process {os.getpid()} on "
        ),
    ):
        convert.convert(chosen(tiny_cohort, tmp_path))
    convert.convert(chosen(tiny_cohort, tmp_path))


def test_a_rerun_converts_failed_cases_and_keeps_the_others(
    tiny_cohort, unbroken, tmp_path, capsys
):
    cohort, out = tmp_path / "in", tmp_path / "out"
    subprocess.run(["cp", "-r", tiny_cohort, cohort], check=True)
    broken = cohort / "BraTS20_Training_007" / "BraTS20_Training_007_t2.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    assert [failure.case_id for failure in convert.convert(chosen(cohort, out)).failures] == [
        "BraTS20_Training_007"
    ]
    broken.write_bytes(whole)
    capsys.readouterr()
    assert not convert.convert(chosen(cohort, out)).failures
    assert "Kept from an earlier run: 11 cases in 6 shards" in capsys.readouterr().out
    assert listing(out) == unbroken[0]


def test_a_case_whose_file_changed_is_converted_again(tiny_cohort, unbroken, tmp_path, capsys):
    cohort, out = tmp_path / "in", tmp_path / "out"
    subprocess.run(["cp", "-r", tiny_cohort, cohort], check=True)
    convert.convert(chosen(cohort, out))
    path = cohort / "BraTS20_Training_002" / "BraTS20_Training_002_t1.nii.gz"
    image = nibabel.load(path)
    data = np.asarray(image.dataobj).copy()
    data[12, 10, 8] += 1
    nibabel.save(nibabel.Nifti1Image(data, image.affine), path)
    capsys.readouterr()
    convert.convert(chosen(cohort, out))
    assert "Kept from an earlier run: 11 cases" in capsys.readouterr().out
    after = listing(out)
    different = {name for name in after if after[name] != unbroken[0][name]}
    row = next(row for row in manifest.load(out).cases if row.case_id == "BraTS20_Training_002")
    assert different == {row.shard, row.shard.replace(".tfrecord", ".json"), "dataset.json"}


def test_an_unfinished_conversion_can_continue_with_other_folds(
    run_tool, tiny_cohort, unbroken, tmp_path
):
    """Records do not depend on their shard, so they are moved to other shards."""
    run_tool("convert_to_tfrecord.py", *flags(tiny_cohort, tmp_path, "--seed=1"))
    (tmp_path / manifest.FILE_NAME).unlink()
    done = run_tool("convert_to_tfrecord.py", *flags(tiny_cohort, tmp_path))
    assert "Kept from an earlier run: 12 cases" in done.stdout
    assert listing(tmp_path) == unbroken[0]


@pytest.mark.parametrize("change", ["shard", "sidecar", "record"])
def test_a_damaged_shard_of_an_earlier_run_is_not_kept(tiny_cohort, unbroken, tmp_path, change):
    convert.convert(chosen(tiny_cohort, tmp_path))
    (tmp_path / manifest.FILE_NAME).unlink()
    shard = tmp_path / "fold1-00000-of-00002.tfrecord"
    if change == "sidecar":
        shard.with_suffix(".json").write_text("{")
    else:
        data = bytearray(shard.read_bytes())
        data[3000] ^= 1
        shard.write_bytes(data[:-10] if change == "record" else data)
    convert.convert(chosen(tiny_cohort, tmp_path))
    assert listing(tmp_path) == unbroken[0]


@pytest.mark.parametrize(
    "more, difference",
    [
        ({"folds": 2}, "folds is 3, now 2"),
        ({"seed": 5}, "seed is 0, now 5"),
        ({"bias_correction": "none"}, "bias_correction is n4, now none"),
        ({"cases_per_shard": 4}, "its cases are in other shards (--cases_per_shard)"),
    ],
)
def test_a_finished_dataset_is_not_changed_by_other_options(
    tiny_cohort, tmp_path, more, difference
):
    convert.convert(chosen(tiny_cohort, tmp_path))
    before = listing(tmp_path)
    with pytest.raises(InputError) as caught:
        convert.convert(chosen(tiny_cohort, tmp_path, **more))
    assert f"already holds another dataset: {difference}; give the options" in str(caught.value)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_dataset_of_an_earlier_schema_is_refused_and_kept(tiny_cohort, tmp_path, finished):
    head = tmp_path / (manifest.FILE_NAME if finished else f"{work_folder.NAME}/head.json")
    files.write_json(head, {"schema": 3, "recipe": {}})
    with pytest.raises(InputError, match="schema 3, .* run convert_to_tfrecord.py .* new --output"):
        convert.convert(chosen(tiny_cohort, tmp_path))
    assert files.read_json(head)["schema"] == 3


def test_a_finished_dataset_is_not_changed_by_new_cases(tiny_cohort, tmp_path):
    cohort, out = tmp_path / "in", tmp_path / "out"
    subprocess.run(["cp", "-r", tiny_cohort, cohort], check=True)
    convert.convert(chosen(cohort, out))
    write_tiny_case(cohort, 40)
    with pytest.raises(InputError, match="the cohort has new cases: BraTS20_Training_040; give"):
        convert.convert(chosen(cohort, out))


def test_a_full_disk_gives_one_line_and_a_rerun_continues(run_tool, tmp_path):
    """Converts twelve cases of 4 MB on a file system of 30 MB, which then grows."""
    cohort, disk = tmp_path / "in", tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("NO TMPFS: mounting one needs root, so a full disk is not tried")
    try:
        for index in range(1, 13):
            write_tiny_case(cohort, index)
        wanted = (
            f"--input_dir={cohort}",
            f"--output_dir={disk / 'out'}",
            "--folds=2",
            "--crop_window=0:80,0:80,0:72",
            "--jobs=2",
        )
        full = run_tool("convert_to_tfrecord.py", *wanted, expect=75)
        message = full.stderr.splitlines()[-1]
        assert "the disk is full" in message and "of 12 cases are done and kept" in message
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        done = run_tool("convert_to_tfrecord.py", *wanted)
        assert done.stdout.endswith("Successfully processed 12/12 patients\n")
        print(message, *done.stdout.splitlines()[-4:], sep="\n")
        out = listing(disk / "out")
    finally:
        subprocess.run(["umount", disk], check=True)
    run_tool("convert_to_tfrecord.py", *(flag.replace(str(disk), str(tmp_path)) for flag in wanted))
    assert listing(tmp_path / "out") == out


@pytest.mark.parametrize(
    "more, difference",
    [
        ({"image_dtype": "float32"}, "image_dtype is float16, now float32"),
        ({"normalize": "brain"}, "normalize is crop, now brain"),
        ({"bare_mask_affine": "ignore"}, "bare_mask_affine is refuse, now ignore"),
    ],
)
def test_an_unfinished_conversion_is_not_discarded_for_other_options(
    tiny_cohort, tmp_path, more, difference
):
    process = start_conversion(*flags(tiny_cohort, tmp_path))
    wait_for(lambda: list(tmp_path.glob("*.tfrecord")))
    process.terminate()
    process.communicate(timeout=60)
    before = listing(tmp_path)
    with pytest.raises(InputError, match=f"unfinished conversion with other options: {difference}"):
        convert.convert(chosen(tiny_cohort, tmp_path, **more))
    assert {name: digest for name, digest in listing(tmp_path).items() if "lock" not in name} == {
        name: digest for name, digest in before.items() if "lock" not in name
    }


@pytest.mark.parametrize("left", ["", "null", "[" * 100_000, '{"recipe": [1]}'])
def test_an_unreadable_manifest_is_written_again(tiny_cohort, unbroken, tmp_path, capsys, left):
    convert.convert(chosen(tiny_cohort, tmp_path))
    (tmp_path / manifest.FILE_NAME).write_text(left)
    convert.convert(chosen(tiny_cohort, tmp_path))
    assert "Kept from an earlier run: 12 cases in 6 shards" in capsys.readouterr().out
    assert listing(tmp_path) == unbroken[0]


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
        os.mkdir,
    ],
)
def test_an_input_that_is_not_a_regular_file_fails_at_once(tmp_path, make):
    for index in (1, 2):
        write_tiny_case(tmp_path / "in", index)
    path = tmp_path / "in" / "BraTS20_Training_002" / "BraTS20_Training_002_t1.nii.gz"
    path.unlink()
    make(path)
    [failure] = convert.convert(chosen(tmp_path / "in", tmp_path / "out", folds=1)).failures
    assert "not a regular file" in failure.reason or "no such file" in failure.reason


@pytest.mark.parametrize("place", ["", "BraTS20_Training_001", "dataset"])
def test_an_output_folder_inside_the_cohort_is_refused(tiny_cohort, place):
    with pytest.raises(InputError, match="lies within --input_dir="):
        convert.convert(chosen(tiny_cohort, tiny_cohort / place))


def test_cases_with_equal_images_are_reported(tmp_path, capsys):
    for index in (1, 2, 3):
        write_tiny_case(tmp_path / "in", index)
    for kind in ("t1", "t1ce", "t2", "flair"):
        first, second = (
            tmp_path / "in" / name / f"{name}_{kind}.nii.gz"
            for name in ("BraTS20_Training_001", "BraTS20_Training_003")
        )
        second.write_bytes(first.read_bytes())
    convert.convert(chosen(tmp_path / "in", tmp_path / "out"))
    output = capsys.readouterr().out
    assert "BraTS20_Training_001" in output and "have an image in common, voxel for voxel" in output
