"""Figures of validation and test, as one of some ranks.

The network of seed 0 is scored on ``FOLDER/images`` and, with FFCV, ``FOLDER/images.beton``; the
figures are left in ``FOLDER/RANKS.json``. What ``FOLDER/*.txt`` and the .beton hold is predicted to
``FOLDER/RANKS/MODULE/SOURCE/predictions.csv``. Two ranks also train an epoch and leave
``FOLDER/*.ckpt``, which one rank scores again.
"""

import json

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_only

from eca_lightning import FFCVDataModule, ImageClassifier, ImageFolderDataModule, PredictionWriter
from eca_lightning.backbones import BackboneConfig


def make_trainer(ranks, **options):
    return Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def score_and_train(folder, ranks):
    """Score, and train, with each data module."""
    modules = {"folder": (ImageFolderDataModule, folder / "images")}
    if (folder / "images.beton").exists():
        modules["ffcv"] = FFCVDataModule, folder / "images.beton"
    figures = {}
    for name, (module, path) in modules.items():
        seed_everything(0, verbose=False)
        model = ImageClassifier(BackboneConfig("resnet20", "eca", num_classes=7))
        options = {"batch_size": 4, "image_size": 16, "resize_size": 18, "num_workers": 0}
        data = module(train=path, val=path, test=path, **options)
        figures[f"{name} validate"] = make_trainer(ranks).validate(model, data, verbose=False)
        figures[f"{name} test"] = make_trainer(ranks).test(model, data, verbose=False)
        sources = [*folder.glob("*.txt"), *([path] if name == "ffcv" else [])]
        for source in sorted(sources):
            place = folder / str(ranks) / name / source.stem
            predict = make_trainer(ranks, callbacks=[PredictionWriter()], default_root_dir=place)
            predict.predict(model, module(predict=source, **options), return_predictions=False)
        trained = folder / f"{name}.ckpt"
        if ranks == 2:
            run = make_trainer(ranks, max_epochs=1, num_sanity_val_steps=0)
            run.fit(model, data)
            run.save_checkpoint(trained)
            metrics = run.callback_metrics.items()
            figures[f"{name} trained"] = [{k: v.item() for k, v in metrics if k[:3] == "val"}]
        elif ranks == 1:
            figures[f"{name} trained"] = make_trainer(ranks).validate(
                model, data, ckpt_path=trained, verbose=False
            )
    if rank_zero_only.rank == 0:
        (folder / f"{ranks}.json").write_text(json.dumps(figures))
