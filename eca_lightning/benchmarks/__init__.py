"""``eca-lightning benchmark``: time loaders, networks and runs."""
