"""``eca-lightning benchmark``: measure loaders, models and runs."""
