"""The host waits for a GPU when metrics are logged, and at no other training step."""

import json
from pathlib import Path

import pytest
import torch
from count_host_waits import HostWaits, count_host_waits
from forked import run_forked
from thorough import thorough

CONFIGS = Path(__file__).parents[2] / "configs"
NETWORK = ["--model.backbone.name", "resnet20", "--model.backbone.attention", "eca"]
RECIPES = {
    "quickstart.yaml": [],
    "finetune.yaml": NETWORK,
    "imagenet/resnet50_paper.yaml": NETWORK,
}
RUNS = [
    ("quickstart.yaml", 2),
    ("finetune.yaml", 1),
    *thorough(("quickstart.yaml", 1), *(("imagenet/resnet50_paper.yaml", n) for n in (1, 2))),
]
LOGGED_EVERY = 10


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "ranks"), RUNS)
def test_host_waits_only_at_logged_steps(recipe, ranks, raw_beton, tmp_path):
    run_forked(tmp_path, count_host_waits, tmp_path, [
        *("--config", str(CONFIGS / recipe), *RECIPES[recipe]),
        *("--data.root", str(raw_beton.parent), "--data.train", raw_beton.name),
        *("--data.val", raw_beton.name, "--data.batch_size", "4", "--data.num_workers", "1"),
        *("--data.eval_batch_size", str(20 // ranks)),
        *("--data.train_crop", "random_resized_crop", "--data.eval_crop", "center_crop"),
        *("--data.image_size", "16", "--data.resize_size", "16"),
        *("--model.backbone.num_classes", "4", "--trainer.accelerator", "cpu"),
        *("--trainer.devices", str(ranks), "--trainer.max_epochs", "100"),
        *("--trainer.max_steps", "26", "--trainer.log_every_n_steps", str(LOGGED_EVERY)),
        *("--trainer.logger.save_dir", str(tmp_path)),
    ], ranks=ranks)  # fmt: skip
    counts = json.loads((tmp_path / "waits.json").read_text())
    steps = {int(step): count for step, count in counts["training"].items()}
    assert sorted(steps) == list(range(1, 27))
    assert {step for step, count in steps.items() if count} == {10, 20}
    # The metrics and reports of a validation are read once, after its last batch.
    *batches, _ = (counts["validation"][key] for key in sorted(counts["validation"], key=int))
    assert len(batches) == 5
    assert max(batches) <= 1


def test_the_waits_are_seen():
    values = torch.arange(3.0)
    with HostWaits() as seen:
        values[0].item()
        values[values > 1]
        bool(values.any())
        values[torch.tensor([0])] + 1
    assert seen.count == 3
