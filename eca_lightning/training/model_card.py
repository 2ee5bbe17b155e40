"""Write the model card of a task for the Hugging Face Hub."""

from collections.abc import Mapping
from typing import Any

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

Images are uint8; the model normalizes them itself.

| | |
| --- | --- |
{rows}
"""

_ECA = """
Its attention is that of [ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
Networks](https://arxiv.org/abs/1910.03151), CVPR 2020.
"""


def model_card(task: Any, metadata: Mapping[str, Any]) -> Any:
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
