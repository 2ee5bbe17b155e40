"""The JSON file beside a .beton: what FFCV's format has no room for."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

FORMAT = 1

WriteMode = Literal["raw", "jpg", "proportion"]


@dataclass(frozen=True)
class Encoding:
    """How images are stored in a .beton.

    Args:
        mode: ``raw`` pixels (fastest to read, largest), ``jpg``, or ``proportion``: JPEG for a
            share of the images, raw for the others.
        quality: JPEG quality, 1 to 100.
        max_resolution: Images whose longer side is above this many pixels are shrunk to it.
        compress_probability: Share of the images stored as JPEG in mode ``proportion``.

    Raises:
        ValueError: A value is out of range.
    """

    mode: WriteMode = "jpg"
    quality: int = 90
    max_resolution: int | None = None
    compress_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in ("raw", "jpg", "proportion"):
            raise ValueError(f"mode must be raw, jpg or proportion, got {self.mode!r}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie between 1 and 100, got {self.quality}")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise ValueError(f"max_resolution must be at least 1, got {self.max_resolution}")
        if not 0 <= self.compress_probability <= 1:
            raise ValueError(
                f"compress_probability must lie between 0 and 1, got {self.compress_probability}"
            )


@dataclass(frozen=True)
class Sidecar:
    """What is known about a .beton beyond its bytes.

    Args:
        samples: Number of samples.
        class_names: Name of each label.
        class_counts: Samples of each label.
        source: Where the images came from.
        encoding: How they were stored.
        skipped: Images left out because they could not be read.
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
    """The path of a .beton's sidecar: ``train.beton`` has ``train.beton.json``."""
    return beton.with_name(beton.name + ".json")


def read_sidecar(beton: Path) -> Sidecar | None:
    """Read the sidecar of a .beton.

    Args:
        beton: Path of the .beton.

    Returns:
        The sidecar, or None where there is none (as for files that another program wrote).

    Raises:
        ValueError: The sidecar is no sidecar of this program, or of a later version.
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
    """The SHA-256 of a file, in hexadecimal (what ``sha256sum`` prints)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
