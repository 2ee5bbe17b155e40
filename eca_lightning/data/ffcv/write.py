"""Writing a .beton atomically: it exists complete with its sidecar, or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eca_lightning.data.ffcv.format import BetonInfo, check_beton
from eca_lightning.data.ffcv.samples import Samples
from eca_lightning.data.ffcv.sidecar import Encoding, Sidecar, checksum, sidecar_path
from eca_lightning.data.ffcv.writer import GuardedWriter, OnError
from eca_lightning.utils.atomic import exclusive_write
from eca_lightning.utils.checks import printable, require


def write_beton(
    dataset: Samples,
    output: Path,
    *,
    class_names: Sequence[str],
    source: str,
    encoding: Encoding | None = None,
    num_workers: int | None = None,
    on_error: OnError = "abort",
    names: Sequence[str] | None = None,
    fingerprint: str = "",
    hashed_fingerprint: str = "",
    overwrite: bool = False,
) -> BetonInfo:
    """Write labeled images to a .beton and its sidecar, unless they exist; return its index.

    The file is written under a temporary name and renamed when complete.

    Args:
        dataset: The samples; passed to forked processes.
        output: The file to write.
        class_names: Name of each label.
        source: Where the samples come from, for the sidecar. A complete file of the same source,
            classes, encoding, number of samples and fingerprint is kept, which is said.
        encoding: How to store images; JPEG of quality 90 if None.
        num_workers: Processes; one per core if None.
        on_error: What to do about samples that cannot be read: ``abort`` once all are known, or
            ``skip`` them and list them in the sidecar.
        names: Name of each sample, for messages.
        fingerprint: What differs where the files of the source do, such as a hash of their names,
            sizes and times.
        hashed_fingerprint: The same of their content. If it is given, it is compared instead.
        overwrite: Replace an existing file, whatever it holds.

    Raises:
        FileExistsError: If a complete file with other content or settings exists, or one of which
            it is not known whether its source has changed.
        ValueError: If the file exists and is damaged, there are no samples, a label has no class,
            samples cannot be read (a DataError, which lists them), or ``on_error`` is unknown.
        RuntimeError: If a process was killed.
        BlockingIOError: If another process is writing the file.
    """
    encoding = encoding or Encoding()
    require(num_workers is None or num_workers > 0, "num_workers", "at least 1", num_workers)
    if not overwrite and output.exists():
        found = check_beton(output)
        sidecar = found.sidecar
        if sidecar is None or (
            (sidecar.class_names, sidecar.source, sidecar.encoding)
            != (list(class_names), source, encoding)
            or sidecar.samples + len(sidecar.skipped) != len(dataset)
        ):
            raise FileExistsError(
                f"{output} exists and holds other data or settings; choose another output, or "
                "replace it with --overwrite true"
            )
        noted, now = sidecar.fingerprint, fingerprint
        if hashed_fingerprint:
            noted, now = sidecar.hashed_fingerprint, hashed_fingerprint
        if noted != now:
            why = "files of its source have changed" if noted else "it is not noted of which files"
            raise FileExistsError(f"{output} exists, but {why}: replace it with --overwrite true")
        print(f"{output}: kept, as source and settings are the same")
        return found
    if len(dataset) < 1:
        raise ValueError(f"there are no samples to write to {output}")
    require(on_error in ("abort", "skip"), "on_error", "abort or skip", repr(on_error))
    with exclusive_write(output) as part:
        writer = GuardedWriter(part, encoding, num_workers or len(os.sched_getaffinity(0)))
        rejected = writer.write(dataset, on_error, names, title=output.name)
        info = check_beton(part)
        if info.labels.max() >= len(class_names):
            raise ValueError(
                f"label {info.labels.max()} has no name among {len(class_names)} class names"
            )
        Sidecar(
            samples=info.samples,
            class_names=list(class_names),
            class_counts=np.bincount(info.labels, minlength=len(class_names)).tolist(),
            source=source,
            encoding=encoding,
            bytes=info.bytes,
            sha256=checksum(part),
            skipped=[printable(str(rejection)) for rejection in rejected],
            fingerprint=fingerprint,
            hashed_fingerprint=hashed_fingerprint,
        ).write(sidecar_path(part))
        # A .beton must never stand beside the sidecar of another, whenever this is interrupted.
        output.unlink(missing_ok=True)
    return check_beton(output)
