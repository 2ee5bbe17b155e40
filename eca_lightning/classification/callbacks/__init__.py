"""Callbacks of classification runs."""
