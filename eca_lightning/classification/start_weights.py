"""Start the training of a classifier from weights of others."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.network import layout_of
from eca_lightning.training.architecture import differences
from eca_lightning.weights.infer_backbone import infer_backbone, require_alike
from eca_lightning.weights.match import Match, match_weights, summary
from eca_lightning.weights.read import WeightsFile, read_weights


def start_from(network: nn.Module, config: BackboneConfig, source: str | Path) -> str:
    """Load weights into a network that is to be trained further, in place.

    All must match but the classifier: one of other classes is left out, and the network's stays as
    it was initialized. Weights without attention fit attention that can start as the identity.

    Args:
        network: A network of `create_backbone`.
        config: Its options.
        source: A file that `read_weights` takes, a run, or a name in a library.

    Returns:
        What was loaded, in one line for the log.

    Raises:
        FileNotFoundError: If there is no such file, and it cannot be downloaded.
        ValueError: If it cannot be read, or is of another network; nothing is loaded then.
    """
    weights = read_weights(source)
    require_alike(weights, config)
    layout = layout_of(network)
    match = match_weights(network, weights.tensors)
    if others := [m for m in match.mismatches if not layout.is_classifier(m.key)]:
        saved = weights.backbone or infer_backbone(weights)  # which says so if it is none of ours
        raise ValueError(
            f"{weights.path} is of {described(saved)}, and the model is {described(config)}: "
            f"{summary(others)}. Set model.backbone to the file's network, or give other weights"
        )
    require_same_network(weights, config, match)
    match.load(network)
    said = [f"weights of {weights.path}: {len(match.tensors)} tensors", *weights.notes]
    if match.neutral:
        said.append("attention is not in the file and starts without effect")
    if match.mismatches:
        given = [len(t) for k, t in weights.tensors.items() if layout.is_classifier(k)]
        theirs = f"that of the file has {given[0]} classes" if given else "the file has none"
        said.append(f"the classifier is new, {theirs}")
    return "; ".join(said)


def require_same_network(weights: WeightsFile, config: BackboneConfig, match: Match) -> None:
    """Raise a ValueError if weights that match by name and shape are of another network."""
    if weights.backbone:
        require_alike(weights, config)
        # Options on which neither names nor shapes of weights depend.
        hidden = {"blur_pool"} | ({"stem"} if not match.mismatches else set())
        hidden |= {"attention", "attention_options"} if match.is_exact else set()
        saved = weights.hyper_parameters["backbone"]
        saved = {key: value for key, value in saved.items() if key in hidden}
        if unlike := differences(BackboneConfig, saved, asdict(config), ("fused",)):
            raise ValueError(
                f"{weights.path} is of another network: {unlike}: set it in the backbone's options"
            )
    if norm := match.half_loaded_norm:
        raise ValueError(
            f"{weights.path}: {norm} has no running statistics, as a group norm's weights: its "
            "network has other norms than those of this package"
        )


def described(config: BackboneConfig) -> str:
    """Describe a network in a phrase."""
    options = ", ".join(f"{key} {value}" for key, value in config.attention_options.items())
    attention = f"attention {config.attention or 'none'}" + (f" ({options})" if options else "")
    more = f", stem {config.stem}" if config.stem else ""
    more += ", channels pruned" * bool(config.pruned) + ", blur_pool" * config.blur_pool
    return f"{config.name} with {attention}{more}"
