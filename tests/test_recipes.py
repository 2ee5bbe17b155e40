"""The compositions of docs/recipes.md, against the tables that their values are taken from."""

import csv
import re
import shlex
import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from thorough import one_in

from eca_lightning import ProgressiveResizing, WarmupThenDecay
from eca_lightning.classification.mixing import Mixing
from eca_lightning.lightning_cli import EcaLightningCLI, lightning_cli
from eca_lightning.paper.tables import ablation_models, detectors, imagenet_models, released_models
from eca_lightning.training.run_name import run_name

ROOT = Path(__file__).parents[1]
IMAGES = 1_281_167
PAGE = (ROOT / "docs" / "recipes.md").read_text()
ROWS = re.findall(r"^\| `(--config [^`]*)` \| (.*?) \| (.*?) ?\|$", PAGE, re.MULTILINE)
"""Composition, source and printed figures."""
COMPOSITIONS = [composition for composition, _, _ in ROWS]

with (Path(__file__).parent / "ffcv_schedules.csv").open() as file:
    SCHEDULES = list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


@cache
def parser():
    with pytest.MonkeyPatch.context() as patch:
        for step in ("instantiate_classes", "after_instantiate_classes"):
            patch.setattr(EcaLightningCLI, step, lambda self: None)
        return lightning_cli(["--config", "configs/quickstart.yaml"], run=False).parser


@cache
def resolved(composition):
    """All options of a run."""
    return parser().parse_args(shlex.split(composition)).as_dict()


def parts(composition):
    """The options of the model, the data and the trainer."""
    options = resolved(composition)
    return options["model"]["init_args"], options["data"]["init_args"], options["trainer"]


def callback(trainer, name):
    """The options of a callback; None without it."""
    found = [c["init_args"] for c in trainer["callbacks"] or () if c["class_path"].endswith(name)]
    return found[0] if found else None


@pytest.mark.slow
@pytest.mark.parametrize("composition", one_in(6, COMPOSITIONS))
def test_composition(composition):
    """It trains for some epochs by a schedule, and detectors read the masks that they learn."""
    options = resolved(composition)
    model, data = options["model"]["init_args"], options["data"]["init_args"]
    assert options["trainer"]["max_epochs"] > 0
    assert model["lr_scheduler"] is not None
    assert options["reports"]
    if "detector" in model:
        assert data["masks"] == (model["detector"]["name"] == "mask_rcnn")
        assert options["checkpoint"]["monitor"] == "val/box_AP"
        quickstart = "quickstart" in composition
        assert model["detector"]["num_classes"] == (10 if quickstart else 80)
        assert model["lr_base_batch_size"] == (None if quickstart else 8)


BUILT = [
    *(c for c in COMPOSITIONS if "ffcv40" in c),
    "--config configs/imagenet/resnet50_v2.yaml",
    "--config configs/imagenet/mobilenet_v2_paper.yaml --model.backbone.attention eca",
    *(c for c in COMPOSITIONS if "quickstart" in c or "finetune" in c),
    *(c for c in COMPOSITIONS if "weights/eca_resnet101.pth" in c),
]


@pytest.mark.slow
@pytest.mark.parametrize("composition", one_in(3, BUILT))
def test_composition_is_built(composition):
    assert composition in COMPOSITIONS
    with torch.device("meta"):  # the networks' structure matters here, not their weights
        run = [*shlex.split(composition), "--trainer.accelerator", "cpu"]
        cli = lightning_cli(run, run=False)
    assert cli.trainer.logger.name == run_name(shlex.split(composition))
    assert cli.trainer.callbacks
    deepcopy(cli.model)  # as averaging the weights does


def test_each_composition_has_a_name_of_its_own():
    assert len({run_name(shlex.split(c)) for c in COMPOSITIONS}) == len(COMPOSITIONS)


@pytest.mark.parametrize(
    "model",
    [*imagenet_models(), *ablation_models(), *released_models()],
    ids=lambda model: f"{model.table}-{model.name}",
)
def test_the_papers_networks_have_their_row(model):
    source = f"ECA-Net, {model.table}".replace("released", "released checkpoint")
    ((composition, printed),) = [
        (composition, printed)
        for composition, where, printed in ROWS
        if where == source
        and resolved(composition)["model"]["init_args"]["backbone"] == vars(model.config)
    ]
    assert "_paper.yaml" in composition
    assert printed.split(" / ")[0] == model.top1


def test_the_papers_detectors_have_their_row():
    rows = {}
    for composition, source, printed in ROWS:
        if source.startswith("ECA-Net") and "detectors/" in composition:
            model, _, _ = parts(composition)
            detector, weights = model["detector"], Path(model["backbone_weights"]).stem
            name = f"{detector['backbone']['attention']}_{detector['backbone']['name']}"
            assert weights == name.removeprefix("None_")
            rows[f"{detector['name']} {weights}"] = printed
            assert (detector["norm"], detector["trainable_layers"]) == ("frozen", 3)
            assert (detector["min_size"], detector["max_size"]) == ([800], 1333)
    # Table 5 quotes Mask R-CNN with non-local and GC blocks from other papers and protocols.
    assert rows.keys() == {m.name for m in detectors() if not re.search("(nl|gc)_", m.name)}
    assert rows["mask_rcnn eca_resnet101"] == "box AP 41.3, mask AP 37.4"


def rate(composition, epoch, batch):
    """The learning rate at an epoch, as a fraction of the optimizer's."""
    model, _, trainer = parts(composition)
    steps, epochs = IMAGES // batch, trainer["max_epochs"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    options = model["lr_scheduler"]["init_args"]
    options = options | {"total_steps": steps * epochs, "steps_per_epoch": steps}
    return WarmupThenDecay(optimizer, **options).factor(round(epoch * steps))


def optimizer_of(model):
    options = model["optimizer"]["init_args"]
    return {name: options.get(name) for name in ("lr", "momentum", "weight_decay")}


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: f"{row['backbone']}_{row['epochs']}")
def test_ffcv(row):
    recipe = f"--config configs/imagenet/{row['backbone']}_ffcv.yaml"
    run = f"{recipe} --config configs/schedules/ffcv{row['epochs']}.yaml"
    (printed,) = [printed for composition, _, printed in ROWS if composition == run]
    assert printed.startswith(f"{100 * float(row['top1']):.1f} in {row['minutes']} min on ")
    epochs, batch = int(row["epochs"]), int(row["yaml_batch_size"])
    model, data, trainer = parts(run)
    assert model["backbone"]["name"] == row["backbone"]
    assert model["backbone"]["blur_pool"]
    assert model["flip_tta"]
    assert model["no_decay_norm_bias"]
    assert model["label_smoothing"] == float(row["label_smoothing"])
    wanted = {"lr": float(row["lr"]), "momentum": 0.9, "weight_decay": float(row["weight_decay"])}
    assert optimizer_of(model) == wanted
    assert data["batch_size"] == batch
    assert model["lr_base_batch_size"] == batch * int(row["gpus"])
    assert data["image_size"] / data["resize_size"] == pytest.approx(224 / 256, abs=0.002)
    assert trainer["max_epochs"] == epochs
    for epoch in np.linspace(0, epochs, 33):
        expected = np.interp(epoch, [0, 2, epochs], [1e-4, 1, 0])
        assert rate(run, epoch, batch * int(row["gpus"])) == pytest.approx(expected, abs=2e-3)

    resizing = ProgressiveResizing(**callback(trainer, "ProgressiveResizing"))
    ramp = [int(row[key]) for key in ("start_ramp", "end_ramp")]
    sizes = [int(row[key]) for key in ("min_res", "max_res")]
    expected = [int(np.round(np.interp(e, ramp, sizes) / 32)) * 32 for e in range(epochs)]
    assert [resizing.size(epoch) for epoch in range(epochs)] == expected


WITHOUT_ATTENTION = [
    c for c in COMPOSITIONS if re.search(r"ffcv\d|_v2.yaml|_rsb_", c) and "attention" not in c
]


@pytest.mark.parametrize("attention", ["se", "eca"])
@pytest.mark.parametrize("run", one_in(4, [r for r in WITHOUT_ATTENTION if "mobilenet" not in r]))
def test_attention_is_an_option_and_changes_nothing_else(run, attention):
    with_attention = deepcopy(resolved(f"{run} --model.backbone.attention {attention}"))
    backbone = with_attention["model"]["init_args"]["backbone"]
    assert backbone["attention"] == attention
    backbone["attention"] = None
    assert with_attention == resolved(run)


def test_torchvision_v2():
    run = "--config configs/imagenet/resnet50_v2.yaml"
    model, data, trainer = parts(run)
    assert optimizer_of(model)["lr"] * 128 * 8 / model["lr_base_batch_size"] == 0.5
    assert rate(run, 0, 1024) == pytest.approx(0.01)
    assert [rate(run, e, 1024) for e in (5, 302.5, 600)] == pytest.approx([1, 0.5, 0], abs=1e-3)
    assert Mixing(**model["mixing"]) == Mixing(mixup=0.2, cutmix=1.0)
    assert (data["image_size"], data["resize_size"], data["aug_repeats"]) == (224, 232, 4)
    resizing = ProgressiveResizing(**callback(trainer, "ProgressiveResizing"))
    assert {resizing.size(epoch) for epoch in range(600)} == {176}
    average = callback(trainer, "ExponentialMovingAverage")
    per_update = (1 - 0.99998) * 128 * 8 * average["every_n_steps"] / trainer["max_epochs"]
    assert average["decay"] == pytest.approx(1 - per_update, abs=1e-6)


@pytest.mark.parametrize(
    ("procedure", "epochs", "lr", "size", "repeats", "depth"),
    [("a2", 300, 5e-3, 224, 3, 0.05), ("a3", 100, 8e-3, 160, 1, 0.0)],
)
def test_resnet_strikes_back(procedure, epochs, lr, size, repeats, depth):
    """Table 2 of arXiv 2110.00476."""
    run = f"--config configs/imagenet/resnet50_rsb_{procedure}.yaml"
    model, data, trainer = parts(run)
    assert trainer["max_epochs"] == epochs
    assert model["optimizer"]["class_path"] == "timm.optim.Lamb"
    optimizer = model["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (lr, 0.02)
    assert model["lr_base_batch_size"] == 8 * data["batch_size"] == 2048
    assert rate(run, 0, 2048) * lr == pytest.approx(1e-4)
    assert model["loss"] == "binary_cross_entropy"
    assert Mixing(**model["mixing"]) == Mixing(mixup=0.1, cutmix=1.0)
    assert data["aug_repeats"] == repeats
    assert model["backbone"]["stochastic_depth"] == depth
    resizing = callback(trainer, "ProgressiveResizing") or {"min_size": data["image_size"]}
    assert resizing["min_size"] == size
    assert data["image_size"] / data["resize_size"] == pytest.approx(0.95, abs=0.002)


def test_the_schedule_of_the_docs_goes_behind_a_recipe(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "extending.md").read_text()
    (path,) = re.findall(r"`(configs/\S+\.yaml)`:", page)
    (schedule,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (composition,) = re.findall(rf"`(--config \S+ --config {path})`", page)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / path).write_text(schedule)
    monkeypatch.chdir(tmp_path)
    model, _, trainer = parts(composition)
    assert trainer["max_epochs"] == 100
    assert model["lr_scheduler"]["init_args"]["warmup_epochs"] == 5
    assert f"`runs/{run_name(composition.split())}`" in page
