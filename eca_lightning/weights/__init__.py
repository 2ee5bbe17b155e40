"""Weights of others: read, matched by name and shape, and their network inferred."""
