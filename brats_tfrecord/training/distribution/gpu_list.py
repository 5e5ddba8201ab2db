"""The GPUs of this machine and their memory, from NVIDIA's driver. Imports no TensorFlow."""

import os
import subprocess
from collections.abc import Mapping

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
_SECONDS = 30
_MIB = 2**20


def memory_bytes(
    gpus: str, environ: Mapping[str, str] = os.environ, listing: str | None = None
) -> list[int]:
    """Returns the memory of each GPU that training would use.

    Args:
        gpus: the flag --gpus: "all", "none" or numbers such as "0,1".
        environ: environment variables, of which CUDA_VISIBLE_DEVICES counts.
        listing: output of nvidia-smi; None asks it.

    Returns:
        Bytes of each GPU; empty if there is no GPU or no nvidia-smi.
    """
    if gpus == "none":
        return []
    lines = (_ask() if listing is None else listing).splitlines()
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.count(",") == 2]
    memory = [int(total) * _MIB for _, _, total in rows if total.isdigit()]
    if len(memory) < len(rows):
        return []  # cards that share the memory of the host name none
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        memory = [
            total
            for name in names
            for (index, uuid, _), total in zip(rows, memory)
            if name and (name == index or uuid.startswith(name))
        ]
    if gpus == "all":
        return memory
    # A number that does not exist is refused later, where the devices are made.
    return [memory[n] for n in map(int, gpus.split(",")) if 0 <= n < len(memory)]


def _ask() -> str:
    try:
        answer = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
