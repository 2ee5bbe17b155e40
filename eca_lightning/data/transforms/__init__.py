"""Crops and augmentations, each a pure function of seed, epoch and sample."""
