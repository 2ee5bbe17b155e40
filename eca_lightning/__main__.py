"""``python -m eca_lightning`` is ``eca-lightning``."""

from eca_lightning.cli import main

if __name__ == "__main__":
    main()
