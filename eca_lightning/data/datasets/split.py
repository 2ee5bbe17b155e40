"""Split labeled files at random, stratified by class, with equal files in one split."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np

from eca_lightning.data.ffcv.sidecar import checksum
from eca_lightning.data.folder.files import LabeledFiles
from eca_lightning.utils.checks import printable, require
from eca_lightning.utils.reports import in_threads

TRAIN = "train"


def split_files(
    files: LabeledFiles, fractions: Mapping[str, float], seed: int
) -> dict[str, LabeledFiles]:
    """Divide files into ``train`` and other splits.

    A split gets its fraction of the files, rounded up, and of each class its proportion, the
    largest remainders rounded up, as with scikit-learn's ``train_test_split(stratify=...)``; but of
    a class with as many different files as there are splits at least one. All files of a class with
    fewer are for training. Files of equal content are in one split.

    Args:
        files: The files.
        fractions: The fraction of each split other than ``train``.
        seed: Seed of the choice, at least 0.

    Raises:
        ValueError: If the fractions leave nothing for training, or a split has no files.
    """
    require(seed >= 0, "seed", "at least 0", seed)
    for name, fraction in fractions.items():
        require(0 < fraction < 1, f"{name}_fraction", "above 0 and below 1", fraction)
    total = sum(map(Fraction, map(str, fractions.values())))
    require(total < 1, " + ".join(f"{name}_fraction" for name in fractions), "below 1", total)
    groups = _equal_files(files)
    distinct = Counter(label for group in groups for label in {files.labels[i] for i in group})
    split_of = _assign(files.labels, groups, distinct, fractions, seed)
    _report(files, groups, distinct, len(fractions) + 1)
    if empty := set(fractions) - set(split_of):
        raise ValueError(
            f"{'/'.join(sorted(empty))}_fraction: no class has enough different images for "
            f"{len(fractions) + 1} splits: add images, or leave it out"
        )
    return {
        split: LabeledFiles(
            files.class_names,
            [path for path, s in zip(files.paths, split_of, strict=True) if s == split],
            [label for label, s in zip(files.labels, split_of, strict=True) if s == split],
        )
        for split in (TRAIN, *fractions)
    }


def _assign(
    labels: Sequence[int],
    groups: Sequence[Sequence[int]],
    distinct: Mapping[int, int],
    fractions: Mapping[str, float],
    seed: int,
) -> list[str]:
    """Choose the split of each file."""
    counts = Counter(labels)
    left = {split: _quotas(counts, fraction) for split, fraction in fractions.items()}
    for label, count in distinct.items():
        enough = count > len(fractions)
        spare = counts[label] - 1  # one for training
        for quotas in left.values():
            quotas[label] = min(max(quotas[label], 1), spare) if enough else 0
            spare -= quotas[label]
    split_of = [TRAIN] * len(labels)
    members = [Counter(labels[index] for index in group) for group in groups]
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    for number in order:
        for split, quotas in left.items():
            if all(quotas[label] >= count for label, count in members[number].items()):
                quotas.subtract(members[number])
                for index in groups[number]:
                    split_of[index] = split
                break
    _fill(split_of, groups, members, order, distinct, fractions)
    return split_of


def _quotas(counts: Counter[int], fraction: float) -> Counter[int]:
    """Apportion a fraction of all files to the classes, by largest remainders."""
    exact = Fraction(str(fraction))
    total = ceil(exact * counts.total())
    shares = {label: Fraction(total * count, counts.total()) for label, count in counts.items()}
    quotas = Counter({label: int(share) for label, share in shares.items()})
    by_remainder = sorted(shares, key=lambda label: (int(shares[label]) - shares[label], label))
    quotas.update(by_remainder[: total - quotas.total()])
    return quotas


def _fill(
    split_of: list[str],
    groups: Sequence[Sequence[int]],
    members: Sequence[Counter[int]],
    order: Sequence[int],
    distinct: Mapping[int, int],
    fractions: Mapping[str, float],
) -> None:
    """Give each split a group of a class whose groups were all too large for its share."""
    for label, count in distinct.items():
        own = [number for number in order if members[number].keys() == {label}]
        own.sort(key=lambda number: len(groups[number]))
        for split in fractions if count > len(fractions) else ():
            taken = {split_of[index] for number in own for index in groups[number]}
            in_train = [number for number in own if split_of[groups[number][0]] == TRAIN]
            if split not in taken and len(in_train) > 1:
                for index in groups[in_train[0]]:
                    split_of[index] = split


def _equal_files(files: LabeledFiles) -> list[list[int]]:
    """Group the indices of files of equal content; most have a group of their own."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(files.paths):
        by_size[_size(path)].append(index)
    alike = [index for group in by_size.values() if len(group) > 1 for index in group]
    title = "Comparing files of equal size"
    content = dict(
        zip(alike, in_threads(lambda i: _content(files.paths[i]), alike, 16, title), strict=True)
    )
    groups: dict[str, list[int]] = defaultdict(list)
    for index in range(len(files.paths)):
        groups[content.get(index) or f"file {index}"].append(index)
    return list(groups.values())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it says what is wrong
        return -1


def _content(path: Path) -> str:
    try:
        return checksum(path)
    except OSError:
        return ""


def _report(
    files: LabeledFiles, groups: Sequence[Sequence[int]], distinct: Mapping[int, int], splits: int
) -> None:
    """Print what differs from a plain split."""
    if again := sum(len(group) - 1 for group in groups):
        print(f"{again:,} files are equal to others: equal files are in one split")
    mixed = [group for group in groups if len({files.labels[index] for index in group}) > 1]
    for group in mixed[:3]:
        first = group[0]
        other = next(i for i in group if files.labels[i] != files.labels[first])
        print(f"warning: one image in two classes: {_named(files, first)}, {_named(files, other)}")
    if len(mixed) > 3:
        print(f"warning: {len(mixed) - 3:,} more images are in several classes")
    for label, name in enumerate(files.class_names):
        if distinct[label] < splits:
            print(
                f"warning: class '{printable(name)}' has {distinct[label]} different image(s), too "
                f"few for {splits} splits: all are for training"
            )


def _named(files: LabeledFiles, index: int) -> str:
    return printable(str(files.paths[index]))
