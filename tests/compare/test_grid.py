"""Mistakes in the file of a comparison are named."""

import pytest
from tiny_grid import write_grid

from eca_lightning.compare.grid import read_grid


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "missing.yaml"}, "config not found: .*missing.yaml"),
        ({"seed": [1]}, "must have the keys base, references, seeds, variants"),
        ({"seeds": [1, 1]}, "seeds must be distinct integers"),
        ({"seeds": []}, "seeds must be distinct integers"),
        ({"references": ["sse"]}, "references must be among none, k3"),
        ({"variants": {"a/b": {}}, "references": ["a/b"]}, "'a/b' must be of letters"),
        ({"variants": {"none": None}}, "'none' must be a map of options"),
    ],
)
def test_a_wrong_grid_is_named_with_its_key(tmp_path, changes, message):
    grid = write_grid(tmp_path, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_grid(grid)


def test_a_file_that_is_no_yaml(tmp_path):
    (tmp_path / "grid.yaml").write_text("base: [")
    with pytest.raises(ValueError, match=r"grid\.yaml is not a YAML file"):
        read_grid(tmp_path / "grid.yaml")
