"""The command ``benchmark loader``: compare the speed of image loaders."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console

from eca_lightning.benchmarks.common import require_positive
from eca_lightning.benchmarks.loader_candidates import (
    LOADERS,
    OURS,
    BenchmarkView,
    LoaderName,
    Workload,
)
from eca_lightning.benchmarks.loader_process import LoaderProcess
from eca_lightning.benchmarks.loader_report import Result, report
from eca_lightning.data.datasets.write_files import FileSamples
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.sidecar import Encoding, WriteMode
from eca_lightning.data.folder.files import LabeledFiles, list_class_folders
from eca_lightning.utils.checks import require_known
from eca_lightning.utils.reports import progress_bar


def benchmark_loader(
    data: Path,
    view: BenchmarkView = "random_resized_crop",
    image_size: int = 224,
    modes: tuple[WriteMode, ...] = ("packed", "jpg"),
    batch_size: int = 128,
    num_workers: tuple[int, ...] = (1, 2),
    images: int = 2048,
    repeats: int = 5,
    loaders: list[LoaderName] | None = None,
    timeout: float = 300.0,
    output: Path = Path("runs/benchmark_loader"),
) -> None:
    """Compare the speed of image loaders.

    Each yields uint8 batches, by a random resized crop and flip as in training or by a center crop
    as in validation: eca-lightning (FFCVDataModule), ffcv (FFCV's own Loader), torchvision-io and
    torchvision-pil (a DataLoader that decodes with torchvision.io or with Pillow) and timm (its
    loader). A .beton serves the first two. A folder serves the others, and also the first two,
    from temporary .beton files of the same images as 'data write image-folder' writes them.

    Each loader runs in a process of its own, one at a time. After a first repeat that does not
    count (it compiles), the loaders alternate, so that a change of the machine's speed affects all
    of them. One that fails or hangs is listed as failed. The output folder gets loaders.csv,
    loaders.png and loaders.log, the output of the loaders.

    Args:
        data: A .beton or a folder of class folders.
        view: The crop of each image. center_crop is preceded by a resize of the shorter side to 256
            pixels for 224, and in proportion for other sizes.
        image_size: Height and width of the output in pixels.
        modes: How the temporary .beton files of a folder store its images: packed, which FFCV's own
            loader does not read, jpg or raw.
        batch_size: Images of a batch.
        num_workers: Numbers of threads or processes that decode, one comparison for each.
        images: Maximum number of images of a repeat.
        repeats: Repeats of each loader that count.
        loaders: Loaders to compare; by default all that are installed and can read the data.
        timeout: Seconds after which a repeat is aborted.
        output: Folder for the results.
    """
    require_positive(image_size=image_size, batch_size=batch_size, images=images)
    require_positive(repeats=repeats, timeout=timeout, num_workers=min(num_workers, default=0))
    # Checked before the choice of loaders, which depends on the kind of data.
    listed = None if data.suffix == ".beton" else list_class_folders(data, "data")
    available = check_beton(data, "data").samples if listed is None else len(listed.paths)
    batches = min(available, images) // batch_size
    if batches < 1:
        raise ValueError(
            f"batch_size: {min(available, images)} images of {data} do not fill a batch of "
            f"{batch_size}; lower it, or give more images"
        )
    names = _choose(loaders, "beton" if listed is None else "folder")
    output.mkdir(parents=True, exist_ok=True)
    work = Workload(data, None, [], batches, batch_size, image_size, 1, view)
    with ExitStack() as stack:
        if listed is None:
            works = [(name, _of_beton(work, data)) for name in names]
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark_")))
            works = _works_of_folder(work, data, listed, names, modes, folder)
        results = []
        with progress_bar() as progress:
            bar = progress.add_task("", total=len(works) * len(num_workers) * (repeats + 1))
            for workers in num_workers:
                compared = [Result(name, replace(own, num_workers=workers)) for name, own in works]
                for result in _alternate(compared, repeats, timeout, output / "loaders.log"):
                    description = f"{result.label}, {workers} workers"
                    progress.update(bar, advance=1, description=description)
                results += compared
    report(results, f"{data}: {view} {image_size}, batches of {batch_size}", output)


def _of_beton(work: Workload, beton: Path, mode: WriteMode | None = None) -> Workload:
    size = float(check_beton(beton).sizes.mean())
    return replace(work, beton=beton, mode=mode, bytes_per_image=size)


def _works_of_folder(
    work: Workload,
    data: Path,
    listed: LabeledFiles,
    names: Sequence[LoaderName],
    modes: Sequence[WriteMode],
    folder: Path,
) -> list[tuple[LoaderName, Workload]]:
    """Write the .beton files that loaders of a folder's images need; return the work of each."""
    chosen = _evenly_spaced(listed, work.images)
    files = [(str(path), label) for path, label in zip(chosen.paths, chosen.labels, strict=True)]
    size = float(np.mean([path.stat().st_size for path in chosen.paths]))
    work = replace(work, beton=None, folder=data, files=files, bytes_per_image=size)
    betons = {}
    if any(LOADERS[name].reads == "beton" for name in names):
        for mode in modes:
            _write_beton(chosen, data, mode, folder / f"{mode}.beton")
            betons[mode] = _of_beton(work, folder / f"{mode}.beton", mode)
    works = []
    for name in names:
        if LOADERS[name].reads == "folder":
            works.append((name, work))
        works += [
            (name, own)
            for mode, own in betons.items()
            if LOADERS[name].reads == "beton" and (name == OURS or mode != "packed")
        ]
    return works


def _choose(wanted: Sequence[LoaderName] | None, source: str) -> list[LoaderName]:
    """Choose the loaders to compare for a source, "beton" or "folder"; ours first."""
    for name in wanted or ():
        require_known(name, LOADERS, "loader")
    names = []
    for name, loader in LOADERS.items():
        obstacle = ""
        if source == "beton" and loader.reads == "folder":
            obstacle = f"{name} reads a folder of class folders, not a .beton"
        elif find_spec(loader.needs) is None:
            obstacle = f"{name} needs {loader.needs}, which is not installed"
        if wanted is None and obstacle:
            Console().print(f"Left out: {obstacle}", style="yellow")
        elif wanted is None or name in wanted:
            if obstacle:
                raise ValueError(f"loaders: {obstacle}")
            names.append(name)
    if not names:
        raise ValueError("loaders: none that reads a .beton is installed: try eca-lightning[ffcv]")
    return names


def _evenly_spaced(files: LabeledFiles, count: int) -> LabeledFiles:
    """Choose evenly spaced files, so that all classes are among them."""
    chosen = np.linspace(0, len(files.paths), count, endpoint=False).astype(int).tolist()
    paths, labels = [files.paths[i] for i in chosen], [files.labels[i] for i in chosen]
    return LabeledFiles(files.class_names, paths, labels)


def _write_beton(files: LabeledFiles, source: Path, mode: WriteMode, path: Path) -> None:
    # Imported here: it needs FFCV, which the other loaders do not.
    from eca_lightning.data.ffcv.write import write_beton

    write_beton(
        FileSamples(files),
        path,
        class_names=files.class_names,
        source=str(source),
        encoding=Encoding(mode),
        names=[str(file) for file in files.paths],
    )


def _alternate(
    results: Sequence[Result], repeats: int, timeout: float, log: Path
) -> Iterator[Result]:
    """Time loaders alternately; yield each result after a repeat was added to it."""
    with ExitStack() as stack:
        processes = {}
        for number in range(repeats + 1):
            for result in results:
                if not result.failure:
                    try:
                        if number == 0:
                            process = LoaderProcess(result.loader, result.work, log)
                            stack.callback(process.close)
                            processes[result.label] = process
                        result.timings.append(processes[result.label].time(number, timeout))
                    except RuntimeError as error:
                        result.failure, result.timings = str(error), []
                        # One that hangs must not compete with the others.
                        processes[result.label].close()
                yield result
