"""Files as Fashion-MNIST's, of shapes."""

import numpy as np


def clothes(labels):
    """Grayish images of 28 x 28 of round, broad and tall shapes, one for each label."""
    y, x = np.mgrid[:28, :28] - 13.5
    shapes = [np.hypot(x, y) < 12, (abs(x) < 13) & (abs(y) < 7), (abs(x) < 6) & (abs(y) < 13)]
    rng = np.random.default_rng(5)
    shades = rng.integers(90, 256, (len(labels), 28, 28))
    return np.stack([shapes[i % 3] * shades[i] for i in range(len(labels))]).astype(np.uint8)


def write_idx(folder, train_labels, val_labels):
    """Write its four files, an image for each label."""
    for prefix, labels in (("train", train_labels), ("t10k", val_labels)):
        for kind, array in (("images-idx3", clothes(labels)), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
