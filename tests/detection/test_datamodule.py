"""The data module of object detection, under Lightning and alone."""

import logging
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

pytest.importorskip("pycocotools")

from tiny_coco import make_coco, write_json

from eca_lightning import CocoDataModule

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A folder with train and val images, and the annotations of each."""
    root = tmp_path_factory.mktemp("coco")
    return root, {"train": make_coco(root / "train"), "val": make_coco(root / "val", 11, seed=1)}


@pytest.fixture
def root(content, tmp_path):
    """The same with COCO's names, for a test to spoil."""
    folder, parts = content
    for split, part in parts.items():
        shutil.copytree(folder / split, tmp_path / f"{split}2017")
        write_json(tmp_path / "annotations" / f"instances_{split}2017.json", part)
    return tmp_path


def make(root, **options):
    return CocoDataModule(root=root, **{"num_workers": 0, "seed": 3, **options})


def changed(root, split, change):
    """Change annotations that are there."""
    path = root / "annotations" / f"instances_{split}2017.json"
    part = yaml.safe_load(path.read_text())
    change(part)
    write_json(path, part)


def ids(batches):
    return [[int(target["image_id"]) for target in targets] for _, targets in batches]


class Recorder(LightningModule):
    """Keeps the ids and the pixels' sums of what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": []}

    def _keep(self, split, batch):
        weights = [(i * torch.arange(i.shape[-1])).sum().item() for i in batch[0]]
        self.seen[split].append([ids([batch])[0], weights])

    def training_step(self, batch, index):
        self._keep("train", batch)
        return self.weight * 1.0

    def validation_step(self, batch, index):
        self._keep("val", batch)

    def test_step(self, batch, index):
        self._keep("test", batch)

    def predict_step(self, batch, index):
        return ids([batch])[0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**quiet, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, r"data\.num_workers must be at least 0"),
        ({"seed": -1}, r"data\.seed must be at least 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CocoDataModule(**options)


def test_the_defaults_are_cocos_layout(root):
    module = make(root)
    module.setup("fit")
    assert (module.class_names, module.category_ids) == (["car", "cat", "brush"], [3, 17, 90])
    assert module.num_classes == 3
    written = yaml.safe_load((CONFIGS / "coco.yaml").read_text())["init_args"]
    defaults = CocoDataModule(root=Path("data/coco"))
    assert CocoDataModule(**_as_paths(written)).paths == defaults.paths
    assert CocoDataModule(**_as_paths(written)).annotation_files == defaults.annotation_files


def _as_paths(options):
    return {k: Path(v) if isinstance(v, str) else v for k, v in options.items()}


def test_training_and_validation_see_what_they_should(root, content):
    module, model = make(root, batch_size=2, eval_batch_size=3), Recorder()
    trainer(max_epochs=2).fit(model, module)
    parts = content[1]
    usable = {
        a["image_id"]
        for a in parts["train"]["annotations"]
        if not a["iscrowd"] and a["bbox"][3] > 0
    }
    steps = len(usable) // 2
    for epoch in range(2):
        seen = [i for batch, _ in model.seen["train"][epoch * steps :][:steps] for i in batch]
        assert len(seen) == len(set(seen)) == 2 * steps
        assert set(seen) <= usable
    everything = sorted(image["id"] for image in parts["val"]["images"])
    batches = [batch for batch, _ in model.seen["val"]]
    assert batches[:4] == batches[4:] == [everything[i : i + 3] for i in range(0, 11, 3)]


def test_what_is_left_out_is_told_once(root, caplog):
    with caplog.at_level(logging.INFO):
        module = make(root)
        module.setup("fit")
        module.train_dataloader()
        module.train_dataloader()
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert told == ["6 of 22 training images have no box to learn from and are left out"]


def test_batches_are_of_one_orientation_unless_asked_otherwise(root):
    def mixed(**options):
        loader = make(root, batch_size=3, **options).train_dataloader()
        kinds = [{image.shape[1] > image.shape[2] for image in images} for images, _ in loader]
        return sum(len(kind) > 1 for kind in kinds)

    assert mixed() <= 1 < mixed(group_by_aspect_ratio=False)


def test_only_training_is_flipped_and_only_if_asked(root):
    assert make(root).train_dataloader().dataset.flip_seed is not None
    assert make(root, flip=False).train_dataloader().dataset.flip_seed is None
    assert make(root).val_dataloader().dataset.flip_seed is None


def test_masks_are_there_if_asked_for(root):
    for masks in (False, True):
        _, targets = next(iter(make(root, masks=masks).train_dataloader()))
        assert all(("masks" in target) == masks for target in targets)


def test_the_seed_is_that_of_the_run_unless_given(root, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    run, same, other = (ids(make(root, seed=s).train_dataloader()) for s in (None, 7, 8))
    assert run == same
    assert run != other


def test_a_resumed_run_goes_on_with_the_same_batches(root, tmp_path):
    whole = Recorder()
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", save_top_k=-1, every_n_train_steps=3)
    options = {"max_epochs": 3, "limit_val_batches": 0}
    trainer(callbacks=[keep], enable_checkpointing=True, **options).fit(whole, make(root))
    checkpoints = list((tmp_path / "kept").glob("*.ckpt"))
    assert len(checkpoints) == 8  # of 24 steps in epochs of 8
    for path in checkpoints:
        resumed = Recorder()
        trainer(**options).fit(resumed, make(root), ckpt_path=path, weights_only=True)
        assert resumed.seen["train"] == whole.seen["train"][int(path.stem[5:]) :]


def test_overfitting_takes_the_same_batches_in_each_epoch(root):
    model = Recorder()
    trainer(max_epochs=2, overfit_batches=3).fit(model, make(root, flip=False))
    assert model.seen["train"][:3] == model.seen["train"][3:]


def test_each_rank_has_its_part(root, monkeypatch):
    whole = ids(make(root, batch_size=4).train_dataloader())
    parts = []
    for rank in range(2):
        module = make(root, batch_size=2)
        module.trainer = trainer()
        monkeypatch.setattr(type(module.trainer), "world_size", 2)
        monkeypatch.setattr(type(module.trainer), "global_rank", rank)
        parts.append(ids(module.train_dataloader()))
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_prediction_numbers_the_images_of_a_folder(root):
    module = CocoDataModule(predict=root / "val2017", eval_batch_size=4, num_workers=0)
    run, model = trainer(), Recorder()
    predicted = run.predict(model, module)
    assert [i for batch in predicted for i in batch] == list(range(11))
    assert run.predict_dataloaders.dataset.paths == sorted((root / "val2017").iterdir())
    assert module.class_names is None
    assert module.category_ids is None
    with pytest.raises(ValueError, match="the classes are unknown"):
        _ = module.num_classes


def test_classes_are_known_without_the_images(root):
    shutil.rmtree(root / "val2017")
    assert make(root, predict=root).class_names == ["car", "cat", "brush"]


def test_tests_read_their_own_images(root):
    own = {"test": Path("val2017"), "test_annotations": "annotations/instances_val2017.json"}
    model = Recorder()
    trainer().test(model, make(root, **own), verbose=False)
    assert len(model.seen["test"]) == 11


def test_setup_names_what_is_not_given(root):
    for stage, split in (("fit", "train"), ("validate", "val"), ("predict", "predict")):
        with pytest.raises(ValueError, match=rf"data\.{split} is not set: give its path"):
            make(root, **{split: None}).setup(stage)
    with pytest.raises(ValueError, match=r"data\.val_annotations is not set"):
        make(root, val_annotations=None).setup("fit")
    make(root, val=None).setup("fit")
    assert make(root, val=None).val_dataloader() == []


def test_setup_names_what_is_not_there(root):
    (root / "val2017" / "00005.png").unlink()
    for stage in ("fit", "validate"):
        with pytest.raises(ValueError, match=r"data\.val: .*00005\.png, image 5 of .* not exist; "):
            make(root).setup(stage)
    with pytest.raises(FileNotFoundError, match=r"data\.val: .*gone does not exist"):
        make(root, val=Path("gone")).setup("fit")
    with pytest.raises(NotADirectoryError, match=r"data\.val: .*00008.png is a file"):
        make(root, val=Path("val2017/00008.png")).setup("fit")
    (root / "annotations" / "instances_val2017.json").unlink()
    message = r"data\.val_annotations: .*instances_val2017\.json does not exist"
    with pytest.raises(FileNotFoundError, match=message):
        make(root).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"data\.predict: .*gone does not exist"):
        make(root, predict=root / "gone").setup("predict")


def test_setup_names_what_is_wrong(root):
    changed(root, "train", lambda part: part["annotations"][3].update(id=4, category_id=5))
    message = r"data\.train_annotations: .*train2017\.json: annotation 4 is of the unknown category"
    with pytest.raises(ValueError, match=message):
        make(root).setup("fit")
    make(root).setup("validate")


def test_training_and_validation_must_have_the_same_categories(root, content):
    original = deepcopy(content[1]["val"]["categories"])
    for change in ({"name": "bus"}, {"id": 4}):
        renamed = [{**original[0], **change}, *original[1:]]
        changed(root, "val", lambda part, now=renamed: part.update(categories=now, annotations=[]))
        with pytest.raises(ValueError, match=r"different categories: .*(90 brush|90 bus|4 brush)"):
            make(root).setup("fit")


def test_too_few_images_for_a_batch(root):
    with pytest.raises(
        ValueError, match=r"16 training samples do not fill .* lower data\.batch_size"
    ):
        make(root, batch_size=17).train_dataloader()
