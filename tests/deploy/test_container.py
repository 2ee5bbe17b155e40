"""The Dockerfile, as far as it can be judged without building it; `make docker-check` does that."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = [*ROOT.glob("deploy/**/*.sh"), *ROOT.glob("deploy/**/*.sbatch"), *ROOT.glob("tools/*.sh")]


def run_tool(name, *arguments):
    """Run a linter, which set-up installs beside this interpreter."""
    tool = Path(sys.executable).with_name(name)
    return subprocess.run([tool, *arguments], cwd=ROOT, text=True, capture_output=True, timeout=60)


def test_hadolint_finds_nothing():
    assert run_tool("hadolint", "Dockerfile").stdout == ""


def test_hadolint_would_find_something(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\n")
    assert "DL3006" in run_tool("hadolint", tmp_path / "Dockerfile").stdout


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    assert run_tool("shellcheck", script).stdout == ""


def test_every_installation_is_pinned_and_cached():
    installs = re.findall(r"^RUN (?:.*\\\n)* *pip install .*", DOCKERFILE, re.MULTILINE)
    assert len(installs) == DOCKERFILE.count("pip install")
    for install in installs:
        assert "--constraint constraints.txt" in install
        assert "--mount=type=cache,target=/root/.cache/pip" in install
    extras = re.search(r'"\.\[(.*)\]"', DOCKERFILE)[1].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


def test_the_parts_that_the_build_tries_exist():
    (tried,) = re.findall(r'^RUN python -c "(.*?)"$', DOCKERFILE, re.MULTILINE | re.DOTALL)
    exec(tried.replace("\\\n", ""), {})


def test_the_image_describes_the_project():
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', DOCKERFILE))
    assert labels["title"] == PROJECT["name"]
    assert labels["description"] == PROJECT["description"]
    assert labels["version"] == PROJECT["version"]
    assert labels["licenses"] == PROJECT["license"]
    [program] = PROJECT["scripts"]
    assert f'\nENTRYPOINT ["{program}"]\n' in DOCKERFILE


def test_what_is_copied_is_sent_to_the_builder():
    sent = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in sent)
    copied = re.findall(r"^COPY (?!--)(\S+) ", DOCKERFILE, re.MULTILINE)
    assert set(copied) <= {*sent, "."}
    needed = ["pyproject.toml", "setup.py", "eca_lightning", PROJECT["readme"]]
    assert {*needed, *PROJECT["license-files"]} <= set(sent)


def test_commands_of_the_head_comment_are_understood(understood):
    head = DOCKERFILE.partition("\nFROM ")[0].replace("\\\n#", "")
    commands = re.findall(r"docker run .* eca-lightning (.*)", head)
    assert len(commands) == 2
    for command in commands:
        understood(shlex.split(command))
