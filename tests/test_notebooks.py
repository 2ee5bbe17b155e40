"""The notebooks run from end to end, here on little data, and are kept without their outputs."""

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from lightning.pytorch import Trainer
from nbclient import NotebookClient
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
    labels = np.arange(100, dtype=np.uint8) % 10
    write_idx(folder / "source", labels, labels[:50])
    write_fashion_mnist(folder / "mnist", folder / "source", num_workers=1)
    write_fashion_coco(folder / "coco", folder / "source", 16, 8, image_size=160)
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(ImageClassifier(BackboneConfig("resnet20", "eca", num_classes=10)))
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
            "options": [often, "--data.batch_size=20"],
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
            "batches": 2,
            "options": [often, "--data.num_workers=0"],
        },
    }[name]


@pytest.fixture(scope="module")
def client():
    """One kernel for all notebooks, as imports take most of the time."""
    here = {"metadata": {"path": str(FOLDER)}}
    empty = nbformat.v4.new_notebook()
    client = NotebookClient(empty, timeout=280, kernel_name="python3", resources=here)
    with client.setup_kernel():
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_and_draws(name, work, client):
    notebook = nbformat.from_dict(NOTEBOOKS[name])
    values = reduced(name, work)
    for cell in parameters(notebook):
        given = [target.id for node in ast.parse(cell.source).body for target in targets(node)]
        assert given == list(values)
        cell.source = "\n".join(f"{key} = {value!r}" for key, value in values.items())
    # Each starts without the names of the one before.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client.nb = notebook
    client.execute(cleanup_kc=False)
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[name]


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
