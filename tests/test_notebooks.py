"""The notebooks run from end to end, here on little data, and are kept without their outputs."""

import ast
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from forked import run_forked
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from lightning.pytorch import Trainer
from tiny_clothes import write_idx

from eca_lightning import ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.data.datasets.torchvision import write_fashion_mnist
from eca_lightning.detection.demo.write_fashion_coco import write_fashion_coco

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = {
    path.stem: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("*.ipynb"))
}
FIGURES = {
    "01_what_eca_computes": 3,
    "02_train_and_watch": 5,
    "03_complexity_and_speed": 3,
    "04_attention_weights": 5,
    "05_detection": 4,
}


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook):
    """The cell whose values may be replaced, as a list of one or none."""
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Small data sets and a checkpoint."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "source").mkdir()
    labels = np.arange(40, dtype=np.uint8) % 10
    write_idx(folder / "source", labels, labels[:20])
    write_fashion_mnist(folder / "mnist", folder / "source", num_workers=1)
    write_fashion_coco(folder / "coco", folder / "source", 8, 8, image_size=160)
    trainer = Trainer(accelerator="cpu", logger=False)
    backbone = BackboneConfig("shallow.basic_blocks", "eca", num_classes=10, stem="small")
    trainer.strategy.connect(ImageClassifier(backbone))
    trainer.save_checkpoint(folder / "best.ckpt")
    return folder


def reduced(name, work):
    """What replaces the parameters of a notebook."""
    runs, often = str(work / "runs"), "--trainer.log_every_n_steps=1"
    return {
        "01_what_eca_computes": {},
        "02_train_and_watch": {
            "data": str(work / "mnist"),
            "runs": runs,
            "options": [
                often,
                "--data.batch_size=20",
                "--model.backbone.name=shallow.basic_blocks",
                "--model.backbone.stem=small",
                "--trainer.val_check_interval=1.0",
            ],
        },
        "03_complexity_and_speed": {
            "backbones": ["resnet50"],
            "models": ["torchvision:resnet18", "eca_resnet18"],
            "image_size": 32,
            "batch_size": 2,
            "repeats": 1,
            "runs": runs,
        },
        "04_attention_weights": {
            "data": str(work / "mnist"),
            "checkpoint": str(work / "best.ckpt"),
        },
        "05_detection": {
            "data": str(work / "coco"),
            "runs": runs,
            "batches": 1,
            "options": [
                often,
                "--data.num_workers=0",
                "--model.detector.backbone.name=shallow.basic_blocks",
                "--model.detector.fpn_channels=16",
                "--model.detector.min_size=[64]",
            ],
        },
    }[name]


class Shell(InteractiveShell):
    """What a kernel executes cells with."""

    def enable_gui(self, gui=None):
        """Draw into the output."""


def execute(cells):
    """Run cells as a kernel does, and print how many figures they draw."""
    import shallow  # noqa: F401  # the backbone of the checkpoint

    shell = Shell.instance()
    figures = 0
    os.chdir(FOLDER)
    for cell in cells:
        with capture_output() as captured:
            result = shell.run_cell(cell)
        print(captured.stdout, captured.stderr, file=sys.stderr)
        result.raise_error()
        data = [output.data for output in captured.outputs]
        data.append(shell.display_formatter.format(result.result)[0])
        figures += sum("image/png" in output for output in data)
    print(figures)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_and_draws(name, work, tmp_path):
    notebook = nbformat.from_dict(NOTEBOOKS[name])
    values = reduced(name, work)
    for cell in parameters(notebook):
        given = [target.id for node in ast.parse(cell.source).body for target in targets(node)]
        assert given == list(values)
        cell.source = "\n".join(f"{key} = {value!r}" for key, value in values.items())
    printed = run_forked(tmp_path, execute, [cell.source for cell in code(notebook)])
    assert int(printed) == FIGURES[name]


def targets(assignment):
    """The names to which a line of the parameters assigns."""
    [target] = assignment.targets
    return target.elts if isinstance(target, ast.Tuple) else [target]


@pytest.mark.parametrize("notebook", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_is_kept_without_outputs(notebook):
    """In JupyterLab: Edit, Clear Outputs of All Cells, and save."""
    nbformat.validate(notebook)
    for cell in code(notebook):
        assert not cell.outputs, cell.id
        assert cell.execution_count is None, cell.id


@pytest.mark.parametrize("notebook", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_links_lead_somewhere(notebook):
    for cell in notebook.cells:
        for link in re.findall(r"\]\(([\w./]+)\)", cell.source):
            assert (FOLDER / link).exists(), link


def test_all_are_there():
    assert FIGURES.keys() <= NOTEBOOKS.keys()
