"""docs/troubleshooting.md explains messages that the program can still say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OF_OTHERS = {
    *("eca-lightning: command not found", "KeyError", "CUDA out of memory", "Bus error"),
    *("The NVIDIA driver on your system is too old", "No space left on device"),
    *("DistStoreError: wait timeout", "MASTER_ADDR", "Exception ignored in"),
    *("DataLoader worker is killed", "unhandled system error"),
}
"""Messages of the shell, the driver, torch and NCCL."""
VALUE = r"\.\.\.|-?\d+|model\.optimizer|class_names|train\.beton|SGD|AdamW|WandbLogger|MLFlowLogger"
"""What stands for itself in an example, and for another value in the code."""


def explained():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    for paragraph in re.findall(r"^\*\*(.*?)\*\*", text, re.MULTILINE | re.DOTALL):
        for message in re.findall(r"`([^`]+)`", paragraph):
            yield " ".join(message.split())


@pytest.fixture(scope="module")
def said():
    """All texts in the package's code, with a gap for each value."""
    texts = []
    for path in (ROOT / "eca_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            values = [part.value if isinstance(part, ast.Constant) else "\0" for part in parts]
            texts.append("".join(value for value in values if isinstance(value, str)))
    return "\n".join(texts)


@pytest.mark.parametrize("message", list(explained()))
def test_a_message_that_is_explained_is_said(said, message):
    parts = [part.strip() for part in re.split(VALUE, message)]
    own = [part for part in parts if len(part) > 2 and part not in OF_OTHERS]
    assert own or OF_OTHERS & {message, *parts}
    assert [part for part in own if pieces(said, part) > 2] == []  # one text, or a value within it


def pieces(said, part):
    """Count the texts that a part of a message is made of, the longest first."""
    words, count = part.split(), 0
    while words:
        lengths = range(len(words), 0, -1)
        words = words[next((n for n in lengths if " ".join(words[:n]) in said), 1) :]
        count += 1
    return count
