"""ECA-Nets (Efficient Channel Attention, arXiv 1910.03151) and their rivals, on Lightning.

The public names: configs, checkpoints and documents name these, and the files behind them may move.
"""

import lazy_loader

# Importing torch takes seconds, which `eca-lightning --help` should not.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
