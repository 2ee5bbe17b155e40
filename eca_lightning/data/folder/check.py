"""Check image files by their headers at the start of a run, and remember which were good.

What is remembered of a file is a hash of its name, size and times, and of what was expected of it.
The system alone sets the time of the last change of any kind (ctime), so that neither a file that
was replaced nor a list from elsewhere passes for one that was checked. A damaged list costs another
look at the files.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG

import numpy as np
import PIL
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from eca_lightning.data.folder.files import CHECKED
from eca_lightning.data.folder.image import Exif, open_image, open_rgb, upright_size
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.utils.reports import in_threads

Keys = NDArray[np.uint64]
"""The hashes of files that were good; 0 for a file that is not there."""

_HEADER = f"good images of eca_lightning, 1, Pillow {PIL.__version__}\n".encode()
_MAX_BYTES = 1 << 28
_HISTORY = 1_000_000
_THREADS = 16  # they wait for the file system most of the time


@dataclass(frozen=True)
class ImageCheck:
    """What is expected of the image files of a data set.

    Attributes:
        paths: The files.
        folder: What they lie in, beside which the good ones are remembered, or in the user's cache
            if it is read-only; None to remember nothing.
        exif: How they will be read.
        sizes: The height and width that each must have, in this order; None if any will do.
        wrong_size: Says what is wrong with the file of an index that has another height and width.
        origin: Says for the file of an index where it is named.
    """

    paths: Sequence[Path]
    folder: Path | None = None
    exif: Exif = "apply"
    sizes: Sequence[tuple[int, int]] | None = None
    wrong_size: Callable[[int, int, int], str] = lambda *_: ""
    origin: Callable[[int], str] = lambda _: ""

    def by_headers(self, name: str) -> list[str]:
        """Open the files that are not remembered as good, and return the faults that they have.

        Args:
            name: What messages begin with.
        """
        places = _places(self.folder) if self.folder else []
        known = [_remembered(place) for place in places]
        found = in_threads(self._key, range(len(self.paths)), _THREADS, f"{name}: files")
        keys: Keys = np.array(found, np.uint64)
        new = np.flatnonzero(~np.isin(keys, np.concatenate([*known, _NONE])) | (keys == 0)).tolist()
        if not new:
            return []
        rank_zero_info(f"{name}: looking at the headers of {len(new):,} image files")
        faults = in_threads(self._header_fault, new, _THREADS, f"{name}: headers")
        good = np.ones(len(keys), bool)
        good[[index for index, fault in zip(new, faults, strict=True) if fault]] = False
        _remember(places, keys[good], known)
        return [f"{name}: {fault}" for fault in faults if fault]

    def by_pixels(self, name: str, threads: int) -> list[str]:
        """Decode all files; return the faults of those that are not as they must be."""
        faults = in_threads(self._pixel_fault, range(len(self.paths)), threads, name)
        return [f"{name}: {fault}" for fault in faults if fault]

    def _header_fault(self, index: int) -> str:
        path = self.paths[index]
        try:
            with open_image(path) as image:
                size = upright_size(image, self.exif) if self.sizes else None
        except FileNotFoundError:
            return f"{path}{self.origin(index)} does not exist"
        except Exception as error:  # Pillow raises anything from OSError to struct.error
            where = self.origin(index).rstrip(",")
            return f"cannot read the image {path}{where}: {error}"
        return self._size_fault(index, size)

    def _pixel_fault(self, index: int) -> str:
        try:
            image = open_rgb(self.paths[index], self.exif)
        except ValueError as error:
            return self._header_fault(index) or str(error)
        return self._size_fault(index, (image.height, image.width))

    def _size_fault(self, index: int, size: tuple[int, int] | None) -> str:
        if self.sizes is None or size is None or size == tuple(self.sizes[index]):
            return ""
        return self.wrong_size(index, *size)

    def _key(self, index: int) -> int:
        """Hash what the file system knows of a file, and what is expected of it; 0 without one."""
        path = str(self.paths[index])
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return 0
        times = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        expected = f"{self.exif} {self.sizes[index]}" if self.sizes else ""
        text = f"{path.removeprefix(str(self.folder))}\0{times}\0{expected}"
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little")


_NONE: Keys = np.empty(0, np.uint64)


def _places(folder: Path) -> list[Path]:
    """Return the files that may remember, best first."""
    path = os.path.abspath(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = blake2b(os.fsencode(path), digest_size=16).hexdigest()
    beside = Path(os.path.dirname(path), f".{os.path.basename(path)}{CHECKED}")
    return [beside, Path(cache, "eca_lightning", name + CHECKED)]


def _remembered(place: Path) -> Keys:
    """Read what a file remembers: nothing if it is none of ours, or one of another Pillow."""
    with suppress(OSError, ValueError):
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a pipe never ends
        with open(os.open(place, flags), "rb") as file:
            if S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(len(_HEADER)) == _HEADER:
                content = file.read(_MAX_BYTES)
                return np.frombuffer(content[: len(content) // 8 * 8], "<u8").astype(np.uint64)
    return _NONE


def _remember(places: Sequence[Path], good: Keys, known: Sequence[Keys]) -> None:
    """Write the first of the places that can be written, if any, with what was known before."""
    for place, before in zip(places, known, strict=True):
        # Other files of the folder, and other expectations, until most of them must be history.
        kept = before if len(before) <= 4 * len(good) + _HISTORY else _NONE
        with suppress(OSError), atomic_write(place) as part:
            part.write_bytes(_HEADER + np.union1d(good, kept).astype("<u8").tobytes())
            return
