"""The fork server imports this last: forked processes then collect garbage of their own alone."""

import gc

gc.collect()
gc.freeze()
