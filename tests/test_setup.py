"""Set-up, on a machine of stubs: each command writes down how it was called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLAIN_TOOLS = ["bash", "cat", "chmod", "dirname", "env", "id", "ln", "make", "mkdir", "sed", "sh"]
PLAIN_TOOLS += ["tail", "touch"]


FILES = ["Makefile", "pyproject.toml", "setup.py", "constraints.txt", "tools/setup.sh"]


class Machine:
    """A checkout, and a PATH that holds nothing but plain tools and stubs."""

    def __init__(self, folder):
        self.checkout, self.bin = folder / "checkout", folder / "bin"
        self.calls = folder / "calls"
        (self.checkout / "tools").mkdir(parents=True)
        self.bin.mkdir()
        for name in FILES:
            shutil.copyfile(ROOT / name, self.checkout / name)
        for name in PLAIN_TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        for name in ["c++", "pkg-config", "dpkg-query", "apt-get"]:
            self.stub(name)
        self.stub("sudo", '"$@"')
        # The stub of venv makes another stub, of the interpreter inside .venv.
        self.stub("venv-python", 'case "$*" in *install*) exit "${PIP_STATUS:-0}" ;; esac')
        self.stub(
            "python3",
            'case "$*" in',
            "  *version_info*) echo 3.11 ;;",
            f'  "-m venv"*) mkdir -p .venv/bin && cat {self.bin}/venv-python > .venv/bin/python',
            "    chmod +x .venv/bin/python ;;",
            "esac",
        )

    def stub(self, name, *lines):
        file = self.bin / name
        file.write_text("\n".join(["#!/bin/sh", f'echo "{name} $*" >> {self.calls}', *lines, ""]))
        file.chmod(0o755)

    def setup(self, **environment):
        self.calls.write_text("")
        return subprocess.run(
            ["make", "setup"],
            cwd=self.checkout,
            env={"PATH": str(self.bin), "LC_ALL": "C", **environment},
            text=True,
            capture_output=True,
            timeout=60,
        )

    def called(self, word):
        return [call for call in self.calls.read_text().splitlines() if word in call]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def assert_stopped(result, step, *words):
    assert result.returncode != 0
    assert result.stderr.startswith(f"setup: step '{step}' failed\n")
    for word in [*words, "build/setup.log"]:
        assert word in result.stderr
    assert "is ready" not in result.stdout


def test_installs_with_the_constraints_and_only_once(machine):
    first = machine.setup()
    assert first.returncode == 0, first.stderr
    [install] = machine.called("--editable")
    assert install.endswith("--constraint constraints.txt --editable .[ffcv,detection,export,dev]")
    assert not machine.called("apt-get")
    second = machine.setup()
    assert second.stdout == "setup: .venv is ready\n"
    assert machine.calls.read_text() == ""


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "constraints.txt"])
def test_goes_again_when_the_requirements_change(machine, name):
    machine.setup()
    later = (machine.checkout / ".venv/.setup-complete").stat().st_mtime + 1
    os.utime(machine.checkout / name, (later, later))
    assert machine.setup().returncode == 0
    assert machine.called("--editable")
    assert not machine.called("-m venv")


def test_stops_for_an_old_python(machine):
    machine.stub("python3", "echo 3.9", "exit 1")
    remedy = "make setup PYTHON="
    assert_stopped(machine.setup(), "Python", "3.10 or newer; python3 is 3.9", remedy)


def test_stops_without_a_python(machine):
    (machine.bin / "python3").unlink()
    assert_stopped(machine.setup(), "Python", "python3 is not a Python that runs", "not found")


def test_installs_what_is_missing_after_an_update(machine):
    (machine.bin / "c++").rename(machine.bin / "packaged")
    machine.stub("dpkg-query", "exit 1")
    machine.stub("apt-get", f'case "$*" in *g++*) ln -s packaged {machine.bin}/c++ ;; esac')
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    update, packages, images = [call for call in machine.called("apt-get") if "sudo" not in call]
    assert update == "apt-get update"
    assert packages.endswith("install --yes --no-install-recommends g++")
    assert images.endswith("install --yes --no-install-recommends dataset-fashion-mnist")


def test_stops_when_apt_get_fails(machine):
    machine.stub("pkg-config", "exit 1")
    machine.stub("apt-get", 'echo "E: no space left"', "exit 100")
    remedy = "apt-get update && apt-get install libopencv-dev libturbojpeg0-dev libjpeg-dev"
    assert_stopped(machine.setup(), "system packages", remedy, "E: no space left")
    assert not machine.called("-m venv")


def test_stops_without_apt_get_and_names_what_to_install(machine):
    (machine.bin / "apt-get").unlink()
    (machine.bin / "c++").unlink()
    words = ["without: g++", "Fedora", "ImageFolderDataModule"]
    assert_stopped(machine.setup(), "system packages", *words)


def test_stops_when_installed_libraries_are_not_found(machine):
    machine.stub("pkg-config", "exit 1")
    stopped = machine.setup()
    assert machine.called("install --yes --no-install-recommends libopencv-dev")
    assert_stopped(stopped, "system packages", "installed, but not found: libopencv-dev")


def test_goes_on_without_the_package_of_images(machine):
    machine.stub("dpkg-query", "exit 1")
    machine.stub("apt-get", "exit 100")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "warning: no dataset-fashion-mnist" in done.stdout


def test_stops_when_there_is_no_virtual_environment(machine):
    machine.stub("python3", 'case "$*" in *version_info*) echo 3.11 ;; "-m venv"*) exit 1 ;; esac')
    assert_stopped(machine.setup(), "virtual environment", "make setup PYTHON=")


def test_stops_when_pip_fails_and_goes_again(machine):
    assert_stopped(machine.setup(PIP_STATUS="1"), "Python packages", "make setup")
    assert machine.setup().returncode == 0
    assert machine.called("--editable")
