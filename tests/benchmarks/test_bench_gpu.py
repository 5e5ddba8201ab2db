import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/bench_gpu.py"


@pytest.fixture(scope="module")
def bench():
    found = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    yield module
    del sys.modules[found.name]


def test_each_setting_is_planned_once_from_one_gpu_to_all(bench):
    settings = bench.plan(6)
    assert len(settings) == len(set(settings)) == 4 * 12 + 12 + 2
    trainings = [setting for setting in settings if setting.task == "training"]
    assert [s.gpus for s in trainings] == [1] * 12 + [6] * 12 + [2] * 12 + [4] * 12
    assert all(setting.devices == setting.gpus for setting in trainings)
    assert {setting.precision for setting in settings[:8]} == {"mixed_bfloat16"}
    assert len(bench.plan(1, ["unet"], ["float32"])) == 2 + 2 + 1


def test_published_figures_stand_beside_the_same_task(bench):
    row = {"task": "training", "precision": "mixed_float16", "gpus": 8, "batch": 2}
    assert bench.published(row) == 219.0
    assert bench.published({**row, "gpus": 1, "precision": "float32"}) == 11.8
    assert bench.published({**row, "task": "network", "gpus": 1}) == 63.8
    assert bench.published({**row, "gpus": 2}) is None


def test_rows_and_summary(bench, capsys):
    setting = bench.Setting("training", "unet_nn", "mixed_bfloat16", xla=True)
    text = bench.row_text(
        setting,
        {
            **vars(setting),
            "batch": 2,
            "images": 30.04,
            "repeated": 31.0,
            "waiting": 0.031,
            "peak_gb": 7.5,
        },
    )
    assert text.split()[-6:] == ["2", "30.0", "31.0", "3%", "7.50", "29.3"]
    failed = bench.row_text(setting, {"batch": 4, "error": "out of memory"})
    assert failed.endswith("    4 out of memory")
    rows = [
        {**vars(setting), "batch": batch, "images": images}
        for batch, images in ((1, 13.5), (2, 29.3), (2, 10.0))
    ]
    bench.summarise([*rows, {**vars(setting), "batch": 4, "error": ""}], [setting], ["A100"])
    skipped, last = capsys.readouterr().out.splitlines()
    assert "unet_nn" in skipped and skipped.endswith("skipped: no time left within --minutes")
    result = json.loads(last)
    assert (result["ours"], result["ratio"], result["device"]) == (29.3, 0.5, ["A100"])


def test_a_process_that_fails_or_takes_too_long_is_a_row(bench, monkeypatch, tmp_path):
    script = tmp_path / "child.py"
    monkeypatch.setattr(bench, "__file__", str(script))
    script.write_text("print('{\"batch\": 1}', flush=True); raise SystemExit('no such GPU')")
    forever = time.monotonic() + 600
    assert list(bench.run_child({}, forever)) == [{"batch": 1}, {"error": "no such GPU"}]
    script.write_text("print('{\"batch\": 1}', flush=True); import time; time.sleep(600)")
    assert list(bench.run_child({}, 0.0))[-1] == {"error": "not done in time"}


TRIED = [("training", 1), ("training", 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, tried",
    [
        (("--networks=unet_nn",), TRIED),
        pytest.param(
            (), TRIED * 3 + [("network", 1), ("network", 2), ("case", None)], marks=pytest.mark.soak
        ),
    ],
)
def test_without_a_gpu_it_tries_the_same_code_and_exits_with_2(flags, tried):
    done = subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True)
    assert done.returncode == 2 and "TensorFlow shows no GPU" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [(row["task"], row.get("batch")) for row in result["rows"]] == tried
    assert not [row for row in result["rows"] if "error" in row] and not result["skipped"]
