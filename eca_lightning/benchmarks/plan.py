"""The command ``benchmark plan``: what nodes need so that their GPUs never wait, on paper.

A GPU waits for images if they are not read or not decoded in time, and for the other GPUs if
gradients are not exchanged while the backward pass is still at work.
"""

import math

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

LINEAR_LIMIT = 8192
"""Images a step up to which ResNet-50 lost no accuracy on ImageNet by the linear rule with a
warm-up of five epochs (Goyal et al., arXiv 1706.02677)."""


def cores_needed(
    images_per_s: float, core_images_per_s: float, processes: int, headroom: float = 1.25
) -> int:
    """CPU cores that decode fast enough, and one for each training process.

    Args:
        images_per_s: Images a second that all processes take.
        core_images_per_s: Images a second that a core decodes.
        processes: Training processes, one for each GPU.
        headroom: Decoding power to have, as a multiple of what is needed on average.
    """
    return math.ceil(headroom * images_per_s / core_images_per_s) + processes


def gradient_traffic(
    gpus: int, parameters: float, batch_size: int, gpu_images_per_s: float
) -> float:
    """Bits a second that each node must send, and receive, for gradients not to be waited for.

    They are exchanged while the backward pass is at work (Li et al., arXiv 2006.15704), which is
    two thirds of a step. A ring of n GPUs passes each node once and carries 2 (n - 1) / n times the
    gradients (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009), in float32 whatever the
    precision of the run.

    Args:
        gpus: GPUs of the run.
        parameters: Parameters of the network.
        batch_size: Images of a step on each GPU.
        gpu_images_per_s: Images a second that a GPU trains on.
    """
    bits = 32 * parameters * 2 * (gpus - 1) / gpus
    return bits / (2 / 3 * batch_size / gpu_images_per_s)


def linear_rule(images_per_step: int, learning_rate: float, reference: int) -> tuple[float, str]:
    """Scale a learning rate as `eca_lightning.training.optim.scale_learning_rate` does.

    Args:
        images_per_step: Images of a step on all GPUs together.
        learning_rate: Learning rate for ``reference`` images a step.
        reference: See there.

    Returns:
        The learning rate, and what it needs besides: nothing up to the reference, a warm-up up to
        `LINEAR_LIMIT`; beyond, the rule is past what was shown.
    """
    advice = "needs a warm-up" if images_per_step <= LINEAR_LIMIT else "beyond the rule"
    return (
        learning_rate * images_per_step / reference,
        "as it is" if images_per_step <= reference else advice,
    )


def benchmark_plan(
    gpu_images_per_s: float,
    core_images_per_s: float,
    gpus_per_node: int = 8,
    gpus: tuple[int, ...] = (1, 8, 16, 32, 64, 128, 256, 512),
    batch_size: int = 32,
    learning_rate: float = 0.1,
    lr_base_batch_size: int = 256,
    dataset_gb: float = 69.0,
    dataset_images: int = 1_281_167,
    parameters: float = 25.6e6,
    process_gb: float = 5.0,
    headroom: float = 1.25,
) -> None:
    """Work out what nodes need so that their GPUs never wait, and the learning rates of large runs.

    Enter what was measured: for a GPU, train/images_per_s of a run whose train/data_wait is near 0,
    or 'benchmark model'; for a core, the column 'per core' of 'benchmark loader'. What it prints is
    Markdown.

    The second table says what the network of a node must carry each way for gradients alone, and
    what storage that all nodes share must read if the data set is in no node's memory. Learning
    rates follow the linear rule, as runs with model.lr_base_batch_size do by themselves: up to
    lr_base_batch_size as they are, then with a rise over the first five epochs, and for ResNet-50
    on ImageNet not beyond 8,192 images a step.

    Args:
        gpu_images_per_s: Images a second that a GPU trains on.
        core_images_per_s: Images a second that a CPU core decodes.
        gpus_per_node: GPUs of a node.
        gpus: Sizes of runs to tell about, in GPUs.
        batch_size: Images of a step on each GPU.
        learning_rate: Learning rate for lr_base_batch_size images a step.
        lr_base_batch_size: See learning_rate; the defaults are the paper's.
        dataset_gb: Size of the training .beton in 10^9 bytes. Default: ImageNet at 54 KB an image.
        dataset_images: Images in it.
        parameters: Parameters of the network. Default: ResNet-50's.
        process_gb: Memory of a training process in 10^9 bytes.
        headroom: Decoding power to have, as a multiple of what is needed on average.

    Raises:
        ValueError: If a number is not positive.
    """
    given = dict(locals())
    for name, value in given.items():
        if (min(value, default=0) if isinstance(value, tuple) else value) <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    image_gb = dataset_gb / dataset_images
    node_images_per_s = gpus_per_node * gpu_images_per_s
    cores = cores_needed(node_images_per_s, core_images_per_s, gpus_per_node, headroom)
    node = Table("a node", f"{gpus_per_node} GPUs", box=MARKDOWN)
    node.columns[1].justify = "right"
    node.add_row("images/s", f"{node_images_per_s:,.0f}")
    node.add_row("CPU cores", f"{cores}")
    node.add_row("memory", f"{dataset_gb + process_gb * gpus_per_node:,.0f} GB")
    node.add_row("reading, if memory is less", f"{image_gb * node_images_per_s:.2f} GB/s")
    runs = Table("GPUs", "nodes", "images a step", "learning rate", "linear rule", box=MARKDOWN)
    for name in ("epoch, s", "network, Gbit/s", "shared storage, GB/s"):
        runs.add_column(name)
    for column in runs.columns:
        column.justify, column.no_wrap = "right", True
    for count in gpus:
        scaled, advice = linear_rule(count * batch_size, learning_rate, lr_base_batch_size)
        traffic = gradient_traffic(count, parameters, batch_size, gpu_images_per_s)
        runs.add_row(
            f"{count}",
            f"{math.ceil(count / gpus_per_node)}",
            f"{count * batch_size:,}",
            f"{scaled:.4g}",
            advice,
            f"{dataset_images / (count * gpu_images_per_s):,.0f}",
            f"{traffic / 1e9:,.0f}" if count > gpus_per_node else "",
            f"{image_gb * count * gpu_images_per_s:.1f}",
        )
    console = Console(width=120)  # whatever the terminal's: a row of Markdown is one line
    console.print(node, runs)
