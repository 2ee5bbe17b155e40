"""A grid of runs: variants of one config, each with several seeds."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_lightning.utils.checks import require
from eca_lightning.utils.yaml_files import read_yaml

_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True)
class Cell:
    """One run of a grid: its folder, and arguments of ``eca-lightning`` that run it."""

    variant: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Variant and seed."""
        return f"{self.variant}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """Variants and seeds to compare. Its YAML file has these keys.

    Attributes:
        base: Config of a run of `ImageClassifier`, relative to the grid's file.
        variants: Name of each variant and the options in which it differs from the base run, such
            as ``{model.backbone.attention: se}``.
        seeds: Random seeds; each variant is trained once with each.
        references: Variants with which all are compared, seed by seed.
        options: Options of all variants.
    """

    base: Path
    variants: dict[str, dict[str, Any]]
    seeds: list[int]
    references: list[str]
    options: dict[str, Any] = field(default_factory=dict)

    def cells(self, output: Path) -> list[Cell]:
        """List all runs, seed by seed, so that an interrupted grid has complete seeds."""
        runs = output / "runs"
        return [self._cell(name, seed, runs) for seed in self.seeds for name in self.variants]

    def in_order(self, rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """Select the rows of the variants of this grid, in their order."""
        return [row for variant in self.variants for row in rows if row["variant"] == variant]

    def _cell(self, variant: str, seed: int, runs: Path) -> Cell:
        options = {
            **self.options,
            **self.variants[variant],
            "seed_everything": seed,
            "trainer.logger": "lightning.pytorch.loggers.TensorBoardLogger",
            "trainer.logger.save_dir": str(runs),
            "trainer.logger.name": variant,
            "trainer.logger.version": f"seed_{seed}",
        }
        arguments = ["fit", "--config", str(self.base), *option_arguments(options)]
        return Cell(variant, seed, runs / variant / f"seed_{seed}", tuple(arguments))


def read_grid(path: Path) -> Grid:
    """Read a grid from its YAML file.

    Raises:
        FileNotFoundError: If the file or its base run does not exist.
        ValueError: If a key is missing, unknown or of the wrong type.
    """
    if not path.is_file():
        raise FileNotFoundError(f"grid not found: {path}: see those of configs/ablation")
    content = read_yaml(path)
    keys = content.keys() if isinstance(content, dict) else set()
    needed = {"base", "variants", "seeds", "references"}
    if not needed <= keys or not keys <= needed | {"options"}:
        raise ValueError(
            f"{path} must have the keys {', '.join(sorted(needed))} and may have options, "
            f"but has {', '.join(map(str, keys)) or 'none'}"
        )
    base = path.parent / str(content["base"])
    if not base.is_file():
        raise FileNotFoundError(f"{path}: base: config not found: {base}")
    variants, seeds, references = (content[key] for key in ("variants", "seeds", "references"))
    options = content.get("options") or {}
    for key, value in (("variants", variants), ("options", options)):
        require(isinstance(value, dict), f"{path}: {key}", "a map", value)
    require(bool(variants), f"{path}: variants", "at least one", variants)
    for name, own in variants.items():
        label = f"{path}: variants: {name!r}"
        require(bool(_NAME.fullmatch(str(name))), label, "of letters, digits, '_', '-', '.'", name)
        require(isinstance(own, dict), label, "a map of options, {} for the base run itself", own)
    valid = _distinct(seeds) and all(type(seed) is int and seed >= 0 for seed in seeds)
    require(valid, f"{path}: seeds", "distinct integers from 0 on", seeds)
    valid = _distinct(references) and set(references) <= variants.keys()
    require(valid, f"{path}: references", f"among {', '.join(variants)}", references)
    return Grid(base, variants, seeds, references, options)


def option_arguments(options: dict[str, Any]) -> list[str]:
    """Format options as arguments of the program, other values than strings as JSON."""
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in options.items()
    ]


def _distinct(values: Any) -> bool:
    return isinstance(values, list) and 0 < len(values) == len(set(map(str, values)))
