"""Weights by name, through the caches of the libraries and a stand-in for the Hub."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torchvision.models import ResNet18_Weights

from eca_lightning import create_backbone
from eca_lightning.weights.read import read_weights
from eca_lightning.weights.source import locate_weights

huggingface_hub = pytest.importorskip("huggingface_hub")
COMMIT = "0" * 40


def test_files_and_runs(tmp_path):
    for version in ("version_0", "version_1"):
        (tmp_path / version / "checkpoints").mkdir(parents=True)
        (tmp_path / version / "checkpoints" / "best.ckpt").touch()
    best = tmp_path / "version_1" / "checkpoints" / "best.ckpt"
    assert locate_weights(best) == best
    assert locate_weights(tmp_path / "version_1") == best
    assert locate_weights(tmp_path).name == "best.ckpt"
    with pytest.raises(FileNotFoundError, match="holds no run with a checkpoint"):
        locate_weights(best.parent)


def test_torchvisions_come_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(create_backbone("resnet18").state_dict(), file)
    for name in ("torchvision:resnet18", "torchvision:resnet18:IMAGENET1K_V1"):
        assert locate_weights(name) == file
    assert read_weights("torchvision:resnet18").path == file


def test_without_a_network_it_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = ResNet18_Weights.DEFAULT.url
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", url.replace("https", "none"), False)
    with pytest.raises(
        FileNotFoundError, match=r"cannot be downloaded .*: fetch .*\.pth"
    ) as raised:
        locate_weights("torchvision:resnet18")
    assert f"put it to {tmp_path}/hub/checkpoints/resnet18-" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.pth", "weights not found: gone.pth. Give a file"),
        ("other:resnet18", "weights not found: other:resnet18"),
        ("torchvision:resnet7", "torchvision has no network 'resnet7'"),
        ("torchvision:resnet18:V9", "no weights 'V9' of resnet18, but IMAGENET1K_V1"),
        ("timm:resnet7", "timm has no weights 'resnet7'"),
        ("timm:resnet18.nonsense", "timm has no weights 'resnet18.nonsense'"),
        ("hf-hub:a b", "no name of the form OWNER/NAME"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        locate_weights(name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the Hub, with an empty cache: repositories, each with its files' contents."""
    repositories = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            owner, name, *rest = self.path.removeprefix("/api/models").strip("/").split("/")
            files = repositories.get(f"{owner}/{name}")
            if files is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            listed = [{"rfilename": file} for file in files]
            about = {
                "revision": {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": listed},
                "tree": [
                    {"type": "file", "path": file, "size": len(content), "oid": COMMIT}
                    for file, content in files.items()
                ],
            }
            is_file = rest[0] == "resolve"
            content = files[rest[-1]] if is_file else json.dumps(about[rest[0]]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield repositories
    server.shutdown()
    server.server_close()


def test_models_of_the_hub_are_downloaded_once(hub, tmp_path):
    from safetensors.torch import save

    network = create_backbone("resnet20", "eca", num_classes=3)
    config = {"backbone": {"name": "resnet20", "attention": "eca", "num_classes": 3}}
    hub["me/net"] = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(network.state_dict()),
        "pytorch_model.bin": b"not needed",
    }
    weights = read_weights("hf-hub:me/net")
    assert weights.backbone.attention == "eca"
    assert torch.equal(weights.tensors["conv1.weight"], network.conv1.weight)
    assert not list(tmp_path.rglob("pytorch_model.bin"))
    del hub["me/net"]
    with pytest.raises(FileNotFoundError, match="hf-hub:me/other cannot be downloaded"):
        locate_weights("hf-hub:me/other")


def test_a_model_that_was_downloaded_needs_no_network(hub, monkeypatch):
    hub["me/net"] = {"model.safetensors": b"some bytes"}
    path = locate_weights("hf-hub:me/net")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert locate_weights("hf-hub:me/net") == path
    with pytest.raises(FileNotFoundError, match=r"run 'hf download me/other'"):
        locate_weights("hf-hub:me/other")


def test_a_repository_without_weights(hub):
    hub["me/text"] = {"README.md": b"nothing here"}
    with pytest.raises(FileNotFoundError, match="holds neither model"):
        locate_weights("hf-hub:me/text")
