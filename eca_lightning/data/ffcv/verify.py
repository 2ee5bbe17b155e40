"""The command ``data info``, and what ``data verify`` does with .beton files."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from eca_lightning.data.ffcv.format import PACKED, RAW, BetonInfo, check_beton
from eca_lightning.data.ffcv.sidecar import checksum
from eca_lightning.utils.reports import in_threads


def find_betons(path: Path) -> list[Path]:
    """List the .beton files of a folder, sorted, or the one file that a path names.

    Raises:
        FileNotFoundError: If the folder contains none.
    """
    if not path.is_dir():
        return [path]
    if betons := sorted(path.glob("*.beton")):
        return betons
    raise FileNotFoundError(
        f"{path} holds no .beton file; write one with 'eca-lightning data write'"
    )


def info(path: Path) -> None:
    """Print a table that describes .beton files, after checking that they are complete.

    Args:
        path: A .beton, or a folder of them.
    """
    betons = [check_beton(beton) for beton in find_betons(path)]
    table = Table("", *(beton.path.name for beton in betons), title=str(betons[0].path.parent))
    columns = [_description(beton) for beton in betons]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console().print(table)


def _description(beton: BetonInfo) -> dict[str, str]:
    """Return one column of the table of :func:`info`."""
    sizes = dict.fromkeys(f"{height} x {width}" for height, width in beton.resolutions)
    sidecar = beton.sidecar
    return {
        "samples": f"{beton.samples:,}",
        "classes": str(beton.num_classes),
        "images of a class": _range(np.bincount(beton.labels, minlength=beton.num_classes)),
        "stored as": ", ".join(f"{mode} {count:,}" for mode, count in beton.modes.items() if count),
        "height x width": " to ".join(sizes),
        "file": f"{beton.bytes / 2**20:,.1f} MiB",
        "pages": f"{beton.page_size / 2**20:g} MiB",
        "source": sidecar.source if sidecar else "unknown (no sidecar)",
        "skipped": str(len(sidecar.skipped)) if sidecar else "unknown",
    }


def _range(counts: NDArray[np.int64]) -> str:
    return " to ".join(dict.fromkeys(f"{n:,}" for n in (counts.min(), counts.max())))


def verify(path: Path, num_workers: int = 4) -> None:
    """Read .beton files in full: check checksum, counts and the decoding of every sample.

    Args:
        path: A .beton, or a folder of them.
        num_workers: Threads.

    Raises:
        ValueError: If a file is damaged; the message names the samples.
    """
    for beton in find_betons(path):
        checked = check_beton(beton)
        _verify(checked, num_workers)
        against = "checksum too" if checked.sidecar else "no sidecar, so no checksum"
        print(f"{beton}: all {checked.samples:,} samples are good ({against})")


def jpeg_size(stream: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Read the height and width in a JPEG's header, in pixels; None if it cannot be read."""
    try:
        with Image.open(BytesIO(stream.tobytes())) as image:
            return image.height, image.width
    except Exception:  # Pillow raises anything from OSError to struct.error on bad bytes
        return None


def _verify(beton: BetonInfo, num_workers: int) -> None:
    """Decode every sample of a .beton, and compare its checksum with its sidecar's."""
    # Imported here: it needs FFCV, which `info` does not.
    from eca_lightning.data.ffcv.decode_op import is_decodable
    from eca_lightning.data.ffcv.packed import native

    def is_good(sample: int) -> bool:
        image = beton.images[sample]
        if image["mode"] == RAW:
            return True  # raw pixels have no structure: the checksum covers them
        stream = beton.read_image(sample)
        recorded = int(image["height"]), int(image["width"])
        if image["mode"] == PACKED:
            return native.is_sound(stream, *recorded)
        # FFCV's decoder silently scales an image of another size than recorded.
        return is_decodable(stream, *recorded) and jpeg_size(stream) == recorded

    good = in_threads(is_good, range(beton.samples), num_workers, f"Verifying {beton.path.name}")
    damaged = np.flatnonzero(~np.array(good))
    if damaged.size:
        listed = ", ".join(map(str, damaged[:10])) + (", ..." if damaged.size > 10 else "")
        raise ValueError(
            f"{beton.path}: {damaged.size} of {beton.samples} samples do not decode: {listed}"
        )
    require_checksum(beton)


def require_checksum(beton: BetonInfo) -> None:
    """Raise a ValueError if a .beton has a sidecar and another checksum than it records."""
    if beton.sidecar and checksum(beton.path) != beton.sidecar.sha256:
        raise ValueError(
            f"{beton.path}: its checksum is not that of its sidecar; write it again with "
            "--overwrite true"
        )
