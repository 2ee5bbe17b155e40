"""Two hosts, of which one is lost in mid-epoch: torchrun starts again when it is back.

    sudo python tests/contracts/multinode.py

The hosts are network namespaces of this machine, joined by a cable (a veth pair), each with two
ranks over gloo; they share the file system, as the nodes of a cluster do. The second is unplugged
and killed with all that runs on it, and started again. The run must then end with the weights, to
the bit, of one that was left alone.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from noise_run import write_run

from eca_lightning.training.checkpoint_io import read_checkpoint

LAUNCHER = Path(__file__).parents[2] / "deploy" / "torchrun" / "train.sh"
HOSTS = {"eca-a": "10.213.77.1", "eca-b": "10.213.77.2"}
RANKS = 2
"""On each host."""
STEPS_AN_EPOCH, EPOCHS = 40, 3
LOST_AFTER = 50
"""Steps; in the middle of the second epoch."""
AWAY = 5
"""Seconds for which the host is gone."""
PATIENCE = 1800
"""Seconds for anything."""

_started = time.monotonic()


def say(what):
    print(f"{time.monotonic() - _started:7.1f} s  {what}", flush=True)


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def inside(host, *command, **options):
    return subprocess.Popen(["ip", "netns", "exec", host, *command], **options)


@contextmanager
def two_hosts():
    """Make both hosts and the cable; take all of it away in the end."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        first, second = HOSTS
        ip("link", "add", first, "netns", first, "type", "veth", "peer", second, "netns", second)
        for host, address in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", host)
            ip("-n", host, "link", "set", host, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            kill_all(host)
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)


def kill_all(host):
    """Kill every process on a host; say how many there were."""
    listed = subprocess.run(
        ["ip", "netns", "pids", host], capture_output=True, text=True, check=False
    ).stdout.split()
    for process in listed:
        os.kill(int(process), signal.SIGKILL)
    return len(listed)


def launch(host, folder, name):
    """Start this run's part of a host, with the launcher that users have."""
    address, main = HOSTS[host], next(iter(HOSTS.values()))
    program = [str(LAUNCHER), "--config", str(folder / "run.yaml")]
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NNODES": "2",
        "NPROC_PER_NODE": str(RANKS),
        "RUN_ID": name,
        "RDZV_ENDPOINT": f"{main}:29400",
        "PET_LOCAL_ADDR": address,
        # Both have this machine's name, by which torchrun elsewise knows whether to serve others.
        "PET_RDZV_CONF": f"is_host={int(address == main)}",
        "GLOO_SOCKET_IFNAME": host,
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "NUMBA_OPT": "0",
    }
    with (folder / f"{name}-{host}.log").open("a") as log:
        return inside(
            host,
            "bash",
            *program,
            env=os.environ | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def step_of(path):
    """The step of a checkpoint; 0 if there is none yet."""
    return read_checkpoint(path)["global_step"] if path.exists() else 0


def wait_for(condition, launchers):
    """Wait, unless a launcher fails."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        failed = [launcher.returncode for launcher in launchers if launcher.poll()]
        if failed or time.monotonic() > deadline:
            raise SystemExit(f"multinode: the launchers failed with {failed}, or it took too long")
        time.sleep(0.2)


def finish(launchers):
    """Wait until all launchers are done, and done well."""
    wait_for(lambda: all(launcher.poll() == 0 for launcher in launchers), launchers)


def main(folder):
    """Tell the story."""
    first, second = HOSTS
    write_run(
        folder,
        steps=STEPS_AN_EPOCH,
        devices=RANKS,
        num_nodes=2,
        max_epochs=EPOCHS,
        # Elsewise DDP changes its buckets after its first step, and with them, on more than two
        # ranks, the order in which gradients are added up: a resumed run would differ in last bits.
        strategy="ddp_find_unused_parameters_true",
    )
    checkpoints = {
        name: folder / "run" / name / "checkpoints" / "last.ckpt" for name in ("alone", "lost")
    }
    with two_hosts():
        say(f"two hosts, {RANKS} ranks each: {EPOCHS} epochs of {STEPS_AN_EPOCH} steps, left alone")
        finish([launch(host, folder, "alone") for host in HOSTS])
        say("the same run again; it is to lose its second host")
        keeps, goes = (launch(host, folder, "lost") for host in HOSTS)
        wait_for(lambda: step_of(checkpoints["lost"]) >= LOST_AFTER, [keeps, goes])
        ip("-n", second, "link", "set", second, "down")
        killed = kill_all(second)
        goes.wait()
        lost_at, saved = time.monotonic(), step_of(checkpoints["lost"])
        say(f"the second host is unplugged, its {killed} processes are killed; saved: step {saved}")
        time.sleep(AWAY)
        ip("-n", second, "link", "set", second, "up")
        back = launch(second, folder, "lost")
        say("the second host is back, and its torchrun asks to join")
        wait_for(lambda: step_of(checkpoints["lost"]) > saved, [keeps, back])
        say(f"the run goes on, {time.monotonic() - lost_at:.0f} s after the loss")
        finish([keeps, back])
        say("the run is at its end")
    log = (folder / f"lost-{first}.log").read_text()
    if f"Restoring states from the checkpoint path at {checkpoints['lost']}" not in log:
        raise SystemExit("multinode: no rank of the first host went on from the checkpoint")
    alone, lost = (torch.load(path, weights_only=True) for path in checkpoints.values())
    for key in ("global_step", "state_dict", "optimizer_states"):
        torch.testing.assert_close(lost[key], alone[key], rtol=0, atol=0)
    say(f"step {lost['global_step']}: weights and momenta equal the other run's, to the bit")


if __name__ == "__main__":
    if os.geteuid() or subprocess.run(["ip", "-V"], capture_output=True, check=False).returncode:
        raise SystemExit("multinode: it takes root and 'ip' (Debian's iproute2)")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        try:
            main(Path(place))
        except BaseException:
            for log in sorted(Path(place).glob("*.log")):
                print(f"--- the end of {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
            raise
