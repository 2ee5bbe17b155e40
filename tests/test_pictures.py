"""The pictures of the README show what the paper and the code say."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools" / "pictures.py"))


def test_the_parameters_shown_are_those_of_the_paper(tool):
    assert tool["added_parameters"]("eca") == 80
    texts = [axes.get_xlabel() for axes in tool["draw_eca"]().axes]
    assert sum("+80 parameters" in text for text in texts) == 1
    # Table 3: 26.77 - 24.37, in units of 2^20.
    assert sum("+2,514,944 parameters" in text for text in texts) == 1


def test_the_matrix_of_eca_is_a_band_of_one_kernel(tool):
    (image,) = tool["draw_eca"]().axes[1].images
    matrix = image.get_array()
    assert [set(matrix.diagonal(offset)) for offset in (-2, -1, 0, 1, 2)] == [
        *({0}, {1}, {2}, {3}, {0}),
    ]


def test_all_pictures_are_written(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(tool["main"].__globals__, "IMAGES", tmp_path)
    tool["main"]()
    committed = {path.name for path in (ROOT / "docs" / "images").glob("*.svg")}
    assert {path.name for path in tmp_path.iterdir()} == committed
