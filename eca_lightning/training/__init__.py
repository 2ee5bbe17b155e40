"""What both kinds of runs share: optimizers, schedules, checkpoints."""
