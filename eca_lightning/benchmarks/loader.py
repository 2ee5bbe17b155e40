"""The command ``benchmark loader``: images a second of this package's loader and of its peers."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console

from eca_lightning.benchmarks.common import turns_bar
from eca_lightning.benchmarks.loader_candidates import (
    CONTENDERS,
    BenchmarkView,
    ContenderName,
    Workload,
)
from eca_lightning.benchmarks.loader_process import ContenderProcess
from eca_lightning.benchmarks.loader_report import Result, report
from eca_lightning.data.datasets.image_folder import FolderSamples
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.sidecar import Encoding, WriteMode
from eca_lightning.data.folder.files import LabeledFiles, list_class_folders


def benchmark_loader(
    data: Path,
    view: BenchmarkView = "random_resized_crop",
    image_size: int = 224,
    mode: WriteMode = "jpg",
    batch_size: int = 128,
    num_workers: tuple[int, ...] = (1, 2),
    images: int = 2048,
    repeats: int = 5,
    contenders: list[ContenderName] | None = None,
    timeout: float = 300.0,
    output: Path = Path("runs/benchmark_loader"),
) -> None:
    """Compare loaders of images, side by side in one run.

    Each yields uint8 batches, by a random resized crop and flip as in training or by a center crop
    as in validation: eca-lightning (FFCVDataModule), ffcv (FFCV's own Loader), torchvision-io and
    torchvision-pil (a DataLoader that decodes with torchvision.io or with Pillow) and timm (its
    loader). A .beton serves the first two. A folder serves the others, and also the first two,
    from a temporary .beton of the same images as 'data write image-folder' writes it.

    Each loader has a process of its own, which sleeps while the others take their turns. After a
    first turn that does not count (it compiles), they alternate, so that a change of the machine's
    speed meets all. One that fails or hangs is listed as failed. The output folder gets
    loaders.csv, loaders.png and loaders.log, all that the loaders print.

    Args:
        data: A .beton or a folder of class folders.
        view: What is cut out of each image. center_crop is preceded by a resize of the shorter side
            to 256 pixels for 224, and in proportion for other sizes.
        image_size: Height and width of the output in pixels.
        mode: How the temporary .beton of a folder stores its images.
        batch_size: Images of a batch.
        num_workers: Numbers of threads or processes that decode, one comparison for each.
        images: Most images of a turn; the same in each.
        repeats: Turns of each loader that count.
        contenders: Loaders to compare; by default all that are installed and can read the data.
        timeout: Seconds after which a turn is given up.
        output: Folder for the results.
    """
    least = min((image_size, batch_size, images, repeats, *num_workers))
    if least < 1 or not num_workers or timeout <= 0:
        raise ValueError(
            "image_size, batch_size, num_workers, images, repeats and timeout must be positive"
        )
    console = Console()
    # Checked before the choice of loaders, which depends on what the data are.
    is_beton = data.suffix == ".beton"
    listed = None if is_beton else list_class_folders(data, "data")
    available = check_beton(data, "data").samples if listed is None else len(listed.paths)
    batches = min(available, images) // batch_size
    if batches < 1:
        raise ValueError(
            f"batch_size: {min(available, images)} images of {data} do not fill a batch of "
            f"{batch_size}; lower it, or give more images"
        )
    names = _choose(contenders, is_beton, console)
    output.mkdir(parents=True, exist_ok=True)
    work = Workload(data if is_beton else None, None, [], batches, batch_size, image_size, 1, view)
    with ExitStack() as stack:
        if listed is not None:
            chosen = _evenly(listed, batches * batch_size)
            files = [(str(p), label) for p, label in zip(chosen.paths, chosen.labels, strict=True)]
            work = replace(work, folder=data, files=files)
            if any(CONTENDERS[name].reads == "beton" for name in names):
                work = replace(
                    work, beton=stack.enter_context(_temporary_beton(chosen, data, mode))
                )
        results = []
        turns = len(names) * len(num_workers) * (repeats + 1)
        with turns_bar() as progress:
            bar = progress.add_task("starting", total=turns)
            for workers in num_workers:
                compared = [Result(name, replace(work, num_workers=workers)) for name in names]
                for result in _alternate(compared, repeats, timeout, output / "loaders.log"):
                    about = f"{result.contender}, {workers} workers"
                    progress.update(bar, advance=1, description=about)
                results += compared
    form = "" if listed is None else f" ({mode})"
    report(results, f"{data}{form}: {view} {image_size}, batches of {batch_size}", output)


def _choose(
    wanted: list[ContenderName] | None, is_beton: bool, console: Console
) -> list[ContenderName]:
    """The loaders to compare, ours first."""
    obstacles = {}
    for name, contender in CONTENDERS.items():
        if is_beton and contender.reads == "folder":
            obstacles[name] = "reads a folder of class folders, not a .beton"
        elif find_spec(contender.needs) is None:
            obstacles[name] = f"needs {contender.needs}, which is not installed"
    for name in wanted or ():
        if name not in CONTENDERS:
            raise ValueError(f"contenders: {name!r} is none of {', '.join(CONTENDERS)}")
        if name in obstacles:
            raise ValueError(f"contenders: {name} {obstacles[name]}")
    names = [name for name in CONTENDERS if name in (wanted or CONTENDERS.keys() - obstacles)]
    if not names:
        raise ValueError(
            "contenders: there is nothing to compare, as no loader that reads a .beton is "
            "installed; give a folder of class folders, or install eca-lightning[ffcv]"
        )
    if wanted is None:
        for name, obstacle in obstacles.items():
            console.print(f"Left out: {name} {obstacle}", style="yellow")
    return names


def _evenly(files: LabeledFiles, count: int) -> LabeledFiles:
    """Evenly spaced ones of the files, so that they are of all classes."""
    chosen = np.linspace(0, len(files.paths), count, endpoint=False).astype(int).tolist()
    paths, labels = [files.paths[i] for i in chosen], [files.labels[i] for i in chosen]
    return LabeledFiles(files.class_names, paths, labels)


@contextmanager
def _temporary_beton(files: LabeledFiles, source: Path, mode: WriteMode) -> Iterator[Path]:
    """The files as a .beton that is removed afterwards."""
    # Imported here: it needs FFCV, which the other loaders do not.
    from eca_lightning.data.ffcv.write import ensure_beton

    with tempfile.TemporaryDirectory(prefix="benchmark_loader_") as folder:
        info = ensure_beton(
            FolderSamples(files),
            Path(folder) / "images.beton",
            class_names=files.class_names,
            source=str(source),
            encoding=Encoding(mode),
            names=[str(path) for path in files.paths],
        )
        yield info.path


def _alternate(results: list[Result], repeats: int, timeout: float, log: Path) -> Iterator[Result]:
    """Let loaders take turns, and yield each result once a turn was added to it, or given up."""
    with ExitStack() as stack:
        processes = {}
        for number in range(repeats + 1):
            for result in results:
                if not result.failure:
                    try:
                        if number == 0:
                            process = ContenderProcess(result.contender, result.work, log)
                            stack.callback(process.close)
                            processes[result.contender] = process
                        result.turns.append(processes[result.contender].turn(number, timeout))
                    except RuntimeError as error:
                        result.failure = str(error)
                        # One that hangs must not compete with the others.
                        processes[result.contender].close()
                yield result
