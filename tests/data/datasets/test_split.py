"""Stratified splits, against scikit-learn's, and equal files."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from eca_lightning.data.datasets.split import split_files
from eca_lightning.data.folder.files import LabeledFiles


@pytest.fixture
def files_of(tmp_path):
    """Write files: of each class a list of contents."""

    def write(contents):
        names, paths, labels = sorted(contents), [], []
        for label, name in enumerate(names):
            for number, content in enumerate(contents[name]):
                path = tmp_path / f"{name}_{number}.jpg"
                path.write_bytes(content)
                paths.append(path)
                labels.append(label)
        return LabeledFiles(names, paths, labels)

    return write


def different(*counts):
    return {f"{k}": [f"{k} {n}".encode() for n in range(count)] for k, count in enumerate(counts)}


def counts_of(files):
    return np.bincount(files.labels, minlength=len(files.class_names)).tolist()


@pytest.mark.parametrize("fraction", [0.2, 0.25, 0.35, 0.07])
@pytest.mark.parametrize("counts", [(130, 57, 411, 23), (101, 203), (40, 60, 80)])
def test_counts_are_those_of_scikit_learn(files_of, counts, fraction):
    files = files_of(different(*counts))
    parts = split_files(files, {"val": fraction}, seed=3)
    train, val = train_test_split(
        files.labels, test_size=fraction, stratify=files.labels, random_state=0
    )
    assert counts_of(parts["val"]) == np.bincount(val).tolist()
    assert counts_of(parts["train"]) == np.bincount(train).tolist()


def test_each_file_is_in_one_split_and_the_seed_decides(files_of):
    files = files_of(different(30, 50))
    parts = split_files(files, {"val": 0.2, "test": 0.1}, seed=0)
    together = [path for part in parts.values() for path in part.paths]
    assert sorted(together) == sorted(files.paths)
    for part in parts.values():
        assert part.paths == sorted(part.paths, key=files.paths.index)
        label_of = dict(zip(files.paths, files.labels, strict=True))
        assert part.labels == [label_of[path] for path in part.paths]
    assert parts == split_files(files, {"val": 0.2, "test": 0.1}, seed=0)
    assert parts != split_files(files, {"val": 0.2, "test": 0.1}, seed=1)


def test_equal_files_are_never_in_two_splits(files_of, capsys):
    rng = np.random.default_rng(0)
    contents = {name: [b"%d" % n for n in rng.integers(0, 60, 90)] for name in "ab"}
    contents["b"] = [b"b" + content for content in contents["b"]]
    contents["b"][0] = contents["a"][0]  # one image in two classes
    files = files_of(contents)
    for seed in range(10):
        parts = split_files(files, {"val": 0.3, "test": 0.2}, seed)
        found = [{path.read_bytes() for path in part.paths} for part in parts.values()]
        assert sum(map(len, found)) == len(set.union(*found))
        assert counts_of(parts["val"]) == [27, 27]
        assert counts_of(parts["test"]) == [18, 18]
    said = capsys.readouterr().out
    assert "files are equal to others: equal files are in one split" in said
    assert "warning: one image in two classes: " in said


def test_few_images(files_of, capsys):
    same = [b"again"] * 5
    files = files_of({"a": [b"%d" % n for n in range(50)], "b": [b"x", b"y"], "c": same})
    parts = split_files(files, {"val": 0.1}, 0)
    assert counts_of(parts["val"]) == [5, 1, 0]  # of scikit-learn none of b
    said = capsys.readouterr().out
    assert "class 'c' has 1 different image(s), too few for 2 splits: all are for training" in said
    assert "'b'" not in said
    parts = split_files(files, {"val": 0.1, "test": 0.1}, 0)
    assert (counts_of(parts["val"]), counts_of(parts["test"])) == ([5, 0, 0], [5, 0, 0])
    pairs = files_of({"a": [b"%d" % n for n in range(8)], "b": [b"x", b"x", b"y", b"y"]})
    assert counts_of(split_files(pairs, {"val": 0.1}, 0)["val"]) == [1, 2]


def test_training_keeps_an_image_of_each_class(files_of):
    files = files_of(different(3, 9))
    parts = split_files(files, {"val": 0.6, "test": 0.3}, 0)
    assert min(counts_of(parts["train"])) == 1
    assert Counter(map(len, (part.paths for part in parts.values()))).total() == 3


@pytest.mark.parametrize("fractions", [{"val": 0.0}, {"val": 1.0}, {"test": -0.1}])
def test_impossible_fractions(fractions):
    (name,) = fractions
    with pytest.raises(ValueError, match=f"{name}_fraction must be above 0 and below 1"):
        split_files(LabeledFiles(["a"], [Path("a")], [0]), fractions, 0)
    with pytest.raises(ValueError, match=r"val_fraction \+ test_fraction must be below 1"):
        split_files(LabeledFiles(["a"], [Path("a")], [0]), {"val": 0.7, "test": 0.3}, 0)


def test_a_split_without_files_and_a_negative_seed(files_of):
    files = files_of(different(1, 2, 1))
    assert counts_of(split_files(files, {"val": 0.2}, 0)["val"]) == [0, 1, 0]
    with pytest.raises(ValueError, match=r"^test/val_fraction: no class has enough different"):
        split_files(files, {"val": 0.2, "test": 0.2}, 0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        split_files(files, {"val": 0.2}, -1)
