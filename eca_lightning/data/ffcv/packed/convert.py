"""The command ``data convert``: JPEG and packed .beton files into each other."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eca_lightning.data.ffcv.format import JPEG, PACKED, RAW, BetonInfo, check_beton
from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.ffcv.sidecar import Encoding

if TYPE_CHECKING:
    from eca_lightning.data.ffcv.samples import StoredImage


def convert(
    source: Path,
    output: Path,
    mode: Literal["packed", "jpg"] = "packed",
    quality: int = 90,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write the images of a .beton to another, packed or as JPEG.

    Between JPEG and packed this is lossless: the coefficients stay the same. Images that a file
    stores as raw pixels, and JPEGs of kinds that are not packed, are encoded at --quality. A file
    that is not the one its sidecar describes is refused, so that damage is not written anew.

    Args:
        source: The .beton to read.
        output: The .beton to write.
        mode: How it stores images: packed, or jpg.
        quality: JPEG quality, 1 to 100, of images that have to be encoded.
        num_workers: Processes; by default one for each core.
        overwrite: Replace a file that is there.
    """
    # Imported here: they need FFCV, which the command's help does not.
    from eca_lightning.data.datasets.write_files import fingerprint, report
    from eca_lightning.data.ffcv.verify import require_checksum
    from eca_lightning.data.ffcv.write import write_beton

    info = check_beton(source, "source")
    if output.suffix != ".beton":
        raise ValueError(f"output: {output} must end in .beton")
    if output.resolve() == source.resolve():
        raise ValueError(f"output: {output} is the source; name another file")
    require_checksum(info)
    written = write_beton(
        BetonSamples(info),
        output,
        class_names=info.class_names or list(map(str, range(info.num_classes))),
        source=info.sidecar.source if info.sidecar else str(source.resolve()),
        encoding=Encoding(mode, quality),
        num_workers=num_workers,
        names=[f"sample {index} of {source}" for index in range(info.samples)],
        fingerprint=fingerprint([source], source.parent),
        overwrite=overwrite,
    )
    report(written)
    if raw := info.modes["raw"]:
        print(f"{raw:,} images of {source} are raw pixels, and were encoded at quality {quality}")


@dataclass
class BetonSamples:
    """The images of a .beton as samples to write."""

    info: BetonInfo

    def __len__(self) -> int:
        """Number of images."""
        return self.info.samples

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """RGB pixels, ``(height, width, 3)``, and the label, of an image that is not packed."""
        stored, label = self._read(index)
        if stored.mode == RAW:
            return stored.data.reshape(stored.height, stored.width, 3), label
        with Image.open(BytesIO(stored.data.tobytes()), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB")), label

    def stored(self, index: int, encoding: Encoding) -> "tuple[StoredImage, int] | None":
        """Return an image and its label without loss; None if that is not possible.

        Raises:
            ValueError: If an image is damaged, or not of the recorded size.
        """
        stored, label = self._read(index)
        mode = {"jpg": JPEG, "packed": PACKED}[encoding.mode]
        data: NDArray[np.uint8] | None = None
        if stored.mode == PACKED:
            if not native.is_sound(stored.data, stored.height, stored.width):
                raise ValueError("its packed coefficients are damaged")
            data = stored.data if mode == PACKED else native.to_jpeg(stored.data)
        elif stored.mode == JPEG:
            data = native.encode(stored.data)
            if data is not None and native.size_of(data) != (stored.height, stored.width):
                raise ValueError("it is not of the size that is recorded for it")
            if data is not None and mode == JPEG:
                data = stored.data
        return None if data is None else (stored._replace(mode=mode, data=data), label)

    def _read(self, index: int) -> "tuple[StoredImage, int]":
        from eca_lightning.data.ffcv.samples import StoredImage  # it needs FFCV

        mode, height, width = map(int, self.info.images[["mode", "height", "width"]][index])
        data = self.info.read_image(index)
        return StoredImage(mode, height, width, data), int(self.info.labels[index])
