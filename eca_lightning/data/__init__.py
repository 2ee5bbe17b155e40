"""Batches, from files to the device."""
