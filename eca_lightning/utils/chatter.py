"""Silence what libraries say and users cannot act on."""

import logging
import warnings

_CHATTER = ("💡 Tip", "Trainer already conf", "Loading `train_dataloader` to est", "TPU avail")


def silence_libraries() -> None:
    """Silence it from here on."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_concerns_users)
    # Lightning calls what torch and jsonargparse have deprecated, which its users cannot change.
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.(cli|utilities\._pytree)")
    # A run's own folder exists when it is resumed, our loaders give the indices themselves,
    # BackboneFinetuning finds the classifier trained already, and weights are saved averaged.
    expected = "The dirpath has changed|Couldn't infer the batch ind|Checkpoint directory|"
    expected += "The provided params to be frozen already|You're using the WeightAveraging callb|"
    warnings.filterwarnings("ignore", message=expected + "LightningCLI's args parameter")


def _concerns_users(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_CHATTER)
