"""Create the data module that a config describes."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from eca_lightning.utils.yaml_files import read_yaml


def create_data_module(config: Path) -> Any:
    """Create the data module of a config: its own, or that of a run, which has it under ``data``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such config.
    """
    if not config.is_file():
        raise FileNotFoundError(f"data: config or folder not found: {config}")
    content = read_yaml(config) if config.suffix in (".yaml", ".yml") else None
    content = content.get("data", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or "class_path" not in content:
        raise ValueError(f"{config} is not the config of a data module: give one of configs/data")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    return parser.instantiate(parser.parse_object({"data": content})).data
