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
    assert asked["signal"] == "B:USR1@120"  # to the script, which is there from the start


@pytest.mark.parametrize("nodes", [1, 4])
def test_train_tells_the_program_what_slurm_gave(slurm, understood, monkeypatch, nodes):
    job = slurm("train")
    arguments = job.run(*RUN, SLURM_JOB_NUM_NODES=str(nodes))
    [call] = job.calls("srun")
    assert call.startswith("--cpus-per-task=12 --kill-on-bad-exit=1 bash -c")
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
    assert "--nodes=4 --ntasks=4 --ntasks-per-node=1 bash -c" in copy
    assert "bash deploy/stage_betons.sh" in copy
    assert "eca-lightning fit" in train
    assert (scratch / "train.beton").read_text() == "images"
    assert config["data"]["init_args"]["root"] == str(scratch)


def test_train_does_not_start_without_its_data(slurm, tmp_path):
    job = slurm("train")
    started = job.start(*RUN, DATA=str(tmp_path), SCRATCH=str(tmp_path / "scratch"))
    assert started.wait(timeout=60) == 2
    assert len(job.calls("srun")) == 1
    assert not (tmp_path / "arguments").exists()


def test_compare_trains_the_cell_of_its_array_index(slurm, understood):
    grid = "configs/ablation/fashion_mnist_kernel.yaml"
    arguments = slurm("compare").run(grid, "--output", "runs/k", SLURM_ARRAY_TASK_ID="3")
    assert arguments == ["compare", grid, "--output", "runs/k", "--cell", "3"]
    understood(arguments)


ARRAY = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3"}
"""The last job of an array has its number, which alone would stand for all of the array's jobs."""


@pytest.mark.parametrize(("variables", "number"), [({}, "4711"), (ARRAY, "4711_3")])
def test_a_signal_to_the_script_ends_the_step_and_requeues_the_job(
    slurm, tmp_path, variables, number
):
    job = slurm("compare" if variables else "train")
    job.stub("eca-lightning", "touch training; exec sleep 30")  # it does not listen yet
    strip = 'while [ "${1#--}" != "$1" ]; do shift; done'
    job.stub("srun", f'{strip}; setsid "$@" & echo $! > group; wait $!')
    job.stub("scancel", 'echo "$*" >> scancel.calls; kill -USR1 "-$(cat group)"')
    started = job.start("a.yaml", **variables)
    while not (tmp_path / "training").exists():
        assert started.poll() is None
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGUSR1)
    assert started.wait(timeout=20) == 0
    assert job.calls("scancel") == [f"--signal=USR1 {number}"]
    assert job.calls("scontrol") == [f"requeue {number}"]


def test_a_signal_before_the_first_step_requeues_the_job(slurm, tmp_path):
    job = slurm("train")
    source = (ROOT / "deploy/slurm/step.sh").read_text()
    (tmp_path / "deploy").unlink()
    (tmp_path / "deploy/slurm").mkdir(parents=True)
    (tmp_path / "deploy/slurm/step.sh").write_text(source + "\nkill -USR1 $$\n")
    job.stub("scancel", "exit 1")
    assert job.start(*RUN).wait(timeout=20) == 0
    assert job.calls("scontrol") == ["requeue 4711"]
    assert not (tmp_path / "srun.calls").exists()


@pytest.mark.parametrize(
    ("ends", "attempts", "status", "requeued"),
    [
        ("exit 0", 1, 0, False),
        ("exit 2", 1, 2, False),
        ("exit 138", 1, 0, True),  # a rank has got SIGUSR1
        ("kill -USR1 $$", 1, 0, True),  # before it listened
        ("kill -KILL $$", 4, 137, False),
        ("exit 1", 4, 1, False),
        ('[ "$(grep -c cpus srun.calls)" = 3 ] || exit 1', 3, 0, False),
    ],
)
def test_a_step_is_tried_again_unless_it_is_done_or_its_input_is_bad(
    slurm, tmp_path, ends, attempts, status, requeued
):
    job = slurm("train")
    job.stub("sleep", "exec /bin/sleep 0.05")
    job.stub("eca-lightning", ends)
    assert job.start(*RUN).wait(timeout=60) == status
    assert sum("--cpus-per-task" in call for call in job.calls("srun")) == attempts
    assert (tmp_path / "scontrol.calls").exists() == requeued


@pytest.mark.slow
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
