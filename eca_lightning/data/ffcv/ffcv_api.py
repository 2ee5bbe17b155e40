"""The one place that imports FFCV, and what importing it must not change.

FFCV has not been released since 2023 and is taken as it is. The modules that build on it import its
names from here, and are themselves imported only once FFCV is needed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

MISSING = (
    "FFCV cannot be imported. Install the system packages libopencv-dev libturbojpeg0-dev "
    "pkg-config and a C++ compiler, then: pip install 'eca-lightning[ffcv]'. Without FFCV, "
    "train from image folders with ImageFolderDataModule (data.class_path in the configuration)"
)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Undo FFCV's habit of setting torch's number of threads to that of its own workers."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


try:
    with torch_threads_kept():
        import numba  # one of FFCV's own requirements

        # Its default, TBB, has on one CPU no thread for what FFCV's import starts, loses it in a
        # fork and waits for it at exit for ever. One thread runs nothing in parallel anyway.
        if numba.config.NUMBA_NUM_THREADS == 1:
            numba.config.THREADING_LAYER = "workqueue"

        from ffcv.fields import IntField, RGBImageField
        from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
        from ffcv.libffcv import ctypes_imdecode, ctypes_resize
        from ffcv.loader import Loader, OrderOption
        from ffcv.loader.epoch_iterator import EpochIterator
        from ffcv.memory_allocator import MemoryAllocator
        from ffcv.pipeline.allocation_query import AllocationQuery
        from ffcv.pipeline.compiler import Compiler
        from ffcv.pipeline.operation import Operation
        from ffcv.pipeline.state import State
        from ffcv.writer import DatasetWriter, handle_sample
except ImportError as error:
    raise ImportError(MISSING) from error


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba at its first call, and keep the result for later processes.

    Args:
        function: A function that numba understands. It will run without the interpreter's lock.

    Returns:
        The same, for Python and for other compiled functions to call.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        return numba.njit(nogil=True)(function)


__all__ = [
    "IMAGE_MODES",
    "AllocationQuery",
    "Compiler",
    "DatasetWriter",
    "EpochIterator",
    "IntField",
    "Loader",
    "MemoryAllocator",
    "Operation",
    "OrderOption",
    "RGBImageField",
    "SimpleRGBImageDecoder",
    "State",
    "compiled",
    "ctypes_imdecode",
    "ctypes_resize",
    "handle_sample",
    "numba",
    "torch_threads_kept",
]
