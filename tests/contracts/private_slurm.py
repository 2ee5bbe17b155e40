"""A Slurm of two nodes, n1 and n2, on this machine: seen by nothing else, gone with its user.

Its daemons live in namespaces of their own (processes, network, mounts, host name), so that a
Slurm or munge of the machine is neither touched nor asked, and the kernel ends them all with the
first process there, however that ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from eca_lightning.utils.atomic import end_with_parent

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]
PROGRAMS = ["slurmctld", "slurmd", "sbatch", "munged"]
NODES = ("n1", "n2")
HOST, ADDRESS = "eca-slurm", "10.213.78.1"
CREDENTIAL_SECONDS = 15
"""How long Slurm lets a requeued job wait; its default is 120."""
CONFIG = f"""\
ClusterName=test
SlurmctldHost={HOST}
SlurmUser=root
SlurmdUser=root
AuthInfo=cred_expire={CREDENTIAL_SECONDS}
StateSaveLocation={{folder}}/state
SlurmdSpoolDir={{folder}}/%n
SlurmctldPidFile={{folder}}/slurmctld.pid
SlurmdPidFile={{folder}}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
MailProg=/bin/true
MinJobAge=3600
NodeName=n1 NodeHostname={HOST} Port=26818 CPUs=24 RealMemory=96000 Gres=gpu:8
NodeName=n2 NodeHostname={HOST} Port=26819 CPUs=24 RealMemory=96000 Gres=gpu:8
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
"""With more CPUs and memory than there are: jobs ask for them as on a cluster."""


def run_inside(*command):
    """Run a command in new namespaces, in which `private_slurm` may be used; return its status."""
    if os.geteuid():
        raise SystemExit("slurmtest: it takes root")
    _install()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    flags = ["--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
    parent = os.getpid()
    # The shell is the first process, and buries orphans, whose bodies Slurm would wait for.
    inside = subprocess.Popen(
        ["unshare", *flags, "sh", "-c", '"$@"; exit $?', "sh", *command],
        preexec_fn=lambda: end_with_parent(parent),
    )
    try:
        return inside.wait()
    finally:
        inside.kill()
        inside.wait()


def _install():
    """Install what is missing, with apt, without starting a service."""
    if all(shutil.which(program) for program in PROGRAMS):
        return
    print("slurmtest: installing", *PACKAGES, flush=True)
    forbids = Path("/usr/sbin/policy-rc.d")  # Debian's way to tell packages not to start services
    own = not forbids.exists()
    try:
        if own:
            forbids.write_text("#!/bin/sh\nexit 101\n")
            forbids.chmod(0o755)
        apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([*apt, "update"], env=environment, check=False)
        install = [*apt, "install", "--yes", "--no-install-recommends", *PACKAGES]
        subprocess.run(install, env=environment, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"slurmtest: needs {', '.join(PACKAGES)} (Debian): {error}") from error
    finally:
        if own:
            forbids.unlink(missing_ok=True)


@contextmanager
def private_slurm(folder):
    """Start the daemons, with their files and logs in a folder, and wait for both nodes."""
    sh = """
        set -e
        hostname "$1"; ip link set lo up
        # Names are not resolved on a machine that has the loopback device alone.
        ip link add eca0 type veth peer eca1; ip address add "$2/24" dev eca0
        ip link set eca0 up; ip link set eca1 up
        mount -t tmpfs none /run; mkdir /run/munge; chmod 755 /run
        mkdir -p "$3/state" "$3/n1" "$3/n2"; cd "$3"
        { cat /etc/hosts; echo "$2 $1 n1 n2"; } > hosts; mount --bind hosts /etc/hosts
        head -c 1024 /dev/urandom > munge.key; chmod 600 munge.key
        for number in 0 1 2 3 4 5 6 7; do mknod "gpu$number" c 1 3; done
    """
    subprocess.run(["sh", "-c", sh, "sh", HOST, ADDRESS, str(folder)], check=True)
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons = [
        _start(
            folder,
            *("munged", "--foreground", "--force", f"--key-file={folder}/munge.key"),
            *(f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
        )
    ]
    _wait_for_socket(Path("/run/munge/munge.socket.2"))
    daemons += [_start(folder, "slurmctld", "-D")]
    daemons += [_start(folder, "slurmd", "-D", "-N", node) for node in NODES]
    try:
        deadline = time.monotonic() + 60
        while slurm("sinfo", "--noheader", "--format=%T", check=False).split() != ["idle"]:
            if time.monotonic() > deadline:
                raise SystemExit(f"slurmtest: the nodes are not up: {slurm('sinfo', check=False)}")
            time.sleep(0.2)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=5)


def _start(folder, *command):
    with (folder / f"{command[0]}{command[-1]}.log".replace("/", "_")[-60:]).open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _wait_for_socket(path):
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.connect(str(path))
            return
        time.sleep(0.1)
    raise SystemExit("slurmtest: munged did not start")


def slurm(*command, check=True):
    """Run one of Slurm's commands; return what it prints."""
    return subprocess.run(
        command, check=check, stdout=subprocess.PIPE, text=True, timeout=60
    ).stdout.strip()
