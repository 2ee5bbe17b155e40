"""``eca-lightning attention``: draw the attention of a trained network."""
