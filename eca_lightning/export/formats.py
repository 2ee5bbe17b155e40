"""The formats that networks are exported to: write a file, and run it."""

import io
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from eca_lightning.backbones import create_backbone
from eca_lightning.export.graphs import AXES

Runner = Callable[[Tensor], dict[str, Tensor]]
"""Maps images to the named outputs of a network."""

_LIBRARIES = {
    ".onnx": ("onnx", "onnxruntime", "onnxscript"),
    ".pt2": (),
    ".safetensors": ("safetensors",),
}


def check_format(path: Path) -> None:
    """Check that a format is known and its libraries are installed.

    Raises:
        ValueError: If the suffix of the path is none of .onnx, .pt2 and .safetensors.
        ImportError: If a library is missing.
    """
    if path.suffix not in _LIBRARIES:
        raise ValueError(
            f"{path}: unknown format: let it end in .onnx, .pt2 (torch.export) or .safetensors"
        )
    missing = [name for name in _LIBRARIES[path.suffix] if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{path.suffix} files need {', '.join(missing)}, which is missing: "
            "pip install 'eca-lightning[export]'"
        )


def write_graph(
    program: ExportedProgram,
    path: Path,
    outputs: Sequence[str],
    config: dict[str, Any],
    optimize: bool = True,
) -> None:
    """Write a graph with its weights as ONNX or as a `torch.export` program.

    The config is stored in JSON: in ONNX each value is a metadata property, in a program all are in
    the extra file config.json. ``optimize`` lets ONNX's exporter simplify the graph, which folds
    batch norms too.
    """
    if path.suffix == ".pt2":
        buffer = io.BytesIO()  # on a full disk the writer of files ends the process
        torch.export.save(program, buffer, extra_files={"config.json": json.dumps(config)})
        path.write_bytes(buffer.getbuffer())
        return
    exported: Any = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=outputs,
        dynamic_shapes={"images": AXES},
        optimize=optimize,
        verbose=False,
    )
    exported.model.metadata_props.update({key: json.dumps(v) for key, v in config.items()})
    exported.save(path, external_data=False)


def write_weights(network: nn.Module, path: Path, config: dict[str, Any]) -> None:
    """Write the weights of a network as .safetensors, and its config as .json of the same name."""
    from safetensors.torch import save

    # The format has no strides, so that channels_last weights must be made contiguous.
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    path.write_bytes(save(tensors))
    path.with_suffix(".json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def runner(path: Path) -> Runner:
    """Load an exported file, .onnx, .pt2 or .safetensors, to run it on the CPU."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return _run_onnx(path) if path.suffix == ".onnx" else _run_weights(path)


def _run_onnx(path: Path) -> Runner:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: it warns of each node that it cannot simplify
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        outputs = session.run(names, {"images": images.numpy()})
        return {name: torch.from_numpy(o) for name, o in zip(names, outputs, strict=True)}

    return run


def _run_weights(path: Path) -> Runner:
    from safetensors.torch import load_file

    config = json.loads(path.with_suffix(".json").read_text())
    network = create_backbone(**config["backbone"]).eval()
    network.load_state_dict(load_file(path))
    return lambda images: {"logits": network(images)}
