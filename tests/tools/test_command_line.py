"""Flags from a dataclass, one-line errors and exit codes, through a tool made for the purpose."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
TOOL = '''"""Says what it was told.

Usage:
  python tool.py --word=hello
"""
from dataclasses import dataclass, field

import command_line

from brats_tfrecord.errors import InputError, TrainingDiverged


@dataclass(frozen=True)
class Options:
    word: str = field(metadata={"help": "The word."})
    times: int = field(default=1, metadata={"help": "How often."})
    loud: bool = field(default=False, metadata={"help": "Shout."})
    mood: str = field(default="calm", metadata={"help": "How.", "choices": ("calm", "keen")})
    note: str | None = field(default=None, metadata={"help": "Aside."})


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
def test_help_teaches_and_is_no_error(tool, flag):
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
def test_exit_codes_and_one_line(tool, flags, code, message):
    done = tool(*flags)
    assert done.returncode == code
    assert message in done.stderr and done.stderr.count("\n") == bool(message)


def test_our_own_bug_is_one_line_and_a_trace_in_a_file(tool):
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
