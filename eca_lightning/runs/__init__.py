"""``eca-lightning runs``: what runs note of themselves, and the list of them."""
