"""Image classification: the LightningModule, its losses and what its runs show."""
