"""Set-up: when it goes again, what it installs, and how it stops."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SCRIPT = (ROOT / "tools/setup.sh").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture
def checkout(tmp_path):
    """The files that set-up depends on."""
    for name in ["Makefile", "pyproject.toml", "setup.py", "constraints.txt", "tools/setup.sh"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1e9, 1e9))
    return tmp_path


def run(*command, cwd):
    # Nothing else of this environment: a make above this one would hand its own flags on.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True)


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "constraints.txt"])
def test_goes_again_only_when_the_requirements_change(checkout, name):
    done = checkout / ".venv/.setup-complete"
    done.parent.mkdir()
    done.touch()
    plan = ["make", "--dry-run", "setup"]
    assert "setup.sh" not in run(*plan, cwd=checkout).stdout
    later = done.stat().st_mtime + 1
    os.utime(checkout / name, (later, later))
    assert "bash tools/setup.sh" in run(*plan, cwd=checkout).stdout


def test_stops_without_a_python_and_names_step_remedy_and_log(checkout):
    (checkout / "tools/no-python").symlink_to(shutil.which("false"))
    stopped = run("make", "setup", "PYTHON=tools/no-python", cwd=checkout)
    assert stopped.returncode != 0
    assert stopped.stderr.startswith("setup: step 'Python' failed\n")
    for words in ("3.10 or newer", "make setup PYTHON=", "build/setup.log"):
        assert words in stopped.stderr
    assert "is ready" not in stopped.stdout
    assert not (checkout / ".venv").exists()


def test_installs_extras_that_exist_at_pinned_versions():
    (extras,) = re.findall(r"--constraint constraints\.txt --editable \"\.\[(.*)\]\"", SCRIPT)
    assert {"ffcv", "detection", "export", "dev"} == set(extras.split(",")) <= EXTRAS.keys()
