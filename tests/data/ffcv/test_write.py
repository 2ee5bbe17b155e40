"""Writing a .beton: what comes back, and what stays behind when it fails."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ffcv")

from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.sidecar import Encoding, read_sidecar
from eca_lightning.data.ffcv.write import write_beton

NAMES = list("abcd")


def stored(info):
    """The bytes of each image."""
    content = np.memmap(info.path, np.uint8, "r")
    for image, size in zip(info.images, info.sizes, strict=True):
        yield content[image["data_ptr"] :][: int(size)]


class Failing:
    """The arrays, with an accident at some indices."""

    def __init__(self, arrays, accident, indices):
        self.arrays, self.accident, self.indices = arrays, accident, indices

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        if index in self.indices:
            self.accident()
        return self.arrays[index]


def unreadable():
    raise OSError("the disk is on fire")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_raw_pixels_come_back_exactly(arrays, tmp_path, num_workers):
    path = tmp_path / "new" / "x.beton"
    info = write_beton(
        arrays,
        path,
        class_names=NAMES,
        source="arrays",
        encoding=Encoding("raw"),
        num_workers=num_workers,
    )
    for pixels, image in zip(stored(info), arrays.images, strict=True):
        assert np.array_equal(pixels.reshape(image.shape), image)
    assert np.array_equal(info.labels, arrays.labels)
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.beton", "x.beton.json"]


def test_jpegs_come_back_closely(photo_beton, image_folder):
    info = check_beton(photo_beton)
    originals = sorted(image_folder.rglob("*.jpg"))
    for data, path in zip(stored(info), originals, strict=True):
        (photo_beton.parent / "one.jpg").write_bytes(data.tobytes())
        with Image.open(photo_beton.parent / "one.jpg") as image, Image.open(path) as original:
            difference = np.asarray(image).astype(float) - np.asarray(original)
        assert abs(difference).mean() < 2.5


def test_max_resolution_shrinks_the_longer_side(arrays, tmp_path):
    info = write_beton(
        arrays,
        tmp_path / "x.beton",
        class_names=NAMES,
        source="arrays",
        encoding=Encoding(max_resolution=12),
    )
    assert info.resolutions == ((10, 12), (10, 12))


def test_sidecar_says_what_the_file_holds(raw_beton):
    sidecar = read_sidecar(raw_beton)
    assert json.loads(Path(f"{raw_beton}.json").read_text())["format"] == 1
    assert sidecar.samples == 101
    assert sidecar.class_names == NAMES
    assert sidecar.class_counts == [26, 25, 25, 25]
    assert sidecar.source == "arrays"
    assert sidecar.encoding == Encoding("raw")
    assert sidecar.skipped == []
    assert sidecar.bytes == raw_beton.stat().st_size
    assert sidecar.sha256 == hashlib.sha256(raw_beton.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("num_workers", "accident", "error", "message"),
    [
        (1, unreadable, ValueError, r"^file 40: the disk is on fire$"),
        (2, killed, RuntimeError, r"x\.beton died with exit code -9 \(killed"),
        (1, sys.exit, RuntimeError, "died with exit code"),
    ],
)
def test_a_failure_raises_soon_and_leaves_what_was_there(
    arrays, tmp_path, num_workers, accident, error, message
):
    path = tmp_path / "x.beton"
    write_beton(arrays, path, class_names=NAMES, source="before")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    start = time.monotonic()
    with pytest.raises(error, match=message):
        write_beton(
            Failing(arrays, accident, [40]),
            path,
            class_names=NAMES,
            source="after",
            num_workers=num_workers,
            names=[f"file {i}" for i in range(101)],
            overwrite=True,
        )
    assert time.monotonic() - start < 20
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert not multiprocessing.active_children()


def test_skipped_samples_leave_no_gap(arrays, tmp_path):
    bad = [0, 40, 41, 100]
    info = write_beton(
        Failing(arrays, unreadable, bad),
        tmp_path / "x.beton",
        class_names=NAMES,
        source="arrays",
        encoding=Encoding("raw"),
        num_workers=2,
        on_error="skip",
    )
    good = [i for i in range(101) if i not in bad]
    for pixels, i in zip(stored(info), good, strict=True):
        assert np.array_equal(pixels.reshape(20, 24, 3), arrays.images[i])
    assert info.labels.tolist() == arrays.labels[good].tolist()
    assert info.sidecar.skipped == [f"sample {i}: the disk is on fire" for i in bad]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2000, 2000, 3), np.uint8), "too large for a page; lower max_resolution"),
        (np.zeros((20, 20), np.uint8), "."),
        (np.zeros((20, 20, 3), np.float32), "uint8"),
    ],
)
def test_what_cannot_be_encoded_is_named(arrays, tmp_path, image, message):
    samples = type(arrays)([image], [0])
    with pytest.raises(ValueError, match="sample 0: .*" + message):
        write_beton(
            samples,
            tmp_path / "x.beton",
            class_names=NAMES,
            source="arrays",
            encoding=Encoding("raw"),
        )
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write(arrays, tmp_path):
    def write(samples, **options):
        write_beton(samples, tmp_path / "x.beton", source="arrays", **options)

    with pytest.raises(ValueError, match="no samples"):
        write(type(arrays)([], []), class_names=NAMES)
    with pytest.raises(ValueError, match="on_error must be abort or skip, got 'ignore'"):
        write(arrays, class_names=NAMES, on_error="ignore")
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        write(arrays, class_names=NAMES, num_workers=0)
    with pytest.raises(ValueError, match="label 3 has no name"):
        write(arrays, class_names=["a", "b", "c"])
    everything = Failing(arrays, unreadable, range(101))
    with pytest.raises(ValueError, match=r"no sample of x\.beton can be read"):
        write(everything, class_names=NAMES, on_error="skip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_no_file_is_silently_replaced(arrays, tmp_path):
    path = tmp_path / "x.beton"
    options = {"class_names": NAMES, "source": "arrays", "encoding": Encoding("raw")}
    write_beton(arrays, path, **options)
    written = path.stat()
    write_beton(arrays, path, **options)
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    for change in (
        {"encoding": Encoding("jpg")},
        {"source": "elsewhere"},
        {"class_names": list("abxy")},
    ):
        with pytest.raises(FileExistsError, match=r"x\.beton exists.*--overwrite"):
            write_beton(arrays, path, **{**options, **change})
    for file, rest in ((path.with_name("x.beton.json"), b"{"), (path, path.read_bytes()[:1000])):
        file.write_bytes(rest)
        with pytest.raises(ValueError, match=r"x\.beton.*write it again with .*--overwrite true"):
            write_beton(arrays, path, **options)
        assert file.read_bytes() == rest
    changed = write_beton(arrays, path, overwrite=True, **{**options, "encoding": Encoding("jpg")})
    assert changed.modes["jpg"] == 101


def test_an_interrupt_stops_the_processes_and_leaves_nothing(arrays, tmp_path):
    def interrupt(*_):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)  # as a terminal does it: to all processes
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    slow = Failing(arrays, lambda: time.sleep(30), range(101))
    try:
        with pytest.raises(KeyboardInterrupt):
            write_beton(slow, tmp_path / "x.beton", class_names=NAMES, source="", num_workers=2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert list(tmp_path.iterdir()) == []
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_one_cpu_is_enough(tmp_path):
    """numba's threads, which FFCV's import starts, once kept such a process from ending."""
    program = f"""if True:
        import os
        from pathlib import Path
        os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
        import numpy as np
        from eca_lightning.data.ffcv.write import write_beton
        black = [(np.zeros((8, 8, 3), np.uint8), 0)] * 4
        path = Path({str(tmp_path / "x.beton")!r})
        write_beton(black, path, class_names=["black"], source="", num_workers=1)
        """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert len(check_beton(tmp_path / "x.beton").sizes) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "png"}, "mode"),
        ({"quality": 0}, "quality"),
        ({"max_resolution": 0}, "max_resolution"),
    ],
)
def test_impossible_encodings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Encoding(**options)
