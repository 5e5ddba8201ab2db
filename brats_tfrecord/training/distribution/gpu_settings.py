"""Environment variables that make TensorFlow faster on GPUs, or deterministic.

TensorFlow reads them when it starts. What the user has set is kept. Without GPUs they have no
effect.
"""

from collections.abc import Mapping


def tuned(
    environment: Mapping[str, str], *, xla: bool = False, deterministic: bool = False
) -> dict[str, str]:
    """Adds the settings to environment variables.

    Args:
        environment: the variables; those it has, and flags in its XLA_FLAGS, are kept.
        xla: whether XLA compiles the training step.
        deterministic: whether the training must give the same result each time.

    Returns:
        All variables. Call it before TensorFlow is imported.
    """
    # Each GPU gets threads of its own (two, TensorFlow's default) to launch its kernels. They
    # otherwise wait behind the threads of the loader.
    settings = {"TF_GPU_THREAD_MODE": "gpu_private"}
    if deterministic:
        # The fastest of several algorithms, TensorFlow's default, may be another one each time.
        settings["TF_CUDNN_USE_AUTOTUNE"] = "0"
    flags = _xla_flags(environment.get("XLA_FLAGS", ""), deterministic) if xla else {}
    return {**settings, **environment, **flags}


def _xla_flags(given: str, deterministic: bool) -> dict[str, str]:
    # XLA gives 3-D convolutions the layout NCHW, which tensor cores have to transpose.
    flags = {"xla_gpu_force_conv_nhwc": "true"}
    if "xla_gpu_force_conv_nchw" in given:
        flags = {}
    if deterministic:
        flags["xla_gpu_deterministic_ops"] = "true"
    added = [f"--{name}={value}" for name, value in flags.items() if name not in given]
    return {"XLA_FLAGS": " ".join([given, *added]).strip()}
