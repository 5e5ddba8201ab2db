import subprocess
import sys

import pytest

from brats_tfrecord.training.distribution import cpu_memory

SCRIPT = """
import os, sys
from brats_tfrecord.training.distribution import cpu_memory
cpu_memory.restart_tuned()
print(os.getpid(), sys.argv[1:], os.environ["GLIBC_TUNABLES"].count("hugetlb=1"))
"""


def test_settings_of_the_user_are_kept():
    own = "glibc.malloc.hugetlb=0:glibc.x=y"
    environment = cpu_memory.tuned({"A": "b", "GLIBC_TUNABLES": own})
    assert environment["A"] == "b"
    assert environment["GLIBC_TUNABLES"].startswith(f"{own}:glibc.malloc.mmap")
    assert environment["GLIBC_TUNABLES"].count("hugetlb") == 1


def test_tuning_twice_changes_nothing():
    assert cpu_memory.tuned(cpu_memory.tuned({})) == cpu_memory.tuned({})


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_restart_keeps_process_and_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", script, "--flag=a b"], stdout=subprocess.PIPE, text=True
    )
    assert process.communicate()[0] == f"{process.pid} ['--flag=a b'] 1\n"
