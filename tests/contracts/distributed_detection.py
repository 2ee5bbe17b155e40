"""Figures of detectors' validation and test, as one of some ranks.

Networks of seed 1 are scored; the figures are left in ``FOLDER/RANKS.json`` and what is predicted
in ``FOLDER/RANKS_NETWORK.json``. Two ranks also train two epochs, in which one rank has batches
without objects, and leave ``FOLDER/*.ckpt``, which one rank scores again.
"""

import json

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_only
from tiny_scenes import MANY_RCNN, MANY_RETINANET, TinyScenes, tiny_detector
from torch import nn

from eca_lightning import DetectionWriter, ObjectDetector
from eca_lightning.backbones import BackboneConfig


class StridedScenes(TinyScenes):
    """Seven scenes, each on one rank alone: ranks have different numbers of batches."""

    def __init__(self):
        super().__init__(batch_size=1)
        del self.val_scenes[0]

    def _batches(self, scenes):
        return super()._batches(scenes[self.trainer.global_rank :: self.trainer.world_size])


def make_trainer(ranks, **options):
    return Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def score_and_train(folder, ranks):
    """Score, train and predict with boxes and masks, and with boxes alone."""
    figures = {}
    for name in ("mask_rcnn", "retinanet"):
        seed_everything(1, verbose=False)
        options = MANY_RCNN if name == "mask_rcnn" else MANY_RETINANET
        backbone = BackboneConfig("resnet18", "eca")  # of which some proposals are right
        detector = tiny_detector(name, options=options, backbone=backbone)
        model = ObjectDetector(detector, class_metrics=True)
        if name == "mask_rcnn":  # boxes stay where the proposals are, of which some are right
            nn.init.zeros_(model.detector.roi_heads.box_predictor.bbox_pred.weight)
        data = StridedScenes()
        figures[f"{name} validate"] = make_trainer(ranks).validate(model, data, verbose=False)
        figures[f"{name} test"] = make_trainer(ranks).test(model, data, verbose=False)
        writer = DetectionWriter(folder / f"{ranks}_{name}.json")
        make_trainer(ranks, callbacks=[writer]).predict(model, data, return_predictions=False)
        trained = folder / f"{name}.ckpt"
        if ranks == 2:
            run = make_trainer(ranks, max_epochs=2, num_sanity_val_steps=2)
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
