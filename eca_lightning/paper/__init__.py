"""``eca-lightning models``: parameters and operations of the paper's networks."""
