"""Flags, help, one-line errors and exit codes, tested with a small tool."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
TOOL = '''"""Prints its options.

Usage:
  python tool.py --word=hello
"""
from dataclasses import MISSING, dataclass

import command_line

from brats_tfrecord.errors import InputError, TrainingDiverged
from brats_tfrecord.options import option


@dataclass(frozen=True)
class Options:
    word: str = option(MISSING, "The word.")
    times: int = option(1, "How often.")
    loud: bool = option(False, "Shout.")
    mood: str = option("calm", "How.", ("calm", "keen"))
    note: str | None = option(None, "Aside.")


def main(options):
    failures = {"input": InputError("x.nii: bad"), "nan": TrainingDiverged("NaN at step 3"),
                "bug": KeyError("oops"), "stop": KeyboardInterrupt()}
    if options.word in failures:
        raise failures[options.word]
    print(options)
    return 1 if options.word == "partly" else 0


if __name__ == "__main__":
    command_line.run(main, Options)
'''


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    path = tmp_path_factory.mktemp("tool") / "tool.py"
    path.write_text(TOOL)

    def run(*flags):
        return subprocess.run(
            [sys.executable, str(path), *flags],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": f"{TOOLS}:{TOOLS.parent}", "PATH": "/usr/bin"},
        )

    return run


def test_flags_fill_the_options(tool):
    done = tool("--word=hello", "--times=3", "--loud", "--mood=keen")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "Options(word='hello', times=3, loud=True, mood='keen', note=None)"
    )
    assert "loud=False" in tool("--word=a", "--noloud").stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_describes_every_flag(tool, flag):
    done = tool(flag)
    assert done.returncode == 0
    for part in (
        "Usage:",
        "--word  (required)",
        "--times  (default: 1)",
        "How often.",
        "--loud / --noloud  (default: false)",
        "--mood=calm|keen  (default: calm)",
        "--note  (default: none)",
    ):
        assert part in done.stdout


@pytest.mark.parametrize(
    "flags, code, message",
    [
        (["--word=input"], 2, "x.nii: bad"),
        (["--word=nan"], 3, "NaN at step 3"),
        (["--word=partly"], 1, ""),
        (["--word=stop"], 130, "interrupted"),
        ([], 2, "--word: this flag is required"),
        (["--word=a", "--tmes=3"], 2, "Unknown command line flag 'tmes'; see --help"),
        (["--word="], 2, "--word: is empty"),
        (["--word=a", "--note="], 2, "--note: is empty; leave it out or give a value"),
        (["--word=a", "--times=x"], 2, "flag --times=x: expected a whole number, got 'x'"),
        (["--word=a", "--mood=sad"], 2, "--mood=sad: value should be one of <calm|keen>"),
        (["--word=a", "b"], 2, "'b': expected only flags"),
    ],
)
def test_errors_have_one_line_and_an_exit_code(tool, flags, code, message):
    done = tool(*flags)
    assert done.returncode == code
    assert message in done.stderr and done.stderr.count("\n") == bool(message)


def test_a_bug_has_one_line_and_a_trace_in_a_log_file(tool):
    done = tool("--word=bug")
    assert done.returncode == 70 and "Traceback" not in done.stderr
    log = Path(done.stderr.strip().rsplit(" ", 1)[-1])
    assert "KeyError: 'oops'" in log.read_text()
    log.unlink()


@pytest.mark.parametrize(
    "name", ["convert_to_tfrecord.py", "train.py", "evaluate.py", "make_phantom.py"]
)
def test_every_tool_has_help(run_tool, name):
    text = run_tool(name, "--help").stdout
    assert "Usage:" in text and "Flags:" in text


def test_a_function_that_makes_the_options_gets_the_given_flags_alone(tool, tmp_path):
    path = tmp_path / "maker.py"
    text = TOOL.replace("(main, Options)", "(main, Options, lambda **given: given)")
    path.write_text(text.replace("options.word", "options['word']"))
    done = subprocess.run(
        [sys.executable, str(path), "--word=hello", "--times=1"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{TOOLS}:{TOOLS.parent}", "PATH": "/usr/bin"},
    )
    assert done.stdout.strip() == "{'word': 'hello', 'times': 1}", done.stderr


def test_train_has_a_flag_for_every_option_that_is_one(run_tool):
    text = run_tool("train.py", "--help").stdout
    assert "--preset=documented|cpu|gpu  (default: documented)" in text
    assert "--time_budget_minutes" in text and "from_preset" not in text
