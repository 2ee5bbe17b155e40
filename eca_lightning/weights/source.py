"""Find files of weights by what a user calls them: a file, a run, or a name in a library."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torchvision.models import get_model_weights

from eca_lightning.utils.run_folder import best_checkpoint, find_run

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def locate_weights(source: str | Path) -> Path:
    """Return the file of some weights; those with a name in a library are downloaded once.

    Args:
        source: A file; the folder of a run, for its best checkpoint; ``torchvision:NAME`` or
            ``torchvision:NAME:TAG``, such as ``torchvision:resnet50:IMAGENET1K_V2``; ``timm:NAME``,
            such as ``timm:ecaresnet50t``; or ``hf-hub:OWNER/NAME``. Downloads go to the library's
            own cache: torch's (``TORCH_HOME``) or the Hub's (``HF_HOME``).

    Raises:
        FileNotFoundError: If there is no such file, or it can be downloaded neither now nor before.
        ImportError: If the library is not installed.
        ValueError: If the library knows no weights of this name.
    """
    path = Path(source)
    if path.is_dir():
        return best_checkpoint(find_run(path, "weights"))
    library, colon, name = str(source).partition(":")
    if path.exists() or not colon or library not in _LIBRARIES:
        if not path.is_file():
            raise FileNotFoundError(
                f"weights not found: {source}. Give a file, the folder of a run, torchvision:NAME, "
                "timm:NAME or hf-hub:OWNER/NAME"
            )
        return path
    return _LIBRARIES[library](name)


def settings_of(source: str | Path) -> dict[str, Any]:
    """Return what a library says of its weights, by timm's names; nothing of files and runs.

    Raises:
        ImportError, ValueError: As `locate_weights`.
    """
    library, _, name = str(source).partition(":")
    if Path(source).exists():
        return {}
    if library == "timm":
        return _timm_config(name).to_dict()
    if library == "torchvision":
        used: Any = _torchvision_weights(name).transforms()
        size = used.crop_size[0]
        return {
            "architecture": name.partition(":")[0],
            "input_size": [3, size, size],
            "crop_pct": size / used.resize_size[0],
            "interpolation": used.interpolation.value,
            "mean": used.mean,
            "std": used.std,
        }
    return {}


def _of_torchvision(name: str) -> Path:
    weights = _torchvision_weights(name)
    return _downloaded(weights.url, f"torchvision:{name}")


def _torchvision_weights(name: str) -> Any:
    network, _, tag = name.partition(":")
    try:
        known: Any = get_model_weights(network)
    except ValueError as error:
        raise ValueError(f"torchvision has no network '{network}'") from error
    tag = tag or known.DEFAULT.name
    if tag not in known.__members__:
        tags = ", ".join(known.__members__)
        raise ValueError(f"torchvision has no weights '{tag}' of {network}, but {tags}")
    return known[tag]


def _of_timm(name: str) -> Path:
    config = _timm_config(name)
    return (
        _of_hub(config.hf_hub_id) if config.hf_hub_id else _downloaded(config.url, f"timm:{name}")
    )


def _timm_config(name: str) -> Any:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise ImportError(
            f"timm:{name} needs the package timm: pip install 'eca-lightning[recipes]'"
        ) from error
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:  # of a name with a tag that it does not have
        raise ValueError(f"timm has no weights '{name}': {error}") from error
    if config is None or not (config.hf_hub_id or config.url):
        raise ValueError(f"timm has no weights '{name}'")
    return config


def _downloaded(url: str, called: str) -> Path:
    """Download a file to torch's cache, unless it is there; its name ends in its checksum."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = torch.hub.HASH_REGEX.search(path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), checksum[1] if checksum else None)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"{called} cannot be downloaded ({error}): fetch {url} where there is a network, "
                f"and put it to {path}"
            ) from error
    return path


def _of_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise ImportError(
            f"hf-hub:{name} needs the package huggingface_hub: pip install 'eca-lightning[hub]'"
        ) from error
    try:
        for file in _HUB_FILES:  # the config is read with the weights beside it
            path = Path(snapshot_download(name, allow_patterns=["config.json", file]), file)
            if path.is_file():
                return path
    except HFValidationError as error:
        raise ValueError(f"hf-hub:{name} is no name of the form OWNER/NAME") from error
    except OSError as error:  # as all errors of the Hub and the network are
        raise FileNotFoundError(
            f"hf-hub:{name} cannot be downloaded ({str(error).splitlines()[0]}): where there is a "
            f"network, run 'hf download {name}', and copy the Hub's cache (HF_HOME) to here"
        ) from error
    raise FileNotFoundError(f"hf-hub:{name} holds neither {' nor '.join(_HUB_FILES)}")


_LIBRARIES = {"torchvision": _of_torchvision, "timm": _of_timm, "hf-hub": _of_hub}
