"""The JSON file beside a .beton, with what FFCV's format does not store."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from eca_lightning.data.folder.image import Exif
from eca_lightning.utils.checks import require

FORMAT = 1

_MAX_BYTES = 1 << 28
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("samples", "bytes"), int),
    **dict.fromkeys(("source", "sha256", "fingerprint", "hashed_fingerprint"), str),
    **dict.fromkeys(("class_names", "skipped"), list[str]),
    "class_counts": list[int],
}

WriteMode = Literal["raw", "jpg", "packed"]


@dataclass(frozen=True)
class Encoding:
    """How images are stored in a .beton, see `data.datasets.image_folder.write_image_folder`.

    Raises:
        ValueError: If a value is out of range.
    """

    mode: WriteMode | Literal["proportion"] = "jpg"  # the last is only read: part jpg, part raw
    quality: int = 90
    max_resolution: int | None = None
    exif: Exif = "apply"

    def __post_init__(self) -> None:
        known = self.mode in (*get_args(WriteMode), "proportion")
        require(known, "mode", "raw, jpg or packed", repr(self.mode))
        require(1 <= self.quality <= 100, "quality", "from 1 to 100", self.quality)
        positive = self.max_resolution is None or self.max_resolution >= 1
        require(positive, "max_resolution", "at least 1", self.max_resolution)
        require(self.exif in ("apply", "ignore"), "exif", "apply or ignore", repr(self.exif))


@dataclass(frozen=True)
class Sidecar:
    """Content and origin of a .beton."""

    samples: int
    class_names: list[str]
    class_counts: list[int]  # samples of each label
    source: str
    encoding: Encoding
    bytes: int
    sha256: str  # of the .beton, in hexadecimal
    skipped: list[str] = field(default_factory=list)  # errors of unreadable images, left out
    fingerprint: str = ""  # of the source's files by name, size and time; empty if unknown
    hashed_fingerprint: str = ""  # of their names and content, if it was asked for
    format: int = FORMAT

    def write(self, path: Path) -> None:
        """Write this sidecar as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _is_of(kind: Any, value: Any) -> bool:
    if entries := get_args(kind):
        return isinstance(value, list) and all(type(entry) is entries[0] for entry in value)
    return type(value) is kind


def sidecar_path(beton: Path) -> Path:
    """Return the path of a .beton's sidecar: ``train.beton.json`` of ``train.beton``."""
    return beton.with_name(beton.name + ".json")


def read_sidecar(beton: Path) -> Sidecar | None:
    """Read the sidecar of a .beton; None if there is none, as for files of another program.

    Raises:
        ValueError: If the file is not a sidecar, or of another version of this format.
    """
    path = sidecar_path(beton)
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:  # a pipe may never end
            raise ValueError(f"it is no file of at most {_MAX_BYTES >> 20} MiB")
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, this program reads {FORMAT}")
        stored = {"exif": "ignore", **content["encoding"]}  # as it was at first
        stored.pop("compress_probability", None)  # of the mode proportion
        encoding = Encoding(**stored)
        sidecar = Sidecar(**{**content, "encoding": encoding})
        for key, kind in _KINDS.items():
            value = getattr(sidecar, key)
            if not _is_of(kind, value):
                raise TypeError(f"{key} is {value!s:.60}")
        require(len(sidecar.class_names) > 0, "class_names", "at least one", "none")
        return sidecar
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"has a sidecar that cannot be used, {path.name}: {error}") from error


def checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal (as ``sha256sum`` prints it)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
