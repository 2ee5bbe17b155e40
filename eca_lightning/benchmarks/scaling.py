"""The command ``benchmark scaling``: how much faster a run trains on more devices."""

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

from eca_lightning.benchmarks.common import how_it_ended, turns_bar
from eca_lightning.benchmarks.scaling_report import Result, Turn, report
from eca_lightning.compare.grid import option_arguments

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
    """Train a run on 1, 2, ... devices of this node, and tell how its speed grows.

    Each turn is a fit in a process of its own, with the config's model, data, strategy and
    precision, its batch size on each device, and neither its validation nor its callbacks. It
    trains two times 'steps' steps, of which the first half warms up and the second counts. The
    numbers of devices take turns, so that a change of the machine's speed meets all. A turn that
    fails or hangs is ended, and its number of devices listed as failed.

    Efficiency is the speed of a device beside that of a device in the smallest run of the same
    round. Data wait is the share of the time in which the device that waits most had no batch. The
    output folder gets scaling.csv, scaling.png and scaling.log, all that the turns print.

    Args:
        run: Config of a run, or a list of configs, of which later ones win: as --config of fit.
        devices: Numbers of devices to compare.
        options: Further options of fit, such as {data.root: /data, trainer.accelerator: cpu}.
        steps: Optimizer steps of a turn that count.
        repeats: Turns of each number of devices.
        timeout: Seconds after which a turn is given up.
        output: Folder for the results.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If a number is out of range, or no turn succeeded.
    """
    runs = [run] if isinstance(run, Path) else run
    for path in runs:
        if not path.is_file():
            raise FileNotFoundError(f"run: there is no config {path}")
    if min((steps, repeats, *devices)) < 1 or timeout <= 0:
        raise ValueError("devices, steps, repeats and timeout must be positive")
    if not runs or not devices or len(set(devices)) < len(devices):
        raise ValueError("run must name a config, and devices different numbers of devices")
    output.mkdir(parents=True, exist_ok=True)
    log = output / "scaling.log"
    results = [Result(count) for count in sorted(devices)]
    with turns_bar() as progress:
        bar = progress.add_task("", total=len(results) * repeats)
        for number in range(repeats):
            first = number % len(results)
            for result in results[first:] + results[:first]:
                progress.update(bar, description=f"{result.devices} devices")
                if not result.failure:
                    arguments = _arguments(runs, result.devices, options or {}, steps)
                    try:
                        result.turns.append(_turn(arguments, timeout, log))
                    except RuntimeError as error:
                        result.failure = str(error)
                progress.advance(bar)
    named = " ".join(map(str, runs))
    report(results, f"{named}: {repeats} turns of {steps} steps", output)
    if all(result.failure for result in results):
        raise ValueError(f"no turn succeeded, see {log}: {results[0].failure}")


def _arguments(
    runs: Sequence[Path], devices: int, options: dict[str, Any], steps: int
) -> list[str]:
    """The arguments of ``eca-lightning`` for a turn, but for its logger."""
    forced = {
        "trainer.devices": devices,
        "trainer.max_epochs": 2 * steps,  # enough, were each of one step
        "trainer.max_steps": 2 * steps,
        "trainer.log_every_n_steps": steps,
        "trainer.limit_val_batches": 0,
        "trainer.num_sanity_val_steps": 0,
        "trainer.callbacks": [{"class_path": "eca_lightning.SpeedMonitor"}],
        "trainer.enable_progress_bar": False,
        "checkpoint.save_top_k": 0,  # there is no validation to monitor
    }
    configs = [f"--config={path}" for path in runs]
    return ["fit", *configs, *option_arguments({**options, **forced})]


def _turn(arguments: Sequence[str], timeout: float, log: Path) -> Turn:
    """Train in a process of its own.

    Raises:
        RuntimeError: It failed, gave no figures or did not end in time.
    """
    begin = log.stat().st_size if log.exists() else 0
    with tempfile.TemporaryDirectory(prefix="benchmark_scaling_") as folder:
        logger = {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": folder, "name": "", "version": ""},
        }
        command = [*arguments, *option_arguments({"trainer.logger": logger})]
        with log.open("a") as file:
            ending = _run_session([sys.executable, "-m", "eca_lightning", *command], timeout, file)
        if ending:
            printed = log.read_bytes()[begin:].decode(errors="replace")
            raise RuntimeError(f"{ending}: {_cause(printed)}")
        metrics = Path(folder) / "metrics.csv"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
    speeds = [line for line in csv.DictReader(lines) if line.get("train/images_per_s")]
    if len(speeds) != 2:
        raise RuntimeError("it trained, but logged no speed")
    return Turn(float(speeds[1]["train/images_per_s"]), float(speeds[1]["train/data_wait"]))


def _run_session(command: Sequence[str], timeout: float, log: IO[str]) -> str:
    """Run a command and end all processes that it started; say what went wrong, if anything."""
    # Within a job of Slurm's, Lightning would take the job's tasks for the ranks of the turn.
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
            os.killpg(process.pid, signal.SIGKILL)  # ranks that outlive the first as well
        process.wait()
    return how_it_ended(status) if status else ""


def _cause(printed: str) -> str:
    """The last line that tells of an error, or the last line there is."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    return (errors or lines or ["it printed nothing"])[-1]
