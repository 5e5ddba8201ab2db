"""What the rooms' tests share: a small cohort, its dataset and a tiny model, by the real tools."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tensorflow_environment  # noqa: F401 - first
import browser
import hypothesis
import pytest
import recognised_scans
from filelock import FileLock
from tiny_cohorts import write_tiny_case

# A slow example says that the machine is busy, not that the code is wrong.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]
SHAPE = "96,92,72"
WINDOW = "8:88,6:86,4:60"


def pytest_collection_modifyitems(items):
    """The longest come first: what is left for two processes in the end are many short ones."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session")
def run_tool():
    """Runs `python tools/NAME FLAGS…`; returns the finished process, output as text."""

    def run(name, *flags, expect=0):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / name), *map(str, flags)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once(name, make)`: folder `name`, filled by `make(folder)` once for all processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def made(name, make):
        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def small_cohort(run_tool, made_once):
    """Folder of four small labelled phantoms (the third without enhancing tumour) and one not."""
    return made_once(
        "cohort",
        lambda root: run_tool(
            "make_phantom.py",
            f"--output_dir={root}",
            "--cases=4",
            "--unlabelled=1",
            f"--shape={SHAPE}",
            "--seed=3",
        ),
    )


@pytest.fixture(scope="session")
def small_dataset(run_tool, small_cohort, made_once):
    """The small cohort converted: two folds, one case a shard, processed NIfTI files too."""

    def convert(root):
        done = run_tool(
            "convert_to_tfrecord.py",
            f"--input_dir={small_cohort}",
            f"--output_dir={root}",
            "--folds=2",
            "--cases_per_shard=1",
            "--jobs=2",
            "--crop=fixed",
            f"--crop_window={WINDOW}",
            "--write_nifti",
        )
        assert done.stdout.splitlines()[-1] == "Successfully processed 5/5 patients"

    return made_once("dataset", convert)


@pytest.fixture(scope="session")
def model_dir(run_tool, small_dataset, made_once):
    """Folder of a tiny U-Net trained for a few steps on two virtual devices."""
    return made_once(
        "model",
        lambda root: run_tool(
            "train.py",
            f"--data_dir={small_dataset}",
            f"--model_dir={root}",
            "--filters=8,16",
            "--dropout=0",
            "--patch_size=32",
            "--batch_size=2",
            "--epochs=8",
            "--patches_per_case=8",
            "--foreground_fraction=0.67",
            "--learning_rate=0.004",
            "--loss=dice_cross_entropy",
            "--virtual_devices=2",
            "--validate_every=8",
        ),
    )


@pytest.fixture(scope="session")
def tiny_model(model_dir):
    """Its SavedModel."""
    return model_dir / "saved_model"


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Folder of twelve labelled cases of 24x20x16 voxels."""
    root = tmp_path_factory.mktemp("tiny")
    for index in range(1, 13):
        write_tiny_case(root, index)
    return root


@pytest.fixture(scope="session")
def recognised(made_once):
    """A model and a cohort of scans that it has met under other names: `recognised_scans.write`."""
    return made_once("recognised", recognised_scans.write)


@pytest.fixture(scope="session")
def real_cases():
    """Folder of two real cases beside the checkout; skips, saying so, where there is none."""
    folder = ROOT.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"NO REAL CASES: {folder} is not there, so nothing is checked on real input")
    return folder


@pytest.fixture(scope="session")
def chromium():
    """A real Chromium; skips without one, unless BROWSER_TESTS=required."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not executable:
        message = "no Chromium found: install chromium or name it in CHROMIUM"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(message)
        pytest.skip(message)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=executable, args=browser.CHROMIUM_FLAGS.split()
        )
        yield started
        started.close()
