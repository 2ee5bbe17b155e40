"""The .beton file format: a check that takes milliseconds.

FFCV trusts its files: a truncated one loads silently or hangs, a damaged one may crash the process.
Everything that a loader follows (header, pointers, sizes) is therefore checked here first, without
FFCV.

Layout: header | field descriptors | one metadata row per sample | pages of pixel data | allocation
table, one row per sample.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv.sidecar import Sidecar, read_sidecar

VERSION = 2
JPEG, RAW, PACKED = 0, 1, 2
PIXELS_PER_BYTE = 512
"""An upper bound for JPEG, of which each 8 x 8 block takes at least one bit, and packed images."""
FIELDS = {"image": 2, "label": 1}
"""The expected fields and their type numbers: RGBImageField and IntField."""
CUSTOM_FIELD = 255
"""The type number of images that are all packed, see docs/packed.md; FFCV refuses to decode it."""

HEADER_TYPE = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD_TYPE = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "u1", (1024,))])
IMAGE_TYPE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE_TYPE = np.dtype([("image", IMAGE_TYPE), ("label", "<i8")], align=True)
ALLOCATION_TYPE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


@dataclass(frozen=True, eq=False)
class BetonInfo:
    """The index of a .beton; arrays are of shape ``(samples,)``."""

    path: Path
    bytes: int
    page_size: int  # in bytes
    images: NDArray[np.void]  # of IMAGE_TYPE
    labels: NDArray[np.int64]
    sizes: NDArray[np.uint64]  # stored bytes of each image
    sidecar: Sidecar | None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def modes(self) -> dict[str, int]:
        """Number of images stored as ``jpg``, as ``raw`` and as ``packed``."""
        counts = np.bincount(self.images["mode"], minlength=3).tolist()
        return dict(zip(("jpg", "raw", "packed"), counts, strict=True))

    @property
    def is_packed(self) -> bool:
        """Whether the images are packed; all are, or none."""
        return bool(self.images["mode"][0] == PACKED)

    @property
    def resolutions(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Minimum and maximum (height, width) in pixels, each over all images."""
        heights, widths = self.images["height"], self.images["width"]
        return (int(heights.min()), int(widths.min())), (int(heights.max()), int(widths.max()))

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label; None without a sidecar."""
        return self.sidecar.class_names if self.sidecar else None

    @property
    def num_classes(self) -> int:
        """Number of classes; without a sidecar, the maximum label plus one."""
        return len(self.sidecar.class_names) if self.sidecar else int(self.labels.max()) + 1

    @property
    def pages(self) -> NDArray[np.uint64]:
        """Page of each image, of shape ``(samples,)``."""
        return self.images["data_ptr"] // np.uint64(self.page_size)

    def read_image(self, sample: int) -> NDArray[np.uint8]:
        """Read the bytes of an image as they are stored."""
        place, size = int(self.images["data_ptr"][sample]), int(self.sizes[sample])
        return np.fromfile(self.path, np.uint8, size, offset=place)


def check_beton(path: Path, name: str = "") -> BetonInfo:
    """Return the index of a complete .beton of images and labels, checked without reading pixels.

    Args:
        path: The file.
        name: Option that names the file; error messages begin with it.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is not a .beton, truncated or damaged, or does not match its sidecar.
    """
    prefix = f"{name}: " if name else ""
    if not path.exists():
        raise FileNotFoundError(
            f"{prefix}{path} does not exist; write it with 'eca-lightning data write'"
        )
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(
            f"{prefix}{path} is {kind}, but a .beton file is needed: write one with "
            "'eca-lightning data write image-folder', or use ImageFolderDataModule"
        )
    try:
        return _read(path)
    except ValueError as error:
        raise ValueError(
            f"{prefix}{path} {error}; write it again with 'eca-lightning data write' and "
            "--overwrite true"
        ) from None


def _read(path: Path) -> BetonInfo:
    """Read and check everything but the pixels."""
    size = path.stat().st_size
    if size < HEADER_TYPE.itemsize:
        raise ValueError("is not a .beton file: it is too short for a header")
    header = np.fromfile(path, HEADER_TYPE, 1)[0]
    page_size, samples = int(header["page_size"]), int(header["num_samples"])
    table = int(header["alloc_table_ptr"])
    if header["version"] != VERSION or page_size < 1 or page_size & (page_size - 1):
        raise ValueError("is not a .beton file: its header is not FFCV's")
    if header["num_fields"] != len(FIELDS):
        raise ValueError(f"has {header['num_fields']} fields, not the two 'image' and 'label'")

    metadata = HEADER_TYPE.itemsize + len(FIELDS) * FIELD_TYPE.itemsize
    pixels = metadata + samples * SAMPLE_TYPE.itemsize
    if samples < 1:
        raise ValueError("holds no samples")
    if table == 0:
        raise ValueError("was never completed: its allocation table is missing")
    if pixels > table:
        raise ValueError("is damaged: its allocation table lies inside its metadata")
    end = table + samples * ALLOCATION_TYPE.itemsize
    if end != size:
        kind = "truncated" if end > size else "damaged"
        raise ValueError(f"is {kind}: it has {size} bytes instead of {end}")

    fields = np.fromfile(path, FIELD_TYPE, len(FIELDS), offset=HEADER_TYPE.itemsize)
    found = {field["name"].decode("ascii", "replace"): int(field["type_id"]) for field in fields}
    packed = found.get("image") == CUSTOM_FIELD
    if packed:
        found["image"] = FIELDS["image"]
    if found == FIELDS and list(found) != list(FIELDS):
        raise ValueError(
            f"has its fields in the order {', '.join(found)}, and only {', '.join(FIELDS)} is read"
        )
    if found != FIELDS:
        raise ValueError(f"has the fields {sorted(found)}, not an 'image' and a 'label'")
    rows = np.fromfile(path, SAMPLE_TYPE, samples, offset=metadata)
    allocations = np.fromfile(path, ALLOCATION_TYPE, samples, offset=table)
    known = rows["image"]["mode"] == PACKED if packed else rows["image"]["mode"] <= RAW
    if not known.all():
        raise ValueError("is damaged: the modes of its images are not those of its field")
    sizes = _sizes_of_images(rows["image"], allocations, pixels, table, page_size)
    if rows["label"].min() < 0:
        raise ValueError("is damaged: it has negative labels")

    sidecar = read_sidecar(path)
    info = BetonInfo(path, size, page_size, rows["image"], rows["label"], sizes, sidecar)
    if sidecar and (sidecar.bytes, sidecar.samples) != (size, samples):
        raise ValueError(
            f"does not match its sidecar: {samples} samples in {size} bytes "
            f"instead of {sidecar.samples} in {sidecar.bytes}"
        )
    if rows["label"].max() >= info.num_classes:
        raise ValueError(f"is damaged: it has labels above its {info.num_classes} classes")
    if sidecar:
        # Last, because np.bincount returns an array as long as the maximum label.
        counts = np.bincount(info.labels, minlength=info.num_classes)
        if counts.tolist() != sidecar.class_counts:
            raise ValueError("does not match its sidecar: the counts of its classes differ")
    return info


def _sizes_of_images(
    images: NDArray[np.void], allocations: NDArray[np.void], start: int, end: int, page_size: int
) -> NDArray[np.uint64]:
    """Check every pointer that a reader follows; return the stored bytes of each image."""
    pointers, sizes = allocations["ptr"], allocations["size"]
    # Each comparison excludes overflow of the sums in the next one.
    if (pointers < start).any() or (pointers > end).any() or (sizes > page_size).any():
        raise ValueError("is damaged: images lie outside its pages")
    if (pointers + sizes > end).any() or (pointers % page_size + sizes > page_size).any():
        raise ValueError("is damaged: images reach beyond their pages")
    order = np.argsort(pointers)
    places = np.searchsorted(pointers[order], images["data_ptr"]).clip(max=len(order) - 1)
    found = allocations[order][places]
    foreign = found["sample_id"] != np.arange(len(images))
    if (foreign | (found["ptr"] != images["data_ptr"])).any():
        raise ValueError("is damaged: its allocation table does not match its images")
    sizes = found["size"]
    areas = images["height"].astype(np.uint64) * images["width"]
    raw = images["mode"] == RAW
    # A decoder allocates the size in the metadata before it reads the stream.
    too_large = areas > sizes * np.uint64(PIXELS_PER_BYTE)
    if (areas == 0).any() or too_large[~raw].any():
        raise ValueError("is damaged: its image metadata are not plausible")
    if (sizes[raw] != 3 * areas[raw]).any():
        raise ValueError("is damaged: raw images do not have the size of their pixels")
    return sizes
