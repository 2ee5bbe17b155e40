"""What a run adds to a model: optimisation, schedules and callbacks."""
