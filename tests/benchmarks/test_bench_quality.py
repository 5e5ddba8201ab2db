import dataclasses
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_cohorts import write_tiny_case

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "bench_quality.py"
PARTS = ("settings", "cases", "runs", "child", "ours", "summary")


class Parts:
    """The modules of the benchmark, by name."""


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        parts = Parts()
        for name in PARTS:
            setattr(parts, name, importlib.import_module(f"quality.{name}"))
        parts.main = importlib.import_module("bench_quality")
        yield parts
    for name in [name for name in sys.modules if name.partition(".")[0] == "quality"]:
        del sys.modules[name]
    del sys.modules["bench_quality"]


@pytest.fixture
def settings(bench):
    return bench.settings.Settings(
        ("/cohort",), 0, "flair,t1ce", 2, 0.1, 1, 1, "", "", 32, 1e-3, "brats2020"
    )


def result(contestant, fold, **dice_of_case):
    """The result of a training: WT has the given Dice, TC 0.1 less and ET 0.2 less."""
    cases = {
        case: {
            "patient": case,
            **{f"dice_{name}": dice - 0.1 * n for n, name in enumerate(spec.REGIONS)},
            **{f"hd95_{name}": 10.0 * (n + 1) for n, name in enumerate(spec.REGIONS)},
        }
        for case, dice in dice_of_case.items()
    }
    return {
        "contestant": contestant,
        "seed": 0,
        "fold": fold,
        "steps": 100 + fold,
        "minutes": 2.0,
        "cases": cases,
    }


RESULTS = [
    result("ours", 0, a=0.9),
    result("ours", 1, b=0.7),
    result("unet", 0, a=0.8),
    result("unet", 1, b=0.6),
]


def test_contestants_take_turns_in_every_fold(bench):
    plan = bench.settings.plan(["ours:cpu", "unet"], [0, 1], 2)
    assert [run.name for run in plan[:3]] == [
        "ours-cpu-seed0-fold0",
        "unet-seed0-fold0",
        "ours-cpu-seed0-fold1",
    ]
    assert len({run.name for run in plan}) == len(plan) == 2 * 2 * 2


@pytest.mark.parametrize(
    "patients, folds, phantoms, expected",
    [(5, 0, 0, 5), (8, 0, 0, 8), (9, 0, 0, 5), (8, 0, 8, 2), (8, 4, 8, 4), (9, 9, 0, 9)],
)
def test_small_cohorts_leave_one_out(bench, patients, folds, phantoms, expected):
    assert bench.cases.count_folds(patients, folds, phantoms) == expected


@pytest.mark.parametrize("folds", [1, 6, -2])
def test_folds_that_the_patients_do_not_fill_are_refused(bench, folds):
    with pytest.raises(InputError, match=f"--folds={folds}: expected 2 to 5"):
        bench.cases.count_folds(5, folds, 0)


@pytest.mark.parametrize(
    "names, message",
    [
        (["resnet"], "--contestants=resnet: expected ours"),
        (["unet:softmax"], "--contestants=unet:softmax"),
        (["nnunet:regions"], "--contestants=nnunet:regions"),
        (["ours", "ours"], "names a contestant twice"),
    ],
)
def test_unknown_contestants_are_refused(bench, names, message):
    with pytest.raises(InputError, match=message):
        bench.settings.check_contestants(names)


def test_known_contestants_are_accepted(bench):
    bench.settings.check_contestants(["ours", "unet", "unet:classes", "dynunet:regions", "nnunet"])


def test_without_the_peers_it_says_what_to_install(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench.settings, "is_installed", lambda name: name == "torch")
    assert bench.main.main(["--contestants=ours,unet,nnunet"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "monai and nnunetv2 not installed" in message and "pip install nnunetv2" in message
    assert bench.settings.missing_packages(["ours"]) == []
    assert "nnunet" not in bench.settings.default_contestants()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--minutes=0", "expected a number above 0"),
        ("--minutes=nan", "expected a number above 0"),
        ("--peer_patch_size=90", "a multiple of 16"),
        ("--seeds=1,1", "different numbers"),
        ("--cores=9999", "9999 x 1 processors"),
    ],
)
def test_wrong_values_are_refused(bench, flag, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main.main([flag])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_folder_keeps_its_settings(bench, settings, tmp_path):
    bench.settings.claim(tmp_path, settings)
    bench.settings.claim(tmp_path, settings)
    other = dataclasses.replace(settings, minutes=12)
    with pytest.raises(InputError, match=r"holds trainings with minutes=0\.1, not 12"):
        bench.settings.claim(tmp_path, other)
    stored = files.read_json(tmp_path / bench.settings.FILE_NAME)
    assert bench.settings.Settings.from_json(stored) == settings


def test_several_folders_are_one_cohort(bench, tmp_path):
    for index in (1, 2):
        write_tiny_case(tmp_path / f"from{index}", index)
    inputs = [str(tmp_path / f"from{index}") for index in (1, 2)]
    for _ in range(2):  # the second time, the links are there
        cohort = bench.cases.make_cohort(tmp_path / "root", inputs, 0)
    assert list(bench.cases.labelled_cases(cohort)) == [
        "BraTS20_Training_001",
        "BraTS20_Training_002",
    ]
    assert bench.cases.make_cohort(tmp_path / "root", inputs[:1], 0) == Path(inputs[0])
    with pytest.raises(InputError, match="1 cases with a mask; expected those of two or more"):
        bench.cases.labelled_cases(Path(inputs[0]))


def test_arrays_restore_the_case_and_score_as_perfect(bench, tmp_path):
    write_tiny_case(tmp_path / "cohort", 3)
    [case] = layouts.find_cases(tmp_path / "cohort")
    recipe = Recipe(bias_correction="none")
    bench.cases.write_arrays(tmp_path, ("flair", "t1ce"), recipe, {}, case)
    with np.load(bench.cases.array_path(tmp_path, case.case_id)) as arrays:
        image, classes = arrays["image"], arrays["classes"]
        whole = np.zeros(arrays["shape"], np.uint8)
        box = [slice(low, low + n) for low, n in zip(arrays["origin"], classes.shape)]
    assert image.shape == (2, *classes.shape) and len(set(classes.shape)) == 3
    inside = image[0] != 0
    assert abs(image[0][inside].mean(dtype=float)) < 1e-3
    assert abs(image[0][inside].std(dtype=float) - 1) < 1e-3
    whole[tuple(box)] = classes
    scores = bench.cases.score(case, {}, whole, "brats2020")
    assert {name: scores[f"dice_{name}"] for name in spec.REGIONS} == dict.fromkeys(spec.REGIONS, 1)
    assert scores["hd95_ET"] == 0
    whole[whole == spec.ET] = spec.NCR
    assert bench.cases.score(case, {}, whole, "brats2020")["dice_ET"] == 0


def test_a_constant_volume_is_normalised_to_zero(bench):
    volume = np.zeros((2, 3, 4), np.float32)
    assert not bench.cases.normalized(volume).any()
    volume[0, 0, :2] = 7
    assert not bench.cases.normalized(volume).any()
    volume[0, 0, :2] = 5, 7
    assert bench.cases.normalized(volume)[0, 0].tolist() == [-1, 1, 0, 0]


CHILD = """
import json, os, sys, time
task = json.loads(sys.argv[1].partition("=")[2])
name = "-".join(str(task["training"][key]) for key in ("contestant", "seed", "fold"))
root = task["root"]
open(f"{root}/started-{name}-{os.getpid()}", "w").close()
if task["training"]["contestant"] == "bad":
    sys.exit("no memory")
if task["training"]["contestant"] == "slow":
    time.sleep(600)
os.makedirs(f"{root}/trainings", exist_ok=True)
contestant, seed, fold = task["training"].values()
path = f"{root}/trainings/{contestant}-seed{seed}-fold{fold}.json"
json.dump({"cores": task["cores"]}, open(path, "w"))
"""


def test_finished_trainings_are_kept_and_failed_ones_run_again(bench, settings, tmp_path, capsys):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    plan = bench.settings.plan(["ours", "bad"], [0], 2)
    kept = bench.runs.result_path(tmp_path, plan[0])
    files.write_json(kept, {"kept": True})
    failed = bench.runs.run_all(tmp_path, script, tmp_path, plan, settings)
    assert [run.name for run in failed] == ["bad-seed0-fold0", "bad-seed0-fold1"]
    assert bench.runs.read_result(tmp_path, plan[0]) == {"kept": True}
    cores = bench.runs.read_result(tmp_path, plan[2])["cores"]
    assert cores == sorted(os.sched_getaffinity(0))[:1]
    printed = capsys.readouterr().out
    assert "failed: no memory; see " in printed and "3/3" in printed
    assert len(bench.runs.run_all(tmp_path, script, tmp_path, plan, settings)) == 2
    assert len(list(tmp_path.glob("started-ours-0-0-*"))) == 0
    assert len(list(tmp_path.glob("started-ours-0-1-*"))) == 1


def test_a_truncated_result_counts_as_none(bench, tmp_path):
    training = bench.settings.Training("ours", 0, 0)
    path = bench.runs.result_path(tmp_path, training)
    assert bench.runs.read_result(tmp_path, training) is None
    path.parent.mkdir()
    path.write_text('{"contestant": "ou')
    assert bench.runs.read_result(tmp_path, training) is None


def test_core_sets_are_disjoint(bench, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 9, 7, 1})
    assert bench.runs.core_sets(2, 2) == [[1, 2], [5, 7]]
    with pytest.raises(ValueError, match="3 x 2 processors, of 5"):
        bench.runs.core_sets(3, 2)


@pytest.mark.slow
def test_a_stopped_benchmark_stops_its_trainings(bench, settings, tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    program = (
        "import sys; from pathlib import Path; from quality import runs, settings\n"
        "from brats_tfrecord import stopping\n"
        f"root = Path({str(tmp_path)!r})\n"
        f"chosen = settings.Settings.from_json({dataclasses.asdict(settings)!r})\n"
        "plan = settings.plan(['slow'], [0], 2)\n"
        "with stopping.sigterm_raises():\n"
        "    runs.run_all(root, root / 'child.py', root, plan, chosen)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (started := list(tmp_path.glob("started-slow-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) != 0
    assert len(started) == 1 == len(list(tmp_path.glob("started-slow-*")))
    with pytest.raises(ProcessLookupError):
        os.kill(int(started[0].name.rpartition("-")[2]), 0)


def test_the_table_has_means_over_patients(bench):
    rows = bench.summary.summarise(["ours", "unet", "absent"], RESULTS, 2, 2.0)
    ours, unet = rows
    assert ours["dice_WT"] == pytest.approx(0.8) and ours["dice_mean"] == pytest.approx(0.7)
    assert unet["dice_mean"] == pytest.approx(0.6) and unet["hd95_mean"] == 20
    assert ours["patients"] == 2 and ours["complete"] and ours["steps"] == 100.5
    # Two values 0.8 and 0.6: the quantile of Student's t with one degree of freedom is 12.706.
    low, high = ours["dice_interval"]
    assert (high - low) / 2 == pytest.approx(12.706 * 0.1, rel=1e-4)
    mean, interval = bench.summary.difference(RESULTS, "ours", "unet")
    assert mean == pytest.approx(0.1) and interval == pytest.approx((0.1, 0.1))
    text = bench.summary.to_text(rows, RESULTS)
    assert "mean Dice, ours minus unet: +0.100 [+0.100, +0.100]" in text
    assert "0.800   0.700   0.600   0.700" in text


def test_seeds_of_a_patient_are_averaged_first(bench):
    again = {**result("ours", 0, a=0.7), "seed": 1}
    patients, values = bench.summary.patient_table([RESULTS[0], again, RESULTS[1]])
    assert patients == ["a", "b"]
    assert values[:, 0] == pytest.approx([0.8, 0.7])


def test_json_compares_our_first_contestant_with_the_strongest_peer(bench):
    more = [result("ours:cpu", 0, a=1.0), result("segresnet", 0, a=1.0)]
    names = ["unet", "ours", "ours:cpu", "segresnet"]
    rows = bench.summary.summarise(names, RESULTS + more, 2, 2.0)
    value = json.loads(bench.summary.to_json(rows))
    assert (value["name"], value["unit"]) == ("quality", "mean Dice")
    assert value["ours"] == pytest.approx(0.7)
    assert set(value["peers"]) == {"unet", "segresnet"}
    assert value["ratio"] == pytest.approx(0.7 / 0.6)  # segresnet lacks a training
    assert "only 1 trainings" in bench.summary.to_text(rows, RESULTS + more)
    unfinished = bench.summary.summarise(["ours", "unet"], RESULTS[1:], 2, 2.0)
    assert json.loads(bench.summary.to_json(unfinished))["ratio"] is None
    assert json.loads(bench.summary.to_json([]))["ours"] is None


def test_a_training_that_took_more_than_its_minutes_is_named(bench):
    rows = bench.summary.summarise(["ours", "unet"], RESULTS, 2, 1.9)
    lines = bench.summary.to_text(rows, RESULTS).splitlines()
    assert all(line.endswith("took more than its minutes") for line in lines[1:3])
    again = bench.summary.summarise(["ours"], RESULTS, 2, 2.0)
    assert "took more" not in bench.summary.to_text(again, RESULTS)


def test_undefined_figures_are_left_out(bench):
    odd = result("ours", 0, a=0.9)
    odd["cases"]["a"] |= {"dice_ET": None, "hd95_ET": None}
    rows = bench.summary.summarise(["ours"], [odd], 1, 2.0)
    assert rows[0]["dice_mean"] == pytest.approx((0.9 + 0.8) / 2)
    assert rows[0]["dice_ET"] is None and rows[0]["dice_interval"] is None
    assert "–" in bench.summary.to_text(rows, [odd])
    json.loads(bench.summary.to_json(rows), parse_constant=lambda _: pytest.fail("NaN in JSON"))


def test_every_case_is_in_the_csv_and_the_figure_is_a_png(bench):
    lines = bench.summary.to_csv(RESULTS).splitlines()
    assert len(lines) == 1 + 4
    assert lines[0].startswith("contestant,seed,fold,case,patient,dice_WT,")
    assert lines[1].startswith("ours,0,0,a,a,0.9,")
    rows = bench.summary.summarise(["ours", "unet"], RESULTS, 2, 2.0)
    assert bench.summary.to_figure(rows, RESULTS).startswith(b"\x89PNG")


def test_a_refused_training_says_why_in_one_line(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.ours, "TOOLS", tmp_path)
    (tmp_path / "train.py").write_text("import sys; sys.exit('train.py: --filters=x: expected')")
    with pytest.raises(InputError, match="^exit code 1: train.py: --filters=x: expected$"):
        bench.ours.run(tmp_path / "model", [])


def test_a_hidden_package_is_hidden_until_the_end_of_the_block(bench):
    sys.modules.pop("wave", None)
    with bench.child.hidden("wave"), bench.child.hidden("json"), pytest.raises(ImportError):
        importlib.import_module("json")
        importlib.import_module("wave")
    assert importlib.import_module("wave")


def test_steps_are_counted_from_the_history(bench, tmp_path):
    files.write_json(tmp_path / "run_card.json", {"flags": {"batch_size": 2}})
    (tmp_path / "history.csv").write_text("volumes_per_second,seconds\n2,10\n4,10.0\n")
    assert bench.ours.count_steps(tmp_path) == 30


@pytest.mark.skipif(importlib.util.find_spec("monai") is None, reason="needs the extra `peers`")
class TestMonaiNetworks:
    @pytest.fixture(scope="class")
    def networks(self, bench):
        return importlib.import_module("quality.monai_networks")

    def test_regions_and_classes_of_logits(self, networks):
        import torch

        logits = torch.tensor([[1.0, 1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0], [-1, -1, 1, -1]])
        classes = networks.to_classes(logits.reshape(3, 4, 1, 1), True)
        assert classes.flatten().tolist() == [spec.ED, spec.NCR, spec.ET, spec.BACKGROUND]
        one_hot = torch.eye(4).reshape(4, 4, 1, 1)
        assert networks.to_classes(one_hot, False).flatten().tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("regions", [True, False])
    def test_the_loss_of_the_truth_is_almost_zero(self, networks, regions):
        import torch

        target = torch.randint(0, 4, (1, 1, 6, 5, 4))
        members = networks.REGIONS[:, :4] if regions else torch.eye(4)
        logits = 40 * members[:, target[:, 0]].movedim(0, 1) - 20
        loss = networks.make_loss(regions)
        assert loss(logits, target) < 1e-3 < 1 < loss(-logits, target)

    @pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet"])
    def test_each_network_keeps_the_extents(self, networks, name):
        import torch

        network = networks.make_network(name, 2, 3).eval()
        with torch.inference_mode():
            assert network(torch.zeros(1, 2, 32, 16, 48)).shape == (1, 3, 32, 16, 48)
        if name == "unet":
            assert 4.7e6 < sum(weights.numel() for weights in network.parameters()) < 4.9e6
