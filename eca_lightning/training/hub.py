"""Save and load tasks in the form of the Hugging Face Hub, in local folders or on the Hub.

The methods, the transfer and the weights (model.safetensors) are those of huggingface_hub's
`PyTorchModelHubMixin`. It would save the arguments of a task as its config, and load whichever
weights match. Here config.json holds what the network needs for its predictions, and each weight
must match.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from eca_lightning.utils.atomic import atomic_write

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError:  # it is optional

    class PyTorchModelHubMixin:  # type: ignore[no-redef]
        """The same methods, which name the missing package."""

        def __init_subclass__(cls, **metadata: Any) -> None:
            super().__init_subclass__()

        @classmethod
        def from_pretrained(cls, *arguments: Any, **options: Any) -> NoReturn:
            """Raise an ImportError."""
            raise ImportError(
                "sharing models needs huggingface_hub, which is missing: "
                "pip install 'eca-lightning[hub]'"
            )

        save_pretrained = push_to_hub = from_pretrained


_OPTIONS = ("mean", "std")
"""Options of a task, besides its network, that config.json holds."""


class HubMixin(PyTorchModelHubMixin, library_name="eca-lightning", license="mit"):
    """Add ``save_pretrained``, ``push_to_hub`` and ``from_pretrained`` to a `VisionTask`.

    ``model_card_kwargs`` of the first two are fields of the card's metadata (``license``, that of
    this package by default, ``datasets``, ``language`` and so on). With ``datasets`` the scores go
    into the metadata as well. A card that is in the folder is kept. Further options of
    ``from_pretrained`` are those of the task, such as an optimizer for further training; the model
    is in evaluation mode.
    """

    def pretrained_config(self: Any) -> dict[str, Any]:
        """Return the content of config.json."""
        names = (self.network_option, *_OPTIONS)
        config: dict[str, Any] = {
            name: self.hparams[name] for name in names if name in self.hparams
        }
        return config | self.classes_and_scores()

    def generate_model_card(self: Any, **metadata: Any) -> Any:
        """Write the model card; called by the methods that share the model."""
        return _model_card(self, self._hub_mixin_info.model_card_data.to_dict() | metadata)

    def _save_pretrained(self, save_directory: Path) -> None:
        with atomic_write(save_directory / "model.safetensors") as part:
            super()._save_pretrained(part.parent)
            config = json.dumps(self.pretrained_config(), indent=2, ensure_ascii=False)
            part.with_name("config.json").write_text(config + "\n", "utf-8")

    @classmethod
    def _from_pretrained(
        cls: Any, *, model_id: str, config: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Build the task of a config and load its weights, which must all match."""
        if config is None or cls.network_option not in config:
            problem = "it has no config.json" if config is None else "its config.json names another"
            raise ValueError(f"{model_id} is no {cls.__name__} of this package: {problem}")
        from safetensors import SafetensorError

        for name in config.keys() - {cls.network_option, *_OPTIONS}:  # what is kept beside them
            options.pop(name, None)
        try:
            model = super()._from_pretrained(model_id=model_id, **({"strict": True} | options))
        except SafetensorError as error:
            message = f"the weights of {model_id} are damaged ({error}): save them again"
            raise ValueError(message) from error
        weights = {"state_dict": model.state_dict(), "hyper_parameters": model.hparams}
        model.on_load_checkpoint(config | weights)
        return model.eval()  # older versions of the mixin leave it in training mode


_CARD = """\
---
{metadata}
---

# {name}

A {what} of the package `eca_lightning`.

```python
from eca_lightning import {task}

model = {task}.from_pretrained("OWNER/{name}")  # the name of this repository
```

Images are uint8; the model normalizes them itself.{transform}

| | |
| --- | --- |
{rows}
"""

_ECA = """
Its attention is that of [ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
Networks](https://arxiv.org/abs/1910.03151), CVPR 2020.
"""


def _model_card(task: Any, metadata: Mapping[str, Any]) -> Any:
    """Write the `huggingface_hub.ModelCard` of a task from its config and its scores.

    Args:
        task: An `ImageClassifier` or an `ObjectDetector`.
        metadata: Fields of the card's metadata, see `huggingface_hub.ModelCardData`. The scores are
            added if ``datasets`` is among them, as the Hub lists scores by data set.
    """
    from huggingface_hub import ModelCard, ModelCardData

    config = task.pretrained_config()
    detector = config.get("detector")
    backbone = detector["backbone"] if detector else config["backbone"]
    attention = None if backbone["attention"] == "none" else backbone["attention"]
    parts = [detector["name"] if detector else None, attention, backbone["name"]]
    name = "_".join(filter(None, parts))
    data = ModelCardData(**{"model_name": name, **metadata})
    data.tags = [*(data.tags or []), *filter(None, parts)]
    if data.datasets and config["scores"]:
        data.eval_results = _results(data, config["scores"])
    names = config["class_names"] or []
    options = ", ".join(f"{key} {value}" for key, value in backbone["attention_options"].items())
    shown = ", ".join([*names[:5], *["..."] * (len(names) > 5)])
    rows = {
        "parameters": f"{sum(p.numel() for p in task.parameters()):,}",
        "backbone": backbone["name"],
        "attention": (attention or "none") + (f" ({options})" if options else ""),
        "classes": f"{(detector or backbone)['num_classes']}" + (f": {shown}" if shown else ""),
        **{score: f"{value:.4f}" for score, value in config["scores"].items()},
    }
    text = _CARD.format(
        metadata=data.to_yaml(),
        name=name,
        what="detector" if detector else "classifier",
        task=type(task).__name__,
        transform="" if detector else " `model.transform` crops and resizes an image for it.",
        rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()),
    )
    return ModelCard(text + _ECA * (attention == "eca"))


def _results(data: Any, scores: Mapping[str, float]) -> list[Any]:
    """Return the scores in the Hub's form."""
    from huggingface_hub import EvalResult

    dataset = data.datasets if isinstance(data.datasets, str) else data.datasets[0]

    def result(score: str, value: float) -> Any:
        split, _, metric = score.partition("/")
        return EvalResult(
            task_type=data.pipeline_tag,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="validation" if split == "val" else split,
            metric_type="accuracy" if metric in ("top1", "top5") else metric,
            metric_name=metric,
            metric_value=round(value, 4),
        )

    return [result(score, value) for score, value in scores.items()]
