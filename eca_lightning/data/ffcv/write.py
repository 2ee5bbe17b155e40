"""Writing a .beton so that it is either there, complete and with its sidecar, or not there."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from eca_lightning.data.ffcv.format import BetonInfo, check_beton
from eca_lightning.data.ffcv.sidecar import Encoding, Sidecar, checksum, sidecar_path
from eca_lightning.data.ffcv.writer import GuardedWriter, OnError, Samples


def write_beton(
    dataset: Samples,
    output: Path,
    *,
    class_names: Sequence[str],
    source: str,
    encoding: Encoding | None = None,
    num_workers: int = 1,
    on_error: OnError = "abort",
    names: Sequence[str] | None = None,
) -> BetonInfo:
    """Write labeled images to a .beton and its sidecar.

    Written under a temporary name, ``<output>.partial``, and renamed when complete. Which images
    the mode ``proportion`` compresses depends on their index alone.

    Args:
        dataset: The samples; handed to forked processes.
        output: The file to write; one that exists is replaced.
        class_names: Name of each label.
        source: Where the samples come from, for the sidecar.
        encoding: How to store them; JPEG of quality 90 if None.
        num_workers: Processes.
        on_error: What to do about a sample that cannot be read: ``abort``, or ``skip`` it and list
            it in the sidecar.
        names: Name of each sample, for messages.

    Returns:
        What was written.

    Raises:
        ValueError: There is nothing to write, a label has no class, a sample cannot be read, or
            ``on_error`` is neither of the two.
        RuntimeError: A process was killed.
    """
    if len(dataset) < 1:
        raise ValueError(f"there are no samples to write to {output}")
    if on_error not in ("abort", "skip"):
        raise ValueError(f"on_error must be abort or skip, got {on_error!r}")
    encoding = encoding or Encoding()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    partial_sidecar = output.with_name(output.name + ".json.partial")
    with ExitStack() as undo:
        undo.callback(partial.unlink, missing_ok=True)
        undo.callback(partial_sidecar.unlink, missing_ok=True)
        writer = GuardedWriter(partial, encoding, num_workers)
        rejected = writer.write(dataset, on_error, names, title=output.name)
        info = check_beton(partial)
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
            sha256=checksum(partial),
            skipped=[str(rejection) for rejection in rejected],
        ).write(partial_sidecar)
        # A beton must never stand beside the sidecar of another, whenever this is interrupted.
        output.unlink(missing_ok=True)
        os.replace(partial_sidecar, sidecar_path(output))
        os.replace(partial, output)
    return check_beton(output)


def ensure_beton(
    dataset: Samples,
    output: Path,
    *,
    class_names: Sequence[str],
    source: str,
    encoding: Encoding,
    num_workers: int | None = None,
    on_error: OnError = "abort",
    names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> BetonInfo:
    """Write a .beton unless a good one with the same content is there.

    Args:
        dataset: The samples.
        output: The file.
        class_names: Name of each label.
        source: Where the samples come from; stands for their content in the comparison.
        encoding: How to store them.
        num_workers: Processes; one for each core if None.
        on_error: What to do about a sample that cannot be read.
        names: Name of each sample, for messages.
        overwrite: Replace whatever is there.

    Returns:
        What is there now.

    Raises:
        FileExistsError: A good file with other content or settings is there.
        ValueError: See :func:`write_beton`.
        RuntimeError: See :func:`write_beton`.
    """
    if not overwrite and (found := _good_beton(output)) is not None:
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
        return found
    return write_beton(
        dataset,
        output,
        class_names=class_names,
        source=source,
        encoding=encoding,
        num_workers=num_workers or len(os.sched_getaffinity(0)),
        on_error=on_error,
        names=names,
    )


def _good_beton(path: Path) -> BetonInfo | None:
    """The .beton at a path, or None if there is no good one."""
    try:
        return check_beton(path)
    except (FileNotFoundError, ValueError):
        return None
