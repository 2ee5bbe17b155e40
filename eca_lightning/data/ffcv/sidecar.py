"""The JSON file beside a .beton, with what FFCV's format does not store."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from eca_lightning.utils.checks import require

FORMAT = 1

WriteMode = Literal["raw", "jpg", "proportion"]


@dataclass(frozen=True)
class Encoding:
    """How images are stored in a .beton.

    Args:
        mode: ``raw`` pixels (fastest to read, largest), ``jpg``, or ``proportion``: JPEG for a
            fraction of the images, raw for the others.
        quality: JPEG quality, 1 to 100.
        max_resolution: Images whose longer side exceeds this many pixels are reduced to it.
        compress_probability: Fraction of the images stored as JPEG in mode ``proportion``.

    Raises:
        ValueError: If a value is out of range.
    """

    mode: WriteMode = "jpg"
    quality: int = 90
    max_resolution: int | None = None
    compress_probability: float = 0.5

    def __post_init__(self) -> None:
        known = self.mode in ("raw", "jpg", "proportion")
        require(known, "mode", "raw, jpg or proportion", repr(self.mode))
        require(1 <= self.quality <= 100, "quality", "from 1 to 100", self.quality)
        positive = self.max_resolution is None or self.max_resolution >= 1
        require(positive, "max_resolution", "at least 1", self.max_resolution)
        fraction = self.compress_probability
        require(0 <= fraction <= 1, "compress_probability", "from 0 to 1", fraction)


@dataclass(frozen=True)
class Sidecar:
    """Content and origin of a .beton.

    Args:
        samples: Number of samples.
        class_names: Name of each label.
        class_counts: Samples of each label.
        source: Where the images came from.
        encoding: How they were stored.
        skipped: Errors of the images that could not be read and are not in the file.
        bytes: Size of the .beton.
        sha256: Checksum of the .beton, in hexadecimal.
        format: Version of this file's layout.
    """

    samples: int
    class_names: list[str]
    class_counts: list[int]
    source: str
    encoding: Encoding
    bytes: int
    sha256: str
    skipped: list[str] = field(default_factory=list)
    format: int = FORMAT

    def write(self, path: Path) -> None:
        """Write this sidecar as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")


def sidecar_path(beton: Path) -> Path:
    """Return the path of a .beton's sidecar: ``train.beton.json`` of ``train.beton``."""
    return beton.with_name(beton.name + ".json")


def read_sidecar(beton: Path) -> Sidecar | None:
    """Read the sidecar of a .beton.

    Args:
        beton: Path of the .beton.

    Returns:
        The sidecar, or None if there is none (as for files written by another program).

    Raises:
        ValueError: If the file is not a sidecar, or of another version of this format.
    """
    path = sidecar_path(beton)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, this program reads {FORMAT}")
        return Sidecar(**{**content, "encoding": Encoding(**content["encoding"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a usable sidecar ({error}); write {beton.name} again"
        ) from error


def checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal (as ``sha256sum`` prints it)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
