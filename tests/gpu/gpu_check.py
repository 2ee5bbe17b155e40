"""Check on a GPU what cannot be proved without one, in nine minutes.

    python tests/gpu/gpu_check.py [--output results/gpu] [--budget 540] [--tiny]

The most important parts come first, each in a process of its own with its own limit of time; one
for which too little is left is skipped. Whatever was found by then lies in the output folder:

    checks.csv                 a row for each figure, with a verdict where there is a limit
    models_compiled.csv, models_eager.csv, loaders.csv    the benchmarks' own tables
    tails.csv                  kernels of the tails, in microseconds
    summary.txt, log.txt       the parts, and all that they printed

Every row has the name of the device. Tables of an earlier check stay until there is a new one. The
status is 1 if anything failed. With --tiny each part runs in this process on the CPU, with next to
nothing to do: that shows that they run.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from gpu_parts import PARTS, TINY, Place

FILES = ("checks.csv", "summary.txt", "log.txt")
"""Those that are written line by line."""
TABLES = ("models_compiled.csv", "models_eager.csv", "loaders.csv")


def check(place, budget):
    """Run the parts; return whether nothing has failed."""
    deadline, started = time.monotonic() + budget, time.time()
    place.output.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (place.output / name).unlink(missing_ok=True)
    for name in TINY if place.tiny else PARTS:
        left = deadline - time.monotonic()
        _, least, most = PARTS[name]
        if left < least:
            _say(place, f"skipped  {name}: {left:.0f} s are left, and it takes {least}")
            continue
        start = time.monotonic()
        status = _run(name, place, min(left, most))
        outcome = "ok      " if status == 0 else "FAILED  "
        why = f", status {status}" if status else ""
        _say(place, f"{outcome} {name}: {time.monotonic() - start:.0f} s{why}")
    for row in _rows(place.output / "checks.csv"):
        if row["verdict"] == "FAILED" or row["metric"] in ("images/s", "milliseconds"):
            verdict = f" {row['verdict']}" if row["verdict"] else ""
            where = f"{row['check']}, {row['case']}"
            _say(place, f"{where}: {row['metric']} {row['value']}{verdict}")
    for path in (place.output / name for name in TABLES):
        if path.exists() and path.stat().st_mtime >= started:
            _say(place, f"{path.name}\n{path.read_text()}")
    return "FAILED" not in (place.output / "summary.txt").read_text()


def _rows(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _say(place, line):
    print(line, flush=True)
    with (place.output / "summary.txt").open("a") as file:
        file.write(f"{line}\n")


def _run(name, place, limit):
    """Run a part, in a process of its own unless it is tiny; return its status."""
    if place.tiny:
        PARTS[name][0](place)
        return 0
    command = [sys.executable, __file__, f"--part={name}", f"--output={place.output}"]
    command += [f"--work={place.work}", f"--workers={place.workers}"]
    with (place.output / "log.txt").open("a") as log:
        print(f"=== {name}", file=log, flush=True)
        try:
            return subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"none after {limit:.0f} s"


def main(arguments=None):
    """Parse the options and run the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/gpu"))
    parser.add_argument("--budget", type=float, default=540, help="seconds in all")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, to see that it runs")
    parser.add_argument("--part", choices=PARTS, help="run this part alone, in this process")
    parser.add_argument("--work", type=Path, help="folder of data and runs (a temporary one)")
    parser.add_argument("--workers", type=int, default=max(len(os.sched_getaffinity(0)) - 1, 1))
    options = parser.parse_args(arguments)
    device = "cpu" if options.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --tiny runs on the CPU")
    with tempfile.TemporaryDirectory(prefix="gpu_check.") as temporary:
        work = options.work or Path(temporary)
        place = Place(options.output, work, device, options.tiny, options.workers)
        if options.part:
            PARTS[options.part][0](place)
            return 0
        return 0 if check(place, options.budget) else 1


if __name__ == "__main__":
    sys.exit(main())
