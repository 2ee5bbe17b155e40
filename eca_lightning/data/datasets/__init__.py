"""Data sets that ``eca-lightning data write`` can write."""
