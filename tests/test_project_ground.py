"""What stands under the package: make, pinned versions, workflows and hooks."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from eca_lightning.data.ffcv import crop_decode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ["3.10", "3.11", "3.12"]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
JOBS = WORKFLOW["jobs"]
BROUGHT_BY_EXTRAS = ["cv2", "faster_coco_eval", "ffcv", "huggingface_hub", "ipykernel", "msgspec"]
BROUGHT_BY_EXTRAS += ["nbclient", "numba", "onnx", "onnxruntime", "onnxscript", "pyarrow"]
BROUGHT_BY_EXTRAS += ["pycocotools", "safetensors", "timm"]


def run_make(*arguments, cwd=ROOT):
    # Nothing else of this environment: a make above this one would hand its own flags on.
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, text=True, capture_output=True, timeout=60
    )


def requirements():
    """Every requirement of the project itself and of its extras, but not those on itself."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def pins(python):
    """What constraints.txt allows under a Python, by name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    active = [
        pin for pin in found if not pin.marker or pin.marker.evaluate({"python_version": python})
    ]
    assert len({pin.name for pin in active}) == len(active), "a name is pinned twice"
    return {pin.name: pin.specifier for pin in active}


# make


def test_help_is_the_default_and_lists_every_target():
    shown = run_make()
    assert shown.returncode == 0
    assert shown.stdout == run_make("help").stdout
    assert re.findall(r"^make ([\w-]+) +\S", shown.stdout, re.MULTILINE) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned(target):
    planned = run_make("--dry-run", target)
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize("name", [".ci/run", "CONTRIBUTING.md", "README.md", "data/README.md"])
def test_make_targets_that_are_written_about_exist(name):
    text = (ROOT / name).read_text()
    mentioned = re.findall(r"(?:^|`)make\s+([\w-]+)", text, re.MULTILINE)
    assert mentioned
    assert set(mentioned) <= set(TARGETS)


def test_clean_keeps_data_and_runs(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = [tmp_path / "data/train.beton", tmp_path / "runs/quickstart/best.ckpt"]
    removed = [tmp_path / ".venv/bin/python", tmp_path / "tests/__pycache__/a.pyc"]
    for file in [*kept, *removed, tmp_path / "eca_lightning/a.py", tmp_path / "tools/a.sh"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert run_make("clean", cwd=tmp_path).returncode == 0
    assert all(file.exists() for file in kept)
    assert not any(file.exists() for file in removed)


def quickstart(folder, *, fit="true"):
    """Run the quickstart with a stub of the program and two runs, of which version_1 is newer."""
    for name in ["Makefile", "pyproject.toml", "setup.py", "constraints.txt", "tools/setup.sh"]:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    program = folder / ".venv/bin/eca-lightning"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "called $*"\ncase $1 in fit) {fit} ;; esac\n')
    program.chmod(0o755)
    for age, version in enumerate(["version_1", "version_10", "version_0"]):
        best = folder / "runs/quickstart" / version / "checkpoints/best.ckpt"
        best.parent.mkdir(parents=True)
        best.touch()
        os.utime(best, (1e9 - age, 1e9 - age))
    (folder / ".venv/.setup-complete").touch()
    return run_make("quickstart", cwd=folder)


def test_quickstart_validates_the_best_of_the_newest_run_and_says_where_it_lies(tmp_path):
    done = quickstart(tmp_path)
    assert done.returncode == 0, done.stderr
    config = "--config configs/quickstart.yaml"
    best = "runs/quickstart/version_1/checkpoints/best.ckpt"
    assert re.findall("^called (.*)", done.stdout, re.MULTILINE) == [
        "data write fashion-mnist",
        f"fit {config}",
        f"validate {config} --ckpt_path {best}",
    ]
    assert done.stdout.splitlines()[-3:] == [
        "  the run     runs/quickstart/version_1",
        f"  its best    {best}",
        "  its curves  .venv/bin/tensorboard --logdir runs",
    ]


def test_quickstart_stops_when_the_training_fails(tmp_path):
    stopped = quickstart(tmp_path, fit="exit 3")
    assert stopped.returncode != 0
    assert "validate" not in stopped.stdout


def test_the_ci_script_can_be_executed():
    assert os.access(ROOT / ".ci/run", os.X_OK)


# Versions


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_every_requirement_to_a_version_it_allows(python):
    pinned = pins(python)
    for requirement in requirements():
        [pin] = pinned[requirement.name]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), requirement


def test_constraints_are_exact_sorted_and_fit_any_platform():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    line_format = r'[a-z0-9-]+==[\w.]+( ; python_version (<|>=) "3\.\d+")?'
    assert all(re.fullmatch(line_format, line) for line in lines)
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(names)
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_resolutions_of_two_pythons_become_one_list():
    merge = runpy.run_path(str(ROOT / "tools/constraints.py"))["merge"]
    older = {"numpy": "2.2", "rich": "15.0", "tomli": "2.5", "nvidia-nvtx": "13.0"}
    newer = {"numpy": "2.4", "rich": "15.0", "attrs": "26.1", "eca-lightning": "0.1.0"}
    assert merge(older, newer, "3.11") == [
        'attrs==26.1 ; python_version >= "3.11"',
        'numpy==2.2 ; python_version < "3.11"',
        'numpy==2.4 ; python_version >= "3.11"',
        "rich==15.0",
        'tomli==2.5 ; python_version < "3.11"',
    ]


def test_torch_is_pinned_to_what_the_makefile_holds():
    held = re.search(r"^TORCH \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(held[1].split()) <= set(constraints)


# Workflows and hooks


def steps(job, key):
    return [step[key] for step in JOBS[job]["steps"] if key in step]


@pytest.mark.parametrize("job", JOBS)
def test_actions_are_pinned_by_major_version(job):
    assert steps(job, "uses")
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in steps(job, "uses"))


def test_workflow_runs_the_tests_on_the_oldest_python_and_lint():
    assert "make test" in steps("tests", "run")
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest in JOBS["tests"]["strategy"]["matrix"]["python"]
    assert steps("lint", "run") == ["make lint"]


@pytest.mark.slow
def test_core_job_installs_no_extra_and_imports_all_but_what_reads_data():
    install, imports, program = steps("core", "run")
    assert install == "pip install . -c constraints.txt"
    assert program.split()[0] in PROJECT["scripts"]
    hide = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    hide += f"sys.modules.update(dict.fromkeys({BROUGHT_BY_EXTRAS}))\n"
    report = "print(*[name for name in sys.modules if name.split('.')[0] == 'eca_lightning'])"
    code = hide + re.search("'(.*)'", imports, re.DOTALL)[1] + report
    shown = subprocess.check_output([sys.executable, "-I", "-c", code], text=True)
    files = [file.relative_to(ROOT) for file in (ROOT / "eca_lightning").rglob("*.py")]
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    not_imported = modules - set(shown.split())
    not_imported -= {f"eca_lightning.detection.{name}" for name in ("coco_json", "segmentations")}
    assert all(module.startswith("eca_lightning.data.") for module in not_imported), not_imported


def test_hooks_use_the_ruff_of_the_constraints():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [revision] = [
        repo["rev"] for repo in hooks["repos"] if repo["repo"].endswith("ruff-pre-commit")
    ]
    assert pins("3.12")["ruff"].contains(revision.removeprefix("v"))


def test_set_up_built_the_crop_decoder():
    """It is optional for users; here its tests must not be skipped unnoticed."""
    headers = subprocess.run(["pkg-config", "--exists", "libjpeg"], check=False)
    assert headers.returncode != 0 or not crop_decode.unavailable_reason()
