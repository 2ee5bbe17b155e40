"""Block tails in fewer passes over the activation."""
