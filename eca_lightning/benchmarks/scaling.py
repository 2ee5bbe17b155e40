"""The command ``benchmark scaling``: the speed of a run on 1, 2, ... devices."""

import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from eca_lightning.benchmarks.common import describe_exit, require_positive
from eca_lightning.benchmarks.scaling_report import Result, report
from eca_lightning.compare.grid import option_arguments
from eca_lightning.utils.checks import require
from eca_lightning.utils.reports import progress_bar

_ERROR = re.compile(r"(Error|Exception|error)\b.*:")


def benchmark_scaling(
    run: Path | list[Path],
    devices: tuple[int, ...] = (1, 2),
    options: dict[str, Any] | None = None,
    steps: int = 50,
    repeats: int = 3,
    timeout: float = 900.0,
    output: Path = Path("runs/benchmark_scaling"),
) -> None:
    """Measure how the speed of a run grows with the number of devices of this node.

    Each repeat is a fit in a process of its own, with the config's model, data, strategy and
    precision, its batch size on each device, and without its validation and callbacks. It trains
    2 x steps steps, of which the first half warms up and the second counts. The numbers of devices
    alternate, so that a change of the machine's speed affects all of them. A fit that fails or
    hangs is killed, and its number of devices listed as failed.

    Efficiency is the images a second of a device, relative to the smallest run of the same round.
    Data wait is the fraction of the time in which the device that waits most had no batch. The
    output folder gets scaling.csv, scaling.png and scaling.log, the output of the fits.

    Args:
        run: Config of a run, or a list of configs, of which later ones win, as --config of fit.
        devices: Numbers of devices to compare.
        options: Further options of fit, such as {data.root: /data, trainer.accelerator: cpu}.
        steps: Optimizer steps of a repeat that count.
        repeats: Repeats of each number of devices.
        timeout: Seconds after which a fit is killed.
        output: Folder for the results.

    Raises:
        FileNotFoundError: If a config does not exist.
        ValueError: If a number is out of range, or every fit failed.
    """
    runs = [run] if isinstance(run, Path) else run
    for path in runs:
        if not path.is_file():
            raise FileNotFoundError(f"run: config not found: {path}")
    require(bool(runs), "run", "at least one config", run)
    require_positive(devices=min(devices, default=0), steps=steps, repeats=repeats, timeout=timeout)
    require(len(devices) == len(set(devices)), "devices", "distinct", devices)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "scaling.log"
    results = [Result(count) for count in sorted(devices)]
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(results) * repeats)
        for number in range(repeats):
            first = number % len(results)
            for result in results[first:] + results[:first]:
                progress.update(bar, description=f"{result.devices} devices")
                if not result.failure:
                    arguments = _arguments(runs, result.devices, options or {}, steps)
                    try:
                        rate, wait = _fit(arguments, timeout, log)
                        result.rates.append(rate)
                        result.waits.append(wait)
                    except RuntimeError as error:
                        result.rates, result.waits, result.failure = [], [], str(error)
                progress.advance(bar)
    report(results, f"{' '.join(map(str, runs))}: {repeats} repeats of {steps} steps", output)
    if all(result.failure for result in results):
        raise ValueError(f"every fit failed, see {log}: {results[0].failure}")


def _arguments(
    runs: Sequence[Path], devices: int, options: dict[str, Any], steps: int
) -> list[str]:
    """Return the arguments of ``eca-lightning`` for a fit, without its logger."""
    forced = {
        "trainer.devices": devices,
        "trainer.max_epochs": 2 * steps,  # enough, even with one step an epoch
        "trainer.max_steps": 2 * steps,
        "trainer.log_every_n_steps": steps,
        "trainer.limit_val_batches": 0,
        "trainer.num_sanity_val_steps": 0,
        "reports": [{"class_path": "eca_lightning.SpeedMonitor"}],
        "trainer.callbacks": None,
        "trainer.enable_progress_bar": False,
        "checkpoint.save_top_k": 0,  # there is no validation to monitor
    }
    configs = [f"--config={path}" for path in runs]
    return ["fit", *configs, *option_arguments({**options, **forced})]


def _fit(arguments: Sequence[str], timeout: float, log: Path) -> tuple[float, float]:
    """Train in a process of its own; return images a second and data wait.

    Raises:
        RuntimeError: If it failed, logged no speed or did not end in time.
    """
    begin = log.stat().st_size if log.exists() else 0
    with tempfile.TemporaryDirectory(prefix="benchmark_scaling_") as folder:
        logger = {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": folder, "name": "", "version": ""},
        }
        command = [*arguments, *option_arguments({"trainer.logger": logger})]
        with log.open("a") as file:
            error = _run_session([sys.executable, "-m", "eca_lightning", *command], timeout, file)
        if error:
            printed = log.read_bytes()[begin:].decode(errors="replace")
            raise RuntimeError(f"{error}: {_error_line(printed)}")
        metrics = Path(folder) / "metrics.csv"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
    speeds = [line for line in csv.DictReader(lines) if line.get("train/images_per_s")]
    if len(speeds) != 2:
        raise RuntimeError("it trained, but logged no speed")
    return float(speeds[1]["train/images_per_s"]), float(speeds[1]["train/data_wait"])


def _run_session(command: Sequence[str], timeout: float, log: IO[str]) -> str:
    """Run a command, kill all processes that it started, and return an error, if any."""
    # Within a Slurm job, Lightning would take the tasks of the job for the ranks of the fit.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"no end after {timeout:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # ranks may outlive the first
        process.wait()
    return describe_exit(status) if status else ""


def _error_line(printed: str) -> str:
    """Return the last line that looks like an error, or else the last line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    return (errors or lines or ["no output"])[-1]
