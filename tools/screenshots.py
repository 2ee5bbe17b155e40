"""Take the screenshots of TensorBoard for docs/, with Chromium.

    python tools/screenshots.py runs

`make quickstart` makes such runs. Needs ``apt-get install chromium``.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PORT = 6199
ADDRESS = f"http://localhost:{PORT}/"
PAGES = {"tensorboard": "timeseries", "tensorboard_summary": "custom_scalars"}
"""The pictures' names, and the pages of TensorBoard."""
SECONDS = 60


def main() -> None:
    """Start TensorBoard, save its pages as pictures, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logdir", type=Path)
    logdir = parser.parse_args().logdir
    if not any(logdir.rglob("events.out.tfevents.*")):
        sys.exit(f"screenshots: no run under {logdir}: `make quickstart` makes one")
    chromium = shutil.which("chromium") or sys.exit("screenshots: apt-get install chromium")
    program = Path(sys.executable).with_name("tensorboard")
    server = subprocess.Popen(
        [program, "--logdir", logdir, "--port", str(PORT)], stderr=subprocess.DEVNULL
    )
    try:
        wait_until_up()
        for name, page in PAGES.items():
            options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            options += ["--window-size=1400,900", "--virtual-time-budget=20000"]
            picture = IMAGES / f"{name}.png"
            command = [chromium, *options, f"--screenshot={picture}", f"{ADDRESS}#{page}"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=2 * SECONDS)
            print(f"Written: {picture}")
    finally:
        server.terminate()
        server.wait()


def wait_until_up() -> None:
    """Wait until TensorBoard answers and has read the runs."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            with urlopen(f"{ADDRESS}data/runs") as answer:
                if answer.read().strip() != b"[]":
                    return
        except URLError:
            pass
        time.sleep(1)
    sys.exit(f"screenshots: TensorBoard does not answer at {ADDRESS}")


if __name__ == "__main__":
    main()
