"""The sbatch scripts on a real Slurm of two nodes, submitted as users do, and disturbed.

    sudo python tests/contracts/slurm_jobs.py

A run over both nodes is stopped in every way that a cluster knows and must go on by itself, to end
with the weights, to the bit, of one that was left alone. Runs that are done, cancelled or given bad
input must not come back. It prints how long it took until training went on after each event.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from noise_run import write_run
from private_slurm import CREDENTIAL_SECONDS, private_slurm, run_inside, slurm

from eca_lightning.training.checkpoint_io import read_checkpoint

ROOT = Path(__file__).parents[2]
STEPS_AN_EPOCH, EPOCHS = 120, 3
SECONDS_A_STEP = 0.15
"""Of the runs that are disturbed."""
SLOW_START = 45
"""Seconds, longer than Slurm takes to notice that a job's time is over."""
PATIENCE = 300
"""Seconds for anything."""

_started = time.monotonic()


def say(what):
    print(f"{time.monotonic() - _started:7.1f} s  {what}", flush=True)


def wait_until(condition, what, patience=PATIENCE):
    """Wait for a condition; return how many seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + patience:
            raise SystemExit(f"slurmtest: waited {patience} s for this: {what}")
        time.sleep(0.2)
    return time.monotonic() - start


def require(true, what):
    if not true:
        raise SystemExit(f"slurmtest: not so: {what}")


class Job:
    """A job that was submitted; of an array, one of its tasks."""

    def __init__(self, number, log, checkpoint):
        self.number, self.log_file, self.checkpoint = number, log, checkpoint

    def field(self, name):
        """A field of what Slurm says about it."""
        shown = slurm("scontrol", "show", "job", self.number, "--oneliner")
        return dict(part.partition("=")[::2] for part in shown.split())[name]

    @property
    def state(self):
        return self.field("JobState")

    def log(self):
        return self.log_file.read_text() if self.log_file.exists() else ""

    def step(self):
        """The step of its checkpoint; 0 if there is none yet."""
        return read_checkpoint(self.checkpoint)["global_step"] if self.checkpoint.exists() else 0

    def trains_from(self, step):
        """Wait until it has trained beyond a step."""
        wait_until(lambda: self.step() > step, f"job {self.number} trains beyond step {step}")

    def set_time_limit(self, minutes):
        slurm("scontrol", "update", f"JobId={self.number}", f"TimeLimit={minutes}")

    def ends(self, state, restarts):
        """Wait for its end, and see that it was restarted so often, and does not come back."""
        wait_until(lambda: self.state not in ("PENDING", "RUNNING", "COMPLETING"), "the end")
        found = self.state, int(self.field("Restarts"))
        require(found == (state, restarts), f"job {self.number}: {found} is {(state, restarts)}")


def submit(folder, script, *arguments, name="job", options=(), **variables):
    """Submit a script from the checkout; return the job's number."""
    return subprocess.run(
        ["sbatch", "--parsable", f"--output={folder}/{name}-%j.out", *options, script, *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()


def train(folder, *arguments, options=(), **variables):
    """Submit a run over both nodes, a rank each, whose data are copied to the nodes first."""
    each = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1"]
    number = submit(
        folder,
        "deploy/slurm/train.sbatch",
        *("--config", str(folder / "run.yaml")),
        *("--data.train", "train.beton", "--data.val", "val.beton", *arguments),
        options=[*each, *options],
        DATA=str(folder),
        SCRATCH=str(folder / "scratch"),
        **variables,
    )
    checkpoint = folder / "run" / f"job_{number}" / "checkpoints" / "last.ckpt"
    return Job(number, folder / f"job-{number}.out", checkpoint)


def disturb(job, what, act, restarts, took):
    """Do something to a job that trains; see that it goes on, and how long that takes."""
    job.trains_from(job.step() + 6)
    starts = job.log().count("Restored all states")
    act()
    start = time.monotonic()
    wait_until(lambda: job.log().count("Restored all states") > starts, f"after {what}: a resume")
    job.trains_from(job.step())
    took[what] = time.monotonic() - start
    require(int(job.field("Restarts")) == restarts, f"after {what}: {restarts} requeues")
    say(f"{what}: trains again after {took[what]:.0f} s, from step {job.step()}")


def end_its_time(job):
    """Have the job's limit of time come near; wait for Slurm's signal, and give it more time."""
    hours, minutes, _ = map(int, job.field("RunTime").split(":"))
    job.set_time_limit(60 * hours + minutes + 2)  # less than the two minutes before which it comes
    said = job.log().count("SIGUSR1: job")
    wait_until(lambda: job.log().count("SIGUSR1: job") > said, "Slurm's signal")
    wait_until(lambda: job.state == "PENDING", "a requeue")
    job.set_time_limit(60)


def lose_a_node(job):
    slurm("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=slurmtest")
    wait_until(lambda: job.state == "PENDING", "a requeue")
    slurm("scontrol", "update", "NodeName=n2", "State=RESUME")


def kill_the_step(job):
    steps = slurm("squeue", "--noheader", "--steps", f"--jobs={job.number}", "--format=%i").split()
    last = max(
        (step for step in steps if step.rpartition(".")[2].isdigit()),
        key=lambda s: int(s.rpartition(".")[2]),
    )
    slurm("scancel", last)


def kill_a_rank(job):
    """As the kernel does where memory is short."""
    listed = slurm("pgrep", "--full", f"python.*eca-lightning fit.*job_{job.number}").split()
    os.kill(int(listed[-1]), signal.SIGKILL)


def alike(one, other):
    """See that two checkpoints agree to the bit."""
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    for key in ("global_step", "state_dict", "optimizer_states"):
        torch.testing.assert_close(second[key], first[key], rtol=0, atol=0)


def long_run(folder, took):
    """Disturb a run in every way, beside one that is left alone."""
    alone = train(folder)
    say(f"{EPOCHS} epochs of {STEPS_AN_EPOCH} steps on two nodes, left alone")
    alone.ends("COMPLETED", 0)
    slow = ["--config", str(folder / "slow.yaml")]
    job = train(folder, *slow, options=["--time=2"])
    say("the same run, but slower, and so slow to start that its time is over before it trains")
    wait_until(lambda: "SIGUSR1: job" in job.log(), "Slurm's signal")
    start = time.monotonic()
    wait_until(lambda: job.state == "PENDING", "a requeue")
    require(not job.step(), "its time was over before it trained")
    job.set_time_limit(60)
    job.trains_from(0)
    took["time limit while starting"] = time.monotonic() - start
    say(f"time limit while starting: trains after {took['time limit while starting']:.0f} s")
    disturb(job, "scontrol requeue", lambda: slurm("scontrol", "requeue", job.number), 2, took)
    disturb(job, "a rank killed", lambda: kill_a_rank(job), 2, took)
    disturb(job, "a node down", lambda: lose_a_node(job), 3, took)
    disturb(job, "the step cancelled", lambda: kill_the_step(job), 3, took)
    disturb(job, "time limit", lambda: end_its_time(job), 4, took)
    job.ends("COMPLETED", 4)
    alike(alone.checkpoint, job.checkpoint)
    say(f"step {job.step()}: weights and momenta equal those of the other run, to the bit")
    log = job.log()
    for count, line in (
        (2, f"SIGUSR1: job {job.number} ends its step, and is requeued"),
        (2, "attempt 1 of 4 ended with status"),
        (5, f"Restored all states from the checkpoint at {job.checkpoint}"),
        (1, "SIGUSR1: " + str(job.checkpoint)),
    ):
        require(log.count(line) == count, f"the log has {count} lines with {line!r}")
    require("DUE TO NODE FAILURE" in log, "the log names the node's failure")
    copies = [path.name for path in sorted((folder / "scratch").glob("*.beton*"))]
    require(len(copies) == 4 and "part" not in str(copies), f"the data were copied: {copies}")
    return alone


def ended_runs(folder, done):
    """See that what is done, cancelled, or a mistake does not come back."""
    slurm("scontrol", "requeue", done.number)
    say("a run that is at its end, requeued by hand")
    wait_until(lambda: done.state == "COMPLETED", "it is at its end once more")
    done.ends("COMPLETED", 1)
    (folder / "file").touch()
    wrong = train(folder, "--trainer.logger.init_args.save_dir", str(folder / "file"))
    say("a run whose first rank, alone, finds that it cannot write")
    wrong.ends("FAILED", 0)
    require(wrong.field("ExitCode") == "2:0", "bad input ends a job with status 2")
    require("cannot write to the run's folder" in wrong.log(), "its log says why")
    require("attempt" not in wrong.log(), "bad input is not tried again")
    cancelled = train(folder)
    wait_until(lambda: "GLOBAL_RANK" in cancelled.log(), "the ranks find each other")
    say("a run that its user cancels")
    slurm("scancel", cancelled.number)
    cancelled.ends("CANCELLED", 0)
    require("attempt" not in cancelled.log(), "a cancelled job is not tried again")


def comparison(folder, took):
    """Have the time of an array's last job come to its end; its other one must not notice."""
    grid = {"base": "cell.yaml", "seeds": [0], "references": ["one"]}
    grid |= {"variants": {"one": {}, "two": {}}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    number = submit(
        folder,
        "deploy/slurm/compare.sbatch",
        *(str(folder / "grid.yaml"), "--output", str(folder / "cells")),
        name="cell",
        options=["--array=0-1"],
    )
    cells = [
        Job(f"{number}_{index}", folder / f"cell-{index}", path / "checkpoints" / "last.ckpt")
        for index, path in enumerate(
            folder / "cells" / "runs" / v / "seed_0" for v in grid["variants"]
        )
    ]
    one, two = cells
    say("two cells of a comparison, an array of two jobs")
    two.trains_from(6)
    two.log_file = next(folder.glob(f"cell-{number}.out"))  # the last job has the array's number
    start = time.monotonic()
    end_its_time(two)
    saved = two.step()
    two.trains_from(saved)
    took["time limit of a comparison"] = time.monotonic() - start
    one.ends("COMPLETED", 0)
    two.ends("COMPLETED", 1)
    alike(one.checkpoint, two.checkpoint)
    say("both are done, with the same weights to the bit; the other was not requeued")
    program = Path(sys.executable).with_name("eca-lightning")
    report = ["--output", folder / "cells", "--report-only", "true"]
    subprocess.run([program, "compare", folder / "grid.yaml", *report], check=True, cwd=ROOT)
    require((folder / "cells" / "report.md").exists(), "there is a report")


def main(folder):
    """Tell the story."""
    options = {"max_epochs": EPOCHS, "num_nodes": 2}
    write_run(folder, steps=STEPS_AN_EPOCH, devices=1, **options)
    run = yaml.safe_load((folder / "run.yaml").read_text())
    slow = {"class_path": "noise_run.SlowRun", "init_args": {"step": SECONDS_A_STEP}}
    start = {
        "class_path": slow["class_path"],
        "init_args": slow["init_args"] | {"start": SLOW_START},
    }
    (folder / "slow.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [start]}}))
    run["trainer"] |= {"num_nodes": 1, "strategy": "auto", "callbacks": [slow]}
    (folder / "cell.yaml").write_text(yaml.safe_dump(run))
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "NUMBA_OPT": "0"}
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent}:{ROOT}"
    took = {}
    with private_slurm(folder / "slurm"):
        done = long_run(folder, took)
        ended_runs(folder, done)
        comparison(folder, took)
    print(f"\nA requeued job waits {CREDENTIAL_SECONDS} s here, by default 120.")
    print("| event | training goes on after |\n| --- | --- |")
    for what, seconds in took.items():
        print(f"| {what} | {seconds:.0f} s |")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        with tempfile.TemporaryDirectory() as place:
            sys.exit(run_inside(sys.executable, __file__, place))
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]))
    except BaseException:
        for log in sorted(Path(sys.argv[1]).glob("*.out")):
            print(f"--- the end of {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
        raise
