"""Requeue a Slurm job that is stopped before it is done."""

import os
import subprocess

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn


def requeue() -> None:
    """Requeue this process's Slurm job, if there is one."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        rank_zero_warn(f"Slurm did not requeue job {job}: {reason}")
    else:
        rank_zero_info(f"Slurm has requeued job {job}")
