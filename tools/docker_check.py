"""Build the Dockerfile without a Docker engine, and try what it makes: ``make docker-check``.

buildah reads a Dockerfile as Docker does and runs its instructions in chroots. Only the base image
is another: debootstrap makes the same release of Debian with the Python that it ships. What comes
out is then used as its user would: the help, the smoke command of the Dockerfile's head, the
quickstart for some steps, and some of the tests.

Needs root, 40 GB of disk for a while, and ``apt-get install buildah debootstrap``. pip inside goes
by the settings of pip outside.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/docker-check"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGE = "eca-lightning"
QUICKSTART = "--config configs/quickstart.yaml --config configs/trainer/cpu.yaml"
A_FEW_STEPS = "--trainer.max_steps 20 --trainer.val_check_interval 10 --trainer.limit_val_batches 2"
TESTS = "tests/attention/test_eca.py tests/data/ffcv/test_crop_decode.py tests/test_cli.py"
TEST_PACKAGES = "pytest pytest-timeout"


def main() -> None:
    """Lint, build and try, and tell how long each took."""
    missing = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    if missing or os.geteuid():
        sys.exit(f"docker-check runs as root and needs: apt-get install {' '.join(missing)}")
    with step("hadolint"):
        subprocess.run([Path(sys.executable).with_name("hadolint"), "Dockerfile"], check=True)
    clean()
    try:
        with step("the base image's stand-in"):
            make_base()
        settings, volumes = pip_of_this_machine()
        secret = ["--secret", f"id=pip,src={settings}"]
        with step("the image"):
            options = ["--pull=never", "--format", "docker", "--isolation", "chroot"]
            buildah("build", *options, *secret, *volumes, "--tag", IMAGE, ".")
        try_out([*volumes, "--volume", f"{settings}:/etc/pip.conf:ro"])
    finally:
        clean()
    print("docker-check: passed")


def make_base() -> None:
    """Tag a Debian with its Python as the image that the Dockerfile starts from."""
    found = re.search(r"^FROM (python:([\d.]+)-slim-(\w+)) ", DOCKERFILE, re.MULTILINE)
    if found is None:
        sys.exit("docker-check: the Dockerfile does not start FROM python:X.Y-slim-RELEASE")
    image, python, release = found.groups()
    container = answer("from", "scratch")
    packages = "--include=ca-certificates,python-is-python3,python3-dev,python3-venv"
    root = answer("mount", container)
    subprocess.run(["debootstrap", "--variant=minbase", packages, release, root], check=True)
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    shipped = answer("run", "--isolation", "chroot", container, "--", "python", "--version")
    if not shipped.startswith(f"Python {python}."):
        sys.exit(f"docker-check: Debian {release} ships {shipped}, no stand-in for {image}")
    buildah("commit", "--rm", container, image)


def try_out(pip_volumes: list[str]) -> None:
    """Use the image as its user would."""
    container = answer("from", "--pull-never", IMAGE)
    config = json.loads(answer("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
    [smoke] = re.findall(rf"^#   docker run .*? {IMAGE} (.+)", DOCKERFILE, re.MULTILINE)[:1]

    def inside(command: str, *options: str) -> None:
        options = ("--isolation", "chroot", *options)
        buildah("run", *options, container, "--", *shlex.split(command))

    def program(arguments: str) -> None:
        inside(shlex.join(config["Entrypoint"]) + " " + arguments)

    with step("its help"):
        program("--help")
    with step("its smoke command"):
        program(smoke)
    with step("no root, no headers"):
        inside("sh -c 'test $(id -u) = 1000 && ! dpkg --status libopencv-dev 2>/dev/null'")
    with step("the quickstart for 20 steps"):
        # Beyond here the container has what its image has not: data, and tools for tests.
        inside("apt-get update --quiet=2", "--user", "root")
        inside("apt-get install --quiet=2 dataset-fashion-mnist", "--user", "root")
        program("data write fashion-mnist")
        program(f"fit {QUICKSTART} {A_FEW_STEPS}")
    with step("tests"):
        constraints = ["--volume", f"{ROOT}/constraints.txt:/constraints.txt:ro"]
        install = f"pip install --quiet --constraint /constraints.txt {TEST_PACKAGES}"
        inside(install, "--user", "root", *pip_volumes, *constraints)
        checkout = [f"{ROOT}/{name}:/workspace/{name}:ro" for name in ("tests", "pyproject.toml")]
        volumes = [word for volume in checkout for word in ("--volume", volume)]
        inside(f"pytest -p no:cacheprovider --timeout 1200 {TESTS}", *volumes)


def pip_of_this_machine() -> tuple[Path, list[str]]:
    """The settings of pip in one file, and mounts of the files and folders that these name."""
    settings = WORK / "pip.conf"
    pip = [sys.executable, "-m", "pip"]
    shown = subprocess.run([*pip, "config", "list"], check=True, capture_output=True, text=True)
    options, volumes = {}, []
    for line in sorted(shown.stdout.splitlines(), reverse=True):  # the environment's come last
        name, _, value = line.partition("=")
        options[name.split(".")[-1]] = ast.literal_eval(value)
    for word in " ".join(options.values()).split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # An index in a folder refers to files beside itself.
            path = path.parent if word.startswith("file://") else path
            volumes += ["--volume", f"{path}:{path}:ro"]
    lines = [f"{name} = {value}" for name, value in options.items()]
    settings.write_text("\n".join(["[global]", *lines, ""]))
    return settings, volumes


def buildah(*arguments: str, capture: bool = False) -> str:
    """Run a command of buildah, which keeps everything in the folder of this check."""
    command = ["buildah", "--root", f"{WORK}/storage", "--runroot", f"{WORK}/run", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": f"{WORK}/tmp"},
        check=True,
        text=True,
        stdout=subprocess.PIPE if capture else None,
    )
    return (done.stdout or "").strip()


def answer(*arguments: str) -> str:
    """What a command of buildah prints."""
    return buildah(*arguments, capture=True)


def clean() -> None:
    """Remove all that a check leaves, mounts first."""
    if WORK.exists():
        buildah("rm", "--all")
        shutil.rmtree(WORK)
    (WORK / "tmp").mkdir(parents=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    print(f"docker-check: {name} ...", flush=True)
    begin = time.monotonic()
    yield
    print(f"docker-check: {name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
