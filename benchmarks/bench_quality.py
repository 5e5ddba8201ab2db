"""Compares what trainings of equal length learn: our toolkit, MONAI's networks and nnU-Net.

Usage:
  python benchmarks/bench_quality.py                       # 8 phantoms, about half an hour
  python benchmarks/bench_quality.py --input_dir=cohort --minutes=12 --output_dir=quality
  python benchmarks/bench_quality.py --input_dir=expert,cases --modalities=flair,t1ce \\
      --minutes=12 --seeds=0,1,2 --output_dir=quality
  python benchmarks/bench_quality.py --contestants=ours,unet:regions,unet:classes

Every contestant is trained on all folds but one and segments the cases of that fold; in a cohort of
up to eight patients, each patient in turn is left out. Every training is a process of its own with
the same number of processors and the same minutes, from the start of the process to a model that
can predict. Preparing the data before, and predicting after, are not counted. The contestants take
turns; with --parallel they run side by side, each on processors of its own. All of them learn from
the same bias-corrected volumes. Whole volumes are scored in native space by this toolkit, without
post-processing.

ours:PRESET is tools/train.py with that --preset, and --flags; ours is its defaults. unet (residual,
strided, instance norm, 4.8 million parameters), dynunet and segresnet are MONAI's networks, with
Dice + cross-entropy over regions (sigmoid, the default) or :classes (softmax), AdamW, cosine,
positive-centred patches, flips and intensity augmentation, bfloat16 where the processor has it, in
the faster memory layout. nnunet is nnU-Net's own 3d_fullres configuration and trainer.

With --output_dir a stopped benchmark continues: finished trainings are kept. The folder then holds
the table (quality.txt), every case (cases.csv) and a figure (dice.png). Prints a table, with the
mean difference between our first contestant and each other one; intervals are Student's t over
patients. The last line is one JSON object: the mean Dice of our first contestant, and its ratio to
the strongest peer's. Exits with 1 if a training failed, and with 2 if the packages of a contestant
are not installed (MONAI and PyTorch: the extra `peers`; nnU-Net: pip install nnunetv2).
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402 - the clock of a training includes its imports
import contextlib  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from quality import cases, child, runs, summary  # noqa: E402
from quality import settings as settings_module  # noqa: E402

from brats_tfrecord import files, stopping  # noqa: E402
from brats_tfrecord.errors import InputError  # noqa: E402
from brats_tfrecord.metrics import RULE_SETS  # noqa: E402


def main(arguments=None):
    """Runs the benchmark; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        if options.child:
            child.serve(options.child, STARTED)
            return 0
        settings_module.check_contestants(options.contestants)
        missing = settings_module.missing_packages(options.contestants)
        if missing:
            raise InputError(
                f"{' and '.join(missing)} not installed; run pip install 'brats-tfrecord[peers]'"
                f"{', pip install nnunetv2' if 'nnunetv2' in missing else ''}, or leave these "
                "--contestants out"
            )
        with stopping.sigterm_raises(), folder_for(options.output_dir) as root:
            return compare(root, options)
    except InputError as error:
        print(f"bench_quality.py: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        kept = options.output_dir and "; finished trainings are kept, run the command again"
        print(f"bench_quality.py: stopped{kept or ''}", file=sys.stderr)
        return 75 if options.output_dir else 130


def parse_arguments(arguments=None):
    """Parses the command line; exits with 2 on an invalid value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--input_dir", type=words, default=[], help="comma-separated cohorts; default: phantoms")
    add("--phantoms", type=int, default=8, help="number of phantoms without --input_dir")
    add("--output_dir", help="folder that keeps finished trainings and the tables")
    add("--contestants", type=words, help=f"comma-separated: {settings_module.EXPECTED}")
    add("--minutes", type=float, default=3, help="minutes of each training")
    add("--folds", type=int, default=0, help="0: each patient of up to 8, else 5; phantoms: 2")
    add("--seeds", default=[0], type=integers, help="comma-separated; one training for each")
    add("--modalities", default="flair,t1ce,t2", help="what the networks see, in this order")
    add("--cores", type=int, default=0, help="processors of each training; 0: all, shared out")
    add("--parallel", type=int, default=1, help="trainings at a time")
    add("--flags", default="", help="more flags of tools/train.py, for ours")
    add("--convert_flags", default="", help="more flags of tools/convert_to_tfrecord.py")
    add("--peer_patch_size", type=int, default=96, help="patches and windows of MONAI's networks")
    add("--peer_learning_rate", type=float, default=1e-3, help="of MONAI's networks")
    add("--rules", default="brats2020", choices=RULE_SETS, help="rule set of the metrics")
    add("--child", help=argparse.SUPPRESS)  # JSON of a training's process
    options = parser.parse_args(arguments)
    for name in ("phantoms", "minutes", "parallel", "peer_patch_size", "peer_learning_rate"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}={getattr(options, name)}: expected a number above 0")
    if options.peer_patch_size % 16:
        parser.error(f"--peer_patch_size={options.peer_patch_size}: expected a multiple of 16")
    if not options.contestants and not options.child:
        options.contestants = settings_module.default_contestants()
        if settings_module.NNUNET not in options.contestants:
            print("nnU-Net is left out: it needs pip install nnunetv2", flush=True)
    options.cores = options.cores or max(1, processors() // options.parallel)
    try:
        runs.core_sets(options.cores, options.parallel)
    except ValueError as error:
        parser.error(f"--cores, --parallel: {error}")
    return options


def words(text):
    """Parses a comma-separated list without empty entries."""
    return [word.strip() for word in text.split(",") if word.strip()]


def integers(text):
    """Parses a comma-separated list of different whole numbers."""
    numbers = [int(word) for word in words(text)]
    if not numbers or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r}; expected different numbers such as 0,1,2")
    return numbers


def processors():
    """Returns the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


@contextlib.contextmanager
def folder_for(output_dir):
    """Context with the folder to work in; a temporary one is removed at the end."""
    if output_dir:
        files.require_writable("--output_dir", output_dir)
        yield Path(output_dir).resolve()
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def compare(root, options):
    """Prepares the cases, runs the trainings and prints the tables; returns the exit code."""
    phantoms = 0 if options.input_dir else options.phantoms
    input_dirs = tuple(os.path.abspath(folder) for folder in options.input_dir)
    cohort = cases.make_cohort(root, input_dirs, phantoms)
    found = cases.labelled_cases(cohort)
    patients = len({case.patient_id for case in found.values()})
    settings = settings_module.Settings(
        input_dirs,
        phantoms,
        options.modalities,
        cases.count_folds(patients, options.folds, phantoms),
        options.minutes,
        options.cores,
        options.parallel,
        options.flags,
        options.convert_flags,
        options.peer_patch_size,
        options.peer_learning_rate,
        options.rules,
    )
    settings_module.claim(root, settings)
    kinds = {name.partition(":")[0] for name in options.contestants}
    cases.prepare(root, cohort, found, settings, kinds)
    if settings_module.NNUNET in kinds:
        runs.prepare_nnunet(root, Path(__file__).resolve(), cohort, settings)
    trainings = settings_module.plan(options.contestants, options.seeds, settings.folds)
    print(
        f"{len(trainings)} trainings of {settings.minutes:g} minutes on {settings.cores} "
        f"processor(s), {settings.parallel} at a time: {len(found)} cases of {patients} patients, "
        f"{settings.folds} folds, {settings.modalities}",
        flush=True,
    )
    failed = runs.run_all(root, Path(__file__).resolve(), cohort, trainings, settings)
    report(root, options, trainings)
    return 1 if failed else 0


def report(root, options, trainings):
    """Writes and prints the tables of what is finished."""
    results = [result for run in trainings if (result := runs.read_result(root, run))]
    rows = summary.summarise(
        options.contestants, results, len(trainings) // len(options.contestants), options.minutes
    )
    text = summary.to_text(rows, results)
    files.write_text(root / "quality.txt", text + "\n")
    files.write_text(root / "cases.csv", summary.to_csv(results))
    if rows:
        files.write_bytes(root / "dice.png", summary.to_figure(rows, results))
    print(text)
    print(summary.to_json(rows))


if __name__ == "__main__":
    sys.exit(main())
