"""Callbacks of detection runs."""
