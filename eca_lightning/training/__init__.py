"""What classification and detection share: the base task, optimization and checkpoints."""
