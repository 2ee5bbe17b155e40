"""docs/finetune.md, typed on a small set of photographs, to the served model."""

import csv
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny_photos import COUNTS, write_photos

from eca_lightning import create_backbone
from eca_lightning.cli import main

pytest.importorskip("ffcv")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "finetune.md").read_text()
SMALLER = {
    "name: resnet50": "name: resnet20",
    "image_size: 224": "image_size: 32",
    "resize_size: 256": "resize_size: 36",
    "batch_size: 32": "num_workers: 1\n    batch_size: 32",
    "max_epochs: 30": "max_epochs: 2\n  enable_progress_bar: false",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.usefixtures("as_a_program")
def test_from_a_folder_to_a_served_model(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "configs", "configs")
    config = Path("configs/finetune.yaml")
    text = config.read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    write_photos(Path("photos"))
    write_photos(Path("new_photos"), dict.fromkeys(COUNTS, 2), seed=1)
    torch.save(create_backbone("resnet20", num_classes=10).state_dict(), "weights.pth")

    five = blocks("bash")[0].splitlines()
    assert len(five) == 5
    for command in five:
        words = shlex.split(command.replace("torchvision:resnet50", "weights.pth"))
        assert words[0] == "eca-lightning"
        main(words[1:])
    said = capsys.readouterr().out
    assert "fewer than 20 images in train.beton of astronaut (13)" in said
    assert re.search(r"calibration error 0\.\d+ before, 0\.\d+ after", said)

    with Path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(COUNTS)
    assert not any(row["error"] for row in rows)
    serve = next(block for block in blocks("python") if "onnxruntime" in block)
    monkeypatch.setattr(sys, "argv", ["serve.py", "model.onnx", *(row["image"] for row in rows)])
    exec(serve, {})
    served = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    expected = [[row["image"], row[f"class_{k}"]] for row in rows for k in range(1, 6)]
    assert [line[:2] for line in served] == expected
    shutil.copy("runs/finetune/version_0/checkpoints/best.ckpt", "best.ckpt")
    shutil.copy(rows[0]["image"], "photo.jpg")
    names = {}
    exec(next(block for block in blocks("python") if "load_classifier" in block), names)
    order = names["probabilities"][0].argsort(descending=True)[:5]
    assert [names["model"].class_names[label] for label in order] == [e[1] for e in expected[:5]]
    main(["runs"])
    assert "finished" in capsys.readouterr().out
