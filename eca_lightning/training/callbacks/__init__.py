"""Callbacks of all runs."""
