"""Files that appear complete or not at all, and of which one process at a time is the writer."""

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_SUFFIX = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write to a temporary path with the same file name, which replaces ``path`` on success.

    Missing parent folders are created. Other files that the block writes beside the temporary path
    are moved beside ``path`` first. If the block raises, an existing file stays as it was.
    Processes that write the same path at once do not disturb each other: the last to finish wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as folder:
        yield folder / path.name
        _publish(folder, path)


@contextmanager
def exclusive_write(path: Path) -> Iterator[Path]:
    """Write as `atomic_write` does, but as the only process, see `exclusive_folder`."""
    with exclusive_folder(path) as folder:
        yield folder / path.name
        _publish(folder, path)


@contextmanager
def exclusive_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside a file or folder that this process alone writes.

    What writers of ``path`` that were killed have left there is removed first.

    Raises:
        BlockingIOError: If another process is writing it.
    """
    with lock(path):  # no other process is writing there, then
        for left in path.parent.iterdir():
            if left.name.startswith(f".{path.name}.") and left.suffix == _SUFFIX:
                shutil.rmtree(left, ignore_errors=True)
        with _temporary(path) as folder:
            yield folder


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    with TemporaryDirectory(_SUFFIX, f".{path.name}.", path.parent) as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OSError(
                f"cannot write {path}: {error.strerror}: free some space, or choose another output"
            ) from error


def _publish(folder: Path, path: Path) -> None:
    """Move all files of a folder beside a path, that of its name last."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
        os.replace(file, path.with_name(file.name))


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Be the only process that writes a file or folder; a process that dies holds no lock.

    The file ``.NAME.lock`` beside it is locked, and names the holder. Where the file system has no
    locks, there are none, and a warning says so.

    Raises:
        BlockingIOError: If another process has the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    descriptor = _locked(file, path)
    try:
        holder = f"process {os.getpid()} on {socket.gethostname()}, since {time.ctime()}"
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        with suppress(OSError):
            file.unlink()  # while it is locked: who waits for it makes a new one
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process has the `lock` of a file or folder."""
    try:
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks
        return False
    finally:
        os.close(descriptor)
    return False


def _locked(file: Path, path: Path) -> int:
    """Open and lock a file, and return its descriptor."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(file).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:  # its holder has just removed it
            pass
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                warnings.warn(
                    f"the file system of {path} has no locks: let no other process write it",
                    stacklevel=2,
                )
                return descriptor
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise BlockingIOError(
                f"{path} is being written by {holder or 'another process'}: wait for it to end, "
                "or choose another output"
            ) from error
        os.close(descriptor)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have Linux send this process a signal when ``parent``, which started it, has died."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:  # it died before
        os.kill(os.getpid(), number)
