# ruff: noqa: F401
"""The only module that imports FFCV: its names, and the torch and numba settings that it changes.

FFCV has had no release since 2023 and is used as it is, but compiles less than it would: no
dictionary at import, and each operation once per process rather than once per loader. The modules
that build on it import its names from here, and are themselves imported only when FFCV is needed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch

MISSING = (
    "FFCV cannot be imported. Install the system packages libopencv-dev libturbojpeg0-dev "
    "pkg-config and a C++ compiler, then: pip install 'eca-lightning[ffcv]'. Without FFCV, "
    "train from image folders with ImageFolderDataModule (data.class_path in the configuration)"
)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Restore torch's number of threads, which FFCV sets to that of its workers."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _plain_dictionaries() -> Iterator[None]:
    """Give FFCV's import a plain dictionary for its two image modes: numba's compiles for 4 s."""
    typed_dictionary = numba.typed.Dict
    numba.typed.Dict = dict
    try:
        yield
    finally:
        numba.typed.Dict = typed_dictionary


try:
    with torch_threads_kept():
        import numba  # one of FFCV's own requirements

        # On one CPU, the default layer TBB has no thread for what FFCV's import starts, loses it in
        # a fork and waits for it forever at exit. One thread runs nothing in parallel anyway.
        if numba.config.NUMBA_NUM_THREADS == 1:
            numba.config.THREADING_LAYER = "workqueue"

        with _plain_dictionaries():
            from ffcv.fields import IntField, RGBImageField
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder, encode_jpeg
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

_compile = Compiler.compile
_compilations: list[tuple[Any, Any]] = []


def _compile_once(function: FunctionType, signature: Any = None) -> Any:
    """Compile an operation of a pipeline, unless another loader has compiled the same.

    Loaders differ in what an operation is called with; what it closes over, such as FFCV's function
    that reads the file, depends on their options alone.
    """
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    wanted = (function.__code__, cells, signature, Compiler.num_threads > 1)
    for known, compiled in _compilations:
        if known == wanted:  # not a dictionary: ctypes' functions have no hash
            return compiled
    _compilations.append((wanted, _compile(function, signature)))
    return _compilations[-1][1]


Compiler.compile = _compile_once


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba at its first call, without the GIL, and cache it on disk."""
    # A pipeline of FFCV's that compiles it first would else hand down its inexact arithmetic.
    options = {"nogil": True, "fastmath": False}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's is writable
        return numba.njit(**options)(function)
