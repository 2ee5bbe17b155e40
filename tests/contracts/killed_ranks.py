"""A run of two ranks that is stopped again and again, beside the same run left alone.

Runs ``eca-lightning fit --config FOLDER/run.yaml --ckpt_path auto`` as torchrun would start it, and
sends SIGKILL, SIGTERM and SIGUSR1 to one rank or both: in training, in validation, and while a
checkpoint is written. Each time it checks how the ranks ended, what was saved, and where the next
attempt goes on. Runs and logs are left in ``FOLDER/alone`` and ``FOLDER/killed``. As in
killed_runs.py, each attempt is forked from a process that has imported everything and has no
thread.
"""

import atexit
import os
import random
import signal
import socket
import sys
import time
import traceback

from lightning.pytorch import Callback

from eca_lightning.cli import main as program
from eca_lightning.training.checkpoint_io import read_checkpoint
from eca_lightning.training.resuming import newest_checkpoint

RANKS = 2
STEPS_AN_EPOCH = 10
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]
FURTHEST = {"train": 7, "validation": 6, "saving": 4}
"""How often a rank reports a phase before it is killed, at most; 11 steps are the most it gets."""
SECONDS = 300
"""After which an attempt is taken to hang."""
ALONE = 60
"""Seconds that a rank whose peer was killed has to end by itself."""


class Report(Callback):
    """Writes to a pipe what this rank is about."""

    def _tell(self, trainer, what):
        line = f"{trainer.global_rank} {what} {trainer.global_step}\n"
        os.write(int(os.environ["REPORT_PIPE"]), line.encode())

    def on_train_start(self, trainer, *_):
        self._tell(trainer, "start")

    def on_train_batch_start(self, trainer, *_):
        self._tell(trainer, "train")

    def on_train_batch_end(self, trainer, *_):
        self._tell(trainer, "trained")

    def on_validation_batch_start(self, trainer, *_):
        if not trainer.sanity_checking:
            self._tell(trainer, "validation")

    def on_save_checkpoint(self, trainer, *_):
        self._tell(trainer, "saving")


class Attempt:
    """The two processes of an attempt, and what they report."""

    def __init__(self, config, runs, epochs):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.events = []
        reading, writing = os.pipe()
        self.ranks = []
        for rank in range(RANKS):
            child = os.fork()
            if child == 0:
                os.close(reading)
                _become(rank, port, writing, config, runs, epochs)
            self.ranks.append(child)
        os.close(writing)
        self._lines = os.fdopen(reading)

    def until(self, rank, phase, count):
        """Wait until a rank has reported a phase so often."""
        for line in self._lines:
            self._note(line)
            count -= self.events[-1][:2] == (rank, phase)
            if not count:
                return
        raise SystemExit(f"the run ended before it was killed, its ranks with {self.statuses()}")

    def statuses(self):
        """Wait for the end; say how each rank ended, in subprocess's numbers."""
        for line in self._lines:
            self._note(line)
        return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in self.ranks]

    def ends_by_itself(self, rank):
        """Wait for a rank whose peer was killed."""
        looks = os.WEXITED | os.WNOHANG | os.WNOWAIT
        deadline = time.monotonic() + ALONE
        while not os.waitid(os.P_PID, self.ranks[rank], looks):
            if time.monotonic() > deadline:
                os.kill(self.ranks[rank], signal.SIGKILL)
                raise SystemExit(f"rank {rank} did not notice that its peer was killed")
            time.sleep(0.05)

    def _note(self, line):
        rank, what, step = line.split()
        self.events.append((int(rank), what, int(step)))

    def steps(self, what):
        """Steps at which the first rank reported something."""
        return [step for rank, kind, step in self.events if (rank, kind) == (0, what)]

    def surely_saved(self):
        """Step of the last checkpoint after which the first rank reported something else."""
        own = [event[1:] for event in self.events if event[0] == 0]
        return max((step for what, step in own[:-1] if what == "saving"), default=-1)


def _become(rank, port, pipe, config, runs, epochs):
    """Be a rank: run the program, and never come back."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "killed",
        "REPORT_PIPE": str(pipe),
    }
    status = 1
    try:
        log = os.open(runs / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.alarm(SECONDS)
        sys.argv = ["eca-lightning", "fit", "--config", str(config), "--ckpt_path", "auto"]
        sys.argv += ["--trainer.max_epochs", str(epochs)]
        sys.argv += ["--trainer.logger.save_dir", str(runs)]
        program()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def newest_step(runs):
    """Step of the checkpoint that the next attempt must go on from; -1 if there is none."""
    path = newest_checkpoint(runs / "run" / "version_0" / "checkpoints")
    return read_checkpoint(path)["global_step"] if path else -1


def stop(attempt, number, victims):
    """Send a signal; check how the ranks end."""
    for rank in victims:
        os.kill(attempt.ranks[rank], number)
    if number == signal.SIGKILL:
        for rank in set(range(RANKS)) - set(victims):
            attempt.ends_by_itself(rank)
    statuses = attempt.statuses()
    well = [128 + number] * RANKS
    if 0 in statuses or (number != signal.SIGKILL and statuses != well):
        raise SystemExit(f"after {number.name} the ranks ended with {statuses}")


def stop_again_and_again(folder, kills, seed):
    """Make both runs; print a line for each kill."""
    chance = random.Random(seed)
    phases = list(FURTHEST)
    plan = [(SIGNALS[i % 3], phases[(i + i // 3) % 3]) for i in range(kills)]
    chance.shuffle(plan)
    epochs = -(-kills * 11 // STEPS_AN_EPOCH)
    config = folder / "run.yaml"
    for name in ("alone", "killed"):
        (folder / name).mkdir()
    alone = Attempt(config, folder / "alone", epochs)
    if alone.statuses() != [0] * RANKS:
        raise SystemExit("the run that was left alone failed")
    runs, expected = folder / "killed", 0
    for number, phase in plan:
        attempt = Attempt(config, runs, epochs)
        victims = chance.choice([[0], [1], [0, 1]])
        count, delay = chance.randint(1, FURTHEST[phase]), chance.uniform(0, 0.03)
        attempt.until(victims[0], phase, count)
        time.sleep(delay)
        stop(attempt, number, victims)
        if attempt.steps("start") != [expected]:
            raise SystemExit(f"went on from {attempt.steps('start')}, not from step {expected}")
        trained, saved = max(attempt.steps("trained"), default=expected), newest_step(runs)
        least = attempt.surely_saved() if number == signal.SIGKILL else trained
        if not least <= saved <= trained:
            raise SystemExit(f"{number.name} at step {trained}: step {saved} is the newest saved")
        expected = max(saved, 0)
        cut = "half a checkpoint" if list(runs.rglob(".*.part")) else ""
        print(number.name, phase, victims, f"{delay:.3f}", trained, saved, cut, flush=True)
    last = Attempt(config, runs, epochs)
    if last.statuses() != [0] * RANKS:
        raise SystemExit("the last attempt failed")
