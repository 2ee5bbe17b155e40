"""``eca-lightning models``: the networks of the paper beside ours."""
