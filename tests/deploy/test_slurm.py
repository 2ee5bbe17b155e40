"""The sbatch scripts, run with stubs in the place of Slurm: what they ask for and start."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from eca_lightning.compare.grid import read_grid

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in (ROOT / "deploy/slurm").glob("*.sbatch")}
RUN = ["--config", "configs/imagenet/resnet50_paper.yaml"]
RUN += ["--config", "configs/trainer/gpu8.yaml", "--data.batch_size", "8"]


def directives(name):
    """What a script asks for. Slurm reads these lines up to the first command."""
    head = SCRIPTS[name].read_text().partition("\nset ")[0]
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", head, re.MULTILINE)
    assert len(found) == SCRIPTS[name].read_text().count("#SBATCH")
    return dict(found)


def examples(name):
    """The command lines in a script's first comment, without sbatch's own part."""
    lines = re.findall(r"^#   sbatch (.*)", SCRIPTS[name].read_text(), re.MULTILINE)
    return [shlex.split(line.partition(f"deploy/slurm/{name}.sbatch ")[2]) for line in lines]


class Slurm:
    """A checkout and a PATH on which srun runs one task, after writing down how it was called."""

    def __init__(self, folder, name):
        self.folder, self.name, self.bin = folder, name, folder / "bin"
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/bin/activate").touch()
        (folder / "deploy").symlink_to(ROOT / "deploy")
        self.bin.mkdir()
        strip = 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'
        self.stub("srun", f'printf "%s\\n" "$*" >> srun.calls; {strip}')
        self.stub("scontrol", 'printf "%s\\n" "$*" >> scontrol.calls')
        self.stub("eca-lightning", 'printf "%s\\n" "$@" > arguments')

    def stub(self, name, command):
        (self.bin / name).write_text(f"#!/bin/sh\n{command}\n")
        (self.bin / name).chmod(0o755)

    def environment(self, **variables):
        asked = directives(self.name)
        return {
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": asked["nodes"],
            "SLURM_NTASKS_PER_NODE": asked["ntasks-per-node"],
            "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
            **variables,
        }

    def start(self, *arguments, **variables):
        return subprocess.Popen(
            ["bash", str(SCRIPTS[self.name]), *arguments],
            cwd=self.folder,
            env={"PATH": f"{self.bin}:/usr/bin:/bin"} | self.environment(**variables),
            start_new_session=True,
        )

    def run(self, *arguments, **variables):
        assert self.start(*arguments, **variables).wait(timeout=60) == 0
        return (self.folder / "arguments").read_text().splitlines()

    def calls(self, name):
        return (self.folder / f"{name}.calls").read_text().splitlines()


@pytest.fixture
def slurm(tmp_path):
    return lambda name: Slurm(tmp_path, name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_directives_ask_for_a_task_a_gpu_and_for_a_warning_before_the_end(name):
    asked = directives(name)
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert {"requeue", "cpus-per-task", "time"} <= asked.keys()
    assert asked["open-mode"] == "append"  # a requeue must not empty the log
    # Ranks listen themselves. A comparison does not, so that its script must: hence B:.
    assert asked["signal"] == {"train": "USR1@120", "compare": "B:USR1@120"}[name]


@pytest.mark.parametrize("nodes", [1, 4])
def test_train_tells_the_program_what_slurm_gave(slurm, understood, monkeypatch, nodes):
    job = slurm("train")
    arguments = job.run(*RUN, SLURM_JOB_NUM_NODES=str(nodes))
    [call] = job.calls("srun")
    assert call.startswith("--cpus-per-task=12 --kill-on-bad-exit=1 eca-lightning fit")
    config = understood(arguments)
    assert config["data"]["init_args"]["root"] == "data/imagenet"
    assert config["data"]["init_args"]["batch_size"] == 8
    assert config["ckpt_path"] == "auto"
    trainer = config["trainer"]
    assert trainer["logger"]["init_args"]["version"] == "job_4711"
    for name, value in job.environment(SLURM_NNODES=str(nodes)).items():
        monkeypatch.setenv(name, value)
    SLURMEnvironment().validate_settings(int(trainer["devices"]), trainer["num_nodes"])


def test_train_goes_on_from_a_checkpoint_of_ones_own(slurm, understood):
    assert understood(slurm("train").run(*RUN, "--ckpt_path", "a.ckpt"))["ckpt_path"] == "a.ckpt"


def test_train_copies_the_data_to_each_node_first(slurm, understood, tmp_path):
    source, scratch = tmp_path / "imagenet", tmp_path / "scratch/imagenet"
    source.mkdir()
    (source / "train.beton").write_text("images")
    job = slurm("train")
    variables = {"DATA": str(source), "SCRATCH": str(scratch), "SLURM_JOB_NUM_NODES": "4"}
    config = understood(job.run(*RUN, **variables))
    copy, train = job.calls("srun")
    assert copy.startswith("--nodes=4 --ntasks=4 --ntasks-per-node=1 bash deploy/stage_betons.sh")
    assert "eca-lightning fit" in train
    assert (scratch / "train.beton").read_text() == "images"
    assert config["data"]["init_args"]["root"] == str(scratch)


def test_train_does_not_start_without_its_data(slurm, tmp_path):
    job = slurm("train")
    started = job.start(*RUN, DATA=str(tmp_path), SCRATCH=str(tmp_path / "scratch"))
    assert started.wait(timeout=60) == 1
    assert not (tmp_path / "arguments").exists()


def test_compare_trains_the_cell_of_its_array_index(slurm, understood):
    grid = "configs/ablation/fashion_mnist_kernel.yaml"
    arguments = slurm("compare").run(grid, "--output", "runs/k", SLURM_ARRAY_TASK_ID="3")
    assert arguments == ["compare", grid, "--output", "runs/k", "--cell", "3"]
    understood(arguments)


def test_compare_requeues_its_job_on_the_signal(slurm, tmp_path):
    job = slurm("compare")
    job.stub("eca-lightning", "touch training; exec sleep 30")
    started = job.start("grid.yaml", SLURM_ARRAY_TASK_ID="3")
    while not (tmp_path / "training").exists():
        assert started.poll() is None
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGUSR1)
    assert started.wait(timeout=20) != 0
    os.killpg(started.pid, signal.SIGKILL)  # the training; Slurm would end it
    assert job.calls("scontrol") == ["requeue 4711"]


def test_examples_are_understood(understood):
    assert len(examples("train")) == 2
    for arguments in examples("train"):
        understood(["fit", *arguments])


def test_the_example_of_compare_has_as_many_jobs_as_cells(understood, monkeypatch):
    monkeypatch.chdir(ROOT)
    [[grid]] = examples("compare")
    understood(["compare", grid])
    cells = read_grid(Path(grid)).cells(Path("runs"))
    assert f"--array=0-{len(cells) - 1} " in SCRIPTS["compare"].read_text()
