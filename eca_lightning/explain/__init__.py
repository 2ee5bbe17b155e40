"""``eca-lightning attention``: draw what attention has learned."""
