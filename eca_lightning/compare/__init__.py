"""``eca-lightning compare``: train a grid of variants and seeds."""
