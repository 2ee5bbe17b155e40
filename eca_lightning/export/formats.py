"""The files that networks are exported to: written, and run without the network's own code."""

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
_CONFIG = "config.json"


def check_format(path: Path) -> None:
    """Refuse a file of an unknown format, or of one that needs a library which is missing.

    Raises:
        ValueError: If the suffix of the path is none of .onnx, .pt2 and .safetensors.
        ImportError: If a library is missing.
    """
    if path.suffix not in _LIBRARIES:
        raise ValueError(
            f"{path}: the name of the file tells its format: "
            "let it end in .onnx, .pt2 (torch.export) or .safetensors"
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
    """Write a graph as ONNX or as a program of `torch.export`, with its weights.

    Args:
        program: A graph with the one input ``images`` and a dict of outputs.
        path: The file, .onnx or .pt2.
        outputs: Names of the outputs, in their order.
        config: What is to be known of the network. In ONNX each value is a metadata property, as
            JSON; a program has all in an extra file, config.json.
        optimize: Let ONNX's exporter simplify the graph, which folds batch norms too.
    """
    if path.suffix == ".pt2":
        torch.export.save(program, path, extra_files={_CONFIG: json.dumps(config)})
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
    """Write the state dict of a network as .safetensors, and beside it a .json.

    Args:
        network: The network, not folded.
        path: The .safetensors.
        config: The content of the .json; its ``backbone`` is what `create_backbone` is given.
    """
    from safetensors.torch import save_file

    # The format has no strides: channels_last weights are stored in the order of their axes.
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def runner(path: Path) -> Runner:
    """Load an exported file so that it can be run, on the CPU.

    Args:
        path: The .onnx, .pt2 or .safetensors.
    """
    load = {".onnx": _run_onnx, ".pt2": _run_program, ".safetensors": _run_weights}[path.suffix]
    return load(path)


def _run_onnx(path: Path) -> Runner:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: it warns of each node that it does not simplify
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        outputs = session.run(names, {"images": images.numpy()})
        return {name: torch.from_numpy(o) for name, o in zip(names, outputs, strict=True)}

    return run


def _run_program(path: Path) -> Runner:
    return torch.export.load(path).module()


def _run_weights(path: Path) -> Runner:
    from safetensors.torch import load_file

    config = json.loads(path.with_suffix(".json").read_text())
    network = create_backbone(**config["backbone"]).eval()
    network.load_state_dict(load_file(path))
    return lambda images: {"logits": network(images)}
