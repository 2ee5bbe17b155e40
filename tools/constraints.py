"""Resolve every dependency afresh and write constraints.txt.

    python tools/constraints.py python3.10 python3.11 torch==2.14.1 torchvision==0.29.1

The first interpreter is the oldest that the project supports, the second the one that its releases
are tested with; what follows are versions to hold on to. Most versions suit both interpreters and
take one line; where a package has left the older one behind, each gets a line with a marker.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = """\
# The exact versions that the project is tested with. To resolve them afresh: make constraints
# The CUDA libraries and Triton are left to torch, which asks for the ones of its platform.
"""
LEFT_TO_TORCH = re.compile(r"nvidia-|cuda-|triton$")


def resolve(python: str, held: list[str]) -> dict[str, str]:
    """Return name and version of all that ``pip install -e ".[all,dev]"`` takes for a Python."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([python, "-m", "venv", scratch], check=True)
        report = Path(scratch, "report.json")
        pip = [f"{scratch}/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        options = ["--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([*pip, "install", *options, "--editable", ".[all,dev]", *held], check=True)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    # PEP 503 gives names one spelling; a local version such as 2.14.1+cpu is one build among many.
    names = [re.sub(r"[-_.]+", "-", package["name"]).lower() for package in packages]
    versions = [package["version"].split("+")[0] for package in packages]
    return dict(zip(names, versions, strict=True))


def merge(older: dict[str, str], newer: dict[str, str], boundary: str) -> list[str]:
    """Return the sorted lines of two resolutions; ``boundary`` is the newer Python, as in 3.11."""
    lines = []
    for name in sorted(older.keys() | newer.keys()):
        if name == "eca-lightning" or LEFT_TO_TORCH.match(name):
            continue
        if older.get(name) == newer.get(name):
            lines.append(f"{name}=={newer[name]}")
            continue
        if name in older:
            lines.append(f'{name}=={older[name]} ; python_version < "{boundary}"')
        if name in newer:
            lines.append(f'{name}=={newer[name]} ; python_version >= "{boundary}"')
    return lines


def main() -> None:
    """Write constraints.txt for the two interpreters and the versions of the command line."""
    older, newer, *held = sys.argv[1:]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    boundary = subprocess.check_output([newer, "-c", ask], text=True).strip()
    lines = merge(resolve(older, held), resolve(newer, held), boundary)
    Path("constraints.txt").write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
