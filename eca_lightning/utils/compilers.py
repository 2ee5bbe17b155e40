"""Which compilers this machine has."""

import os
import shutil
from importlib.util import find_spec


def missing_for_gpu_kernels() -> str | None:
    """Return the remedy if torch and Triton cannot compile kernels for a GPU on this machine."""
    if find_spec("triton") is None:
        return "pip install triton"
    compilers = os.environ.get("CC"), *map(shutil.which, ("cc", "gcc", "clang"))
    return None if any(compilers) else "install a C compiler, such as gcc"
