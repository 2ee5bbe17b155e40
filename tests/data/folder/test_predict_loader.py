"""Batches of image files, some of which cannot be read."""

import shutil

import pytest
import torch

from eca_lightning import CocoDataModule, ImageFolderDataModule
from eca_lightning.data.folder.files import find_images, first_image_size
from eca_lightning.data.folder.loader import FileDataset, collate
from eca_lightning.data.folder.predict_loader import PredictionLoader
from eca_lightning.data.transforms.crop import Crop
from eca_lightning.detection.dataset import NumberedImages, collate_images

VIEW = Crop("center_crop", 16, 16, resize_size=16)
BROKEN = (2, 7, 8, 9)


@pytest.fixture(scope="module")
def files(image_folder, tmp_path_factory):
    """Twenty-one files, of which four are no images and one of these is not there."""
    folder = shutil.copytree(image_folder, tmp_path_factory.mktemp("broken") / "images")
    paths = find_images(folder)
    for index in BROKEN:
        paths[index].write_bytes(b"no image")
    paths[7].unlink()
    return paths


def loader(paths, batch_size=3, **options):
    dataset = FileDataset(paths, None, VIEW)
    return PredictionLoader(dataset, batch_size=batch_size, collate_fn=collate, **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_files_are_left_out_and_known(files, workers):
    whole = FileDataset(files, None, VIEW)
    batches = loader(files, num_workers=workers)
    for _ in range(2):  # it can be gone through again
        seen = []
        for number, (images, labels) in enumerate(batches):
            indices = batches.batch_indices(number).tolist()
            assert len(images) == len(labels) == len(indices) > 0
            for image, index in zip(images, indices, strict=True):
                assert torch.equal(image.permute(1, 2, 0), whole[index, 0, None][0])
            seen += indices
        assert seen == [i for i in range(21) if i not in BROKEN]
        assert tuple(batches.unreadable) == BROKEN
        for index, reason in batches.unreadable.items():
            assert f"cannot read the image {files[index]}: " in reason
        assert "No such file" in batches.unreadable[7]
    batches.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_they_are_an_error_if_asked_for(files, workers):
    batches = loader(files, on_unreadable="raise", num_workers=workers)
    with pytest.raises(ValueError, match=rf"^cannot read the image {files[2]}: [^\n]*$"):
        list(batches)
    batches.close()


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 4), (4, 3), (30, 4), (2, 100)])
def test_ranks_share_out_the_files(files, ranks, batch_size):
    seen, unreadable, sizes = [], {}, []
    for rank in range(ranks):
        batches = loader(files, batch_size, rank=rank, world_size=ranks)
        sizes.append([len(labels) for _, labels in batches])
        seen += [i for n in range(len(sizes[-1])) for i in batches.batch_indices(n).tolist()]
        unreadable |= batches.unreadable
    assert seen == [i for i in range(21) if i not in BROKEN]
    assert tuple(unreadable) == BROKEN
    assert max(map(len, sizes)) <= -(-21 // min(ranks * batch_size, 21))


def test_one_image_starts_one_worker(files):
    one = loader(files[:1], num_workers=8)
    assert one._batches.num_workers == 1
    assert [len(labels) for _, labels in one] == [1]
    one.close()


def test_nothing_can_be_read(files):
    batches = loader([files[2], files[7]])
    assert list(batches) == []
    assert list(batches.unreadable) == [0, 1]


def test_detectors_images_keep_their_sizes(files):
    dataset = NumberedImages(files)
    batches = PredictionLoader(dataset, batch_size=4, collate_fn=collate_images)
    images, ids = [], []
    for batch, targets in batches:
        images += batch
        ids += [int(target["image_id"]) for target in targets]
    assert ids == [i for i in range(21) if i not in BROKEN]
    assert tuple(batches.unreadable) == BROKEN
    assert all(
        torch.equal(image, dataset[i, 0, None][0]) for image, i in zip(images, ids, strict=True)
    )


@pytest.mark.parametrize("module", [ImageFolderDataModule, CocoDataModule])
def test_data_modules_ask_for_it(files, module):
    options = {"predict": files[0].parents[1], "num_workers": 0}
    kept = module(**options).predict_dataloader()
    assert sum(len(batch[0]) for batch in kept) == 21 - 4
    assert len(kept.unreadable) == 4 - 1  # a folder does not list what is not there
    with pytest.raises(ValueError, match="cannot read the image"):
        list(module(**options, on_unreadable="raise").predict_dataloader())


def test_a_full_view_takes_the_size_of_the_first_that_can_be_read(files):
    paths = [files[2], files[3], files[4]]
    (files[0].parents[1] / "list.txt").write_text("\n".join(map(str, paths)))
    module = ImageFolderDataModule(
        predict=files[0].parents[1] / "list.txt", num_workers=0, eval_crop="full"
    )
    batches = module.predict_dataloader()
    ((images, _),) = batches
    assert images.shape == (1, 3, *first_image_size(files[3:]))
    assert "cannot read the image" in batches.unreadable[0]
    assert "'full' needs images of one size" in batches.unreadable[2]
