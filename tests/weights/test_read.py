"""Files of weights that are damaged, of something else, or hold code."""

import os

import pytest
import torch
from safetensors.torch import save_file

from eca_lightning import create_backbone
from eca_lightning.weights.read import read_weights


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = create_backbone("resnet20").state_dict()
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    content = path.read_bytes()
    for length in (5, 1000, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"weights{suffix} is damaged .*: download it again"):
            read_weights(path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page and no file of weights: download"),
        (b"", "is empty: download it again"),
        (b"PK\x03\x04 a zip of something", "is damaged"),
    ],
)
def test_files_of_something_else(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(3)], "holds a list"),
        ({"state_dict": {}}, "holds no weights"),
        ({"state_dict": {}, "weights": torch.zeros(3)}, "holds no weights"),
        (
            {
                "state_dict": {"network.a": torch.zeros(3)},
                "hyper_parameters": {"detector": {"name": "retinanet"}},
            },
            "holds a detector.*ObjectDetector.load_from_checkpoint",
        ),
    ],
)
def test_files_of_torch_without_a_network(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth {message}"):
        read_weights(tmp_path / "other.pth")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights not found: .*gone\.pth"):
        read_weights(tmp_path / "gone.pth")


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    sprung = tmp_path / "sprung"
    content = {"state_dict": {"conv1.weight": torch.zeros(3)}, "args": _Trap(sprung)}
    path = tmp_path / "trap.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"trap\.pth holds more than tensors.*posix\.mkdir"):
        read_weights(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert sprung.exists()
